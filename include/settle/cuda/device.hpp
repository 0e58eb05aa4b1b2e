#pragma once
#include <cstddef>
#include <cstdint>

#include "settle/core/tensor.hpp"
#include "settle/cuda/context.hpp"
#include "settle/kernels/move.hpp"
#include "settle/kernels/random.hpp"

namespace settle::inline v0_2 {

namespace cuda {

/// Starts a kernel with these arguments.
template <class... A>
void launch(const kernels::Kernel& kernel, const kernels::Grid& grid, A... arguments) {
  void* addresses[] = {&arguments...};
  Context::instance().launch(kernel, grid, addresses);
}

struct PageLocked;

/// One thread for each of `count` values.
inline kernels::Grid one_each(Index count) { return {kernels::groups_of(256, count), 1, 256, 1}; }

}  // namespace cuda

/// A CUDA device and its memory: `Tensor<float, Cuda>` lives there. Everything throws Error, with a sentence that says
/// what is missing, where there is no device.
struct Cuda {
  /// The processor's memory that the device copies from by itself (settle/cuda/staging.hpp).
  using Staging = cuda::PageLocked;

  static void* allocate(std::size_t bytes) { return cuda::Context::instance().allocate(bytes); }
  static void release(void* data, std::size_t) { cuda::Context::instance().release(data); }
  static void trim() { cuda::Context::instance().trim(); }
  static void guard(void*, std::size_t, std::size_t) {}

  template <class T>
  static void fill(T* data, std::int64_t count, T value) {
    static const kernels::Kernel kernel = kernels::fill<T>();
    cuda::launch(kernel, cuda::one_each(count), data, static_cast<std::uint64_t>(count), value);
  }

  template <class T>
  static void fill_uniform(T* data, std::int64_t count, double low, double high, Random& random) {
    static const kernels::Kernel kernel = kernels::random_uniform<T>();
    fill_random(kernel, 2, data, count, low, high, random);
  }
  template <class T>
  static void fill_normal(T* data, std::int64_t count, double mean, double deviation, Random& random) {
    static const kernels::Kernel kernel = kernels::random_normal<T>();
    fill_random(kernel, 4, data, count, mean, deviation, random);
  }

  static void copy(void* to, const void* from, std::size_t bytes) { cuda::Context::instance().copy(to, from, bytes); }
  static void upload(void* to, const void* from, std::size_t bytes) {
    cuda::Context::instance().upload(to, from, bytes);
  }
  static void download(void* to, const void* from, std::size_t bytes) {
    cuda::Context::instance().download(to, from, bytes);
  }

  static void synchronise() { cuda::Context::instance().synchronise(); }

 private:
  template <class T>
  static void fill_random(const kernels::Kernel& kernel, std::uint64_t words_each, T* data, std::int64_t count,
                          double a, double b, Random& random) {
    const auto n = static_cast<std::uint64_t>(count);
    cuda::launch(kernel, cuda::one_each(count), data, n, random.seed(), random.stream(), random.words(), a, b);
    random.skip(words_each * n);
  }
};

}  // namespace settle
