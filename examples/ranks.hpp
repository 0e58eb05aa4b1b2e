#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <thread>

#include "settle/core/threads.hpp"
#include "settle/distributed/shards.hpp"
#include "settle/distributed/sums.hpp"

// The ranks that a program runs on. One source, and a program with MPI beside the one without, which knows torchrun's
// variables alone.
#ifdef EXAMPLE_MPI
#include "settle/distributed/mpi.hpp"
inline settle::distributed::Group program_ranks() { return settle::distributed::mpi_world(); }
#else
#include "settle/distributed/world.hpp"
inline settle::distributed::Group program_ranks() { return settle::distributed::world(); }
#endif

#ifdef EXAMPLE_CUDA
#include "settle/cuda/nccl.hpp"
/// Gives each process the GPU of its place on its machine. To be called before the device is used.
inline void use_local_device() { settle::cuda::use_local_device(settle::distributed::launch().local_rank); }
/// Connects the processes' GPUs; rank 0 says so, or why sums go another way.
inline void connect_devices(const settle::distributed::Group& processes) {
  if (processes.size() == 1) return;
  const std::string reason = settle::cuda::connect_devices(processes);
  if (processes.rank() > 0) return;
  if (reason.empty())
    std::printf("GPUs are connected by NCCL\n");
  else
    std::printf("GPUs are not connected by NCCL, sums go through the processor's memory: %s\n", reason.c_str());
}
#else
inline void use_local_device() {}
inline void connect_devices(const settle::distributed::Group&) {}
#endif

/// The threads of each process: those that it may use, and no more than its part of its machine's processors, which it
/// may share with others. As many on all, which is the fewest that one can have: bits depend on their number.
inline int threads_of_rank(const settle::distributed::Group& processes) {
  const int local = std::max(1, settle::distributed::launch().local_size);
  const int processors = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  double negative = -std::max(1, std::min(settle::ThreadPool::default_threads(), processors / local));
  settle::distributed::largest_over_ranks(std::span(&negative, 1), processes);
  return static_cast<int>(-negative);
}

/// Ends a process after run_program: after an error without waiting for the other ranks, which may never come.
inline int end_program(int code) {
#ifdef EXAMPLE_MPI
  if (code != 0 && code != 75 && settle::distributed::launch().by == settle::distributed::Launch::By::mpi)
    settle::distributed::leave(code);
#endif
#ifdef EXAMPLE_CUDA
  if (code != 0 && code != 75 && settle::distributed::launch().size > 1) {  // a GPU may wait for another for ever
    std::fflush(nullptr);
    std::_Exit(code);
  }
#endif
  return code;
}
