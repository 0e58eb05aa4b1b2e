#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "settle/core/round_up.hpp"
#include "settle/core/shape.hpp"

// Kernels are texts in CUDA C++, compiled for a device while the program runs. The same texts compile as C++ under an
// emulator of threads and barriers, so they include nothing, use no feature of a particular compiler, and take the size
// of a block from blockDim.
namespace settle::inline v0_2::kernels {

/// What the compilation of a kernel must keep to on every architecture.
struct Bounds {
  int registers = 64;  ///< of a thread
  int shared = 0;      ///< bytes of a block
};

/// A kernel's text.
struct Kernel {
  std::string name;  ///< of the function; names the text, too: equal names have equal texts
  std::string text;  ///< what follows the prelude
  Bounds bounds;
  std::string program = {};  ///< the registry's kernels of one program are compiled together; a nameless one is alone
};

/// The sizes of a launch.
struct Grid {
  unsigned blocks = 1, blocks_y = 1;
  unsigned threads = 256, threads_y = 1;  ///< in a block
};

/// What every kernel's text may use.
inline constexpr const char* prelude = R"cuda(
typedef unsigned int uint32;
typedef unsigned long long uint64;

template <class T> __device__ inline T exp_minus_abs(T x) { return exp(-abs(x)); }
template <class T> __device__ inline T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ inline T maximum(T a, T b) { return b < a || a != a ? a : b; }

struct Sum {
  template <class T> static __device__ inline T of(T a, T b) { return a + b; }
};
struct Maximum {
  template <class T> static __device__ inline T of(T a, T b) { return maximum(a, b); }
};

// All values of a row of threads (x) combined in the order of a tree; every thread of the block takes part.
template <class Combine, class T> __device__ inline T combine_row(T value, T* shared) {
  T* const row = shared + threadIdx.y * blockDim.x;
  __syncthreads();  // what was read from `shared` before has been read
  row[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) row[threadIdx.x] = Combine::of(row[threadIdx.x], row[threadIdx.x + half]);
    __syncthreads();
  }
  return row[0];
}
)cuda";

/// Texts are written once for both scalar types and are told theirs by the typedef `real`; `$` in the text becomes the
/// kernel's name. Kernels that are always used together may name a program.
template <class T>
Kernel for_scalar(std::string_view name, std::string_view text, Bounds bounds, std::string_view program = {}) {
  constexpr bool single = sizeof(T) == sizeof(float);
  const std::string ending = single ? "_float32" : "_float64";
  Kernel out{std::string(name) + ending, "", bounds, program.empty() ? "" : std::string(program) + ending};
  out.text = "namespace of_" + out.name + " {\ntypedef " + (single ? "float" : "double") + " real;\n";
  for (const char c : text) {
    if (c == '$')
      out.text += out.name;
    else
      out.text += c;
  }
  out.text += "}\n";
  return out;
}

/// One program of several kernels.
inline std::string source(std::span<const Kernel> kernels) {
  std::string out = prelude;
  for (const Kernel& kernel : kernels) out += kernel.text;
  return out;
}

/// The least power of two that is not below n.
constexpr unsigned power_of_two_from(Index n) {
  unsigned p = 1;
  while (static_cast<Index>(p) < n) p *= 2;
  return p;
}

/// The number of groups of `size` that hold n things, as the extent of a grid. Throws Error when that is too large.
inline unsigned groups_of(Index size, Index n) {
  const Index groups = divide_up(n, size);
  require(groups <= 0x7fffffff, "kernel", "a launch of ", groups, " blocks is too large");
  return static_cast<unsigned>(groups);
}

}  // namespace settle::kernels
