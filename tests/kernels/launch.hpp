#pragma once
#include <memory_resource>
#include <vector>

#include "settle/kernels/source.hpp"

// Where the tests of the kernels run them: in the emulator, or on a device.

/// Memory that both the tests and the kernels may use.
std::pmr::memory_resource& kernel_memory();

template <class T>
class KernelAllocator {
 public:
  using value_type = T;
  KernelAllocator() = default;
  template <class U>
  KernelAllocator(const KernelAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(kernel_memory().allocate(count * sizeof(T), 64)); }
  void deallocate(T* memory, std::size_t count) { kernel_memory().deallocate(memory, count * sizeof(T), 64); }
  friend bool operator==(const KernelAllocator&, const KernelAllocator&) { return true; }
};

template <class T>
using Values = std::vector<T, KernelAllocator<T>>;

/// Runs a kernel to its end; the arguments as cudaLaunchKernel takes them.
void launch(const settle::kernels::Kernel& kernel, const settle::kernels::Grid& grid, void** arguments);

#if defined(__SANITIZE_THREAD__)
inline constexpr bool thread_sanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool thread_sanitizer = true;
#else
inline constexpr bool thread_sanitizer = false;
#endif
#else
inline constexpr bool thread_sanitizer = false;
#endif
