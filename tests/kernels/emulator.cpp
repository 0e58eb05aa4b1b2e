#include "emulator.hpp"

#include <thread>
#include <vector>

void emulator::launch(const Function& function, Position grid, Position block, void** arguments) {
  const unsigned threads = block.x * block.y;
  std::barrier<> barrier(static_cast<std::ptrdiff_t>(threads));
  block_barrier = &barrier, block_size = block, grid_size = grid;
  std::vector<std::thread> running;
  for (unsigned t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      thread_index = {t % block.x, t / block.x};
      for (unsigned b = 0; b < grid.x * grid.y; ++b) {
        block_index = {b % grid.x, b / grid.x};
        function.call(arguments);
        barrier.arrive_and_wait();  // the next block has the same shared memory
      }
    });
  for (std::thread& thread : running) thread.join();
}
