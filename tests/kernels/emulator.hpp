#pragma once
// CUDA's words for the kernel texts on the CPU: each thread of a block is a std::thread, the blocks run one after
// another.
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

namespace emulator {

struct Position {
  unsigned x = 0, y = 0;
};

/// A kernel with its arguments as cudaLaunchKernel takes them: addresses of their values.
struct Function {
  const char* name;
  void (*call)(void** arguments);
};

/// Calls a kernel with copies of the arguments' bytes: the structures of the caller and of the kernel's text are
/// different types of the same layout.
template <auto kernel>
struct Call;
template <class... A, void (*kernel)(A...)>
struct Call<kernel> {
  static void call(void** arguments) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      std::tuple<A...> values;
      (std::memcpy(static_cast<void*>(&std::get<I>(values)), arguments[I], sizeof(A)), ...);
      std::apply(kernel, values);
    }
    (std::index_sequence_for<A...>());
  }
};

/// The generated kernel of that name, or null.
const Function* find(const char* name);

/// Runs a kernel over a grid of blocks.
void launch(const Function& function, Position grid, Position block, void** arguments);

inline thread_local Position thread_index, block_index;
inline Position block_size, grid_size;
inline std::barrier<>* block_barrier = nullptr;

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
inline void __syncthreads() { emulator::block_barrier->arrive_and_wait(); }

using std::abs, std::cos, std::erf, std::exp, std::expm1, std::log, std::log1p, std::pow, std::rint, std::sin,
    std::sqrt, std::tanh;
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
