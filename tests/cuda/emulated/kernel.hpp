#pragma once

// What the emulated device and its kernels, which are compiled apart, share.
namespace emulated {

struct Position {
  unsigned x = 0, y = 0;
};

/// The variable `emulated_state` of a program: which thread runs, and what stops it at a barrier.
struct State {
  Position thread, block, block_size, grid_size;
  void (*barrier)() = nullptr;
};

}  // namespace emulated
