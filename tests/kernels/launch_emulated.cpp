#include "launch.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <memory_resource>
#include <vector>

#include "emulator.hpp"

#if defined(__SANITIZE_THREAD__)
#define SETTLE_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SETTLE_THREAD_SANITIZER 1
#endif
#endif

#ifdef SETTLE_THREAD_SANITIZER
// A race is this program's to count: one of the tests plants one.
std::atomic<int> races = 0;
extern "C" void __tsan_on_report(void*) { ++races; }
extern "C" const char* __tsan_default_options() { return "exitcode=0"; }
#endif

std::pmr::memory_resource& kernel_memory() { return *std::pmr::new_delete_resource(); }

void launch(const settle::kernels::Kernel& kernel, const settle::kernels::Grid& grid, void** arguments) {
  const emulator::Function* function = emulator::find(kernel.name.c_str());
  REQUIRE_MESSAGE(function, kernel.name);
#ifdef SETTLE_THREAD_SANITIZER
  const int before = races;
#endif
  emulator::launch(*function, {grid.blocks, grid.blocks_y}, {grid.threads, grid.threads_y}, arguments);
#ifdef SETTLE_THREAD_SANITIZER
  CHECK_MESSAGE(races == before, kernel.name);
#endif
}

#ifdef SETTLE_THREAD_SANITIZER
TEST_CASE("the thread sanitizer sees a planted race: a kernel that lacks one barrier") {
  const std::vector<float> x(64, 1);
  float y = 0;
  const float* in = x.data();
  float* out = &y;
  void* arguments[] = {&in, &out};
  const int before = races;
  for (int attempt = 0; attempt < 20 && races == before; ++attempt)
    emulator::launch(*emulator::find("race_float32"), {1, 1}, {64, 1}, arguments);
  CHECK(races > before);
}
#endif
