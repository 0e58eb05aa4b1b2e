#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "settle/core/large_blocks.hpp"
#include "settle/core/random.hpp"
#include "settle/core/sanitizer.hpp"

#ifdef SETTLE_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace settle::inline v0_2 {

/// The processor and its memory. Another device is another type with the same functions, which say what tensors need of
/// its memory; what the operations need of it is in its Backend. Sizes are in bytes, counts in elements; a device's own
/// pointers are not for the processor to read.
struct Cpu {
  /// The processor's memory that is best to copy to the device from: `to<Device>(to<typename Device::Staging>(x))`.
  using Staging = Cpu;

  /// A block of memory, aligned for any use.
  static void* allocate(std::size_t bytes) {
    return is_large(bytes) ? LargeBlocks::instance().allocate(bytes) : ::operator new(bytes, alignment);
  }
  static void release(void* data, std::size_t bytes) {
    if (is_large(bytes))
      LargeBlocks::instance().release(data, bytes);
    else
      ::operator delete(data, alignment);
  }

  /// Tells the address sanitizer that only the first `used` bytes of a block may be touched.
  static void guard([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes,
                    [[maybe_unused]] std::size_t used) {
#ifdef SETTLE_ADDRESS_SANITIZER
    ASAN_POISON_MEMORY_REGION(data, bytes);
    ASAN_UNPOISON_MEMORY_REGION(data, used);
#endif
  }

  template <class T>
  static void fill(T* data, std::int64_t count, T value) {
    std::fill_n(data, count, value);
  }

  /// Random values in row-major order: uniform in [low, high), normal of a mean and a standard deviation.
  template <class T>
  static void fill_uniform(T* data, std::int64_t count, double low, double high, Random& random) {
    std::generate_n(data, count, [&] { return static_cast<T>(random.uniform(low, high)); });
  }
  template <class T>
  static void fill_normal(T* data, std::int64_t count, double mean, double deviation, Random& random) {
    std::generate_n(data, count, [&] { return static_cast<T>(mean + deviation * random.normal()); });
  }

  /// Copies within the device, from the processor's memory to the device's, and back.
  static void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void upload(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void download(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

  /// Waits until all that was asked of the device is done.
  static void synchronise() {}

 private:
  static constexpr std::align_val_t alignment{64};

  static bool is_large([[maybe_unused]] std::size_t bytes) {
#ifdef SETTLE_ADDRESS_SANITIZER
    return false;  // operator new leaves room between blocks, which it watches
#else
    return bytes >= LargeBlocks::least;
#endif
  }
};

}  // namespace settle
