#pragma once
#include "settle/kernels/source.hpp"

// Kernels that move values, and add some of them up: one thread for each value that is written. Arrays (outer, extent,
// inner) are an axis with all axes before and after it as one, as in the CPU's kernels.
namespace settle::inline v0_2::kernels {

/// The argument of copy_strided: axes of a strided copy, outermost first.
struct StridedAxes {
  std::uint64_t count = 0;
  std::uint64_t extent[Shape::max_rank] = {};
  std::int64_t from[Shape::max_rank] = {}, to[Shape::max_rank] = {};
  int axes = 0;
};

/// to[sum of i_a to_a] = from[sum of i_a from_a]: transposes, slices, padding, concatenation. Arguments: StridedAxes,
/// const T* x, T* y.
template <class T>
Kernel copy_strided() {
  return for_scalar<T>("copy_strided", R"cuda(
struct Axes {
  uint64 count, extent[6];
  long long from[6], to[6];
  int axes;
};
extern "C" __global__ void __launch_bounds__(256) $(const Axes at, const real* x, real* y) {
  uint64 rest = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rest >= at.count) return;
  long long from = 0, to = 0;
  for (int a = at.axes - 1; a >= 0; --a) {
    const long long i = (long long)(rest % at.extent[a]);
    rest /= at.extent[a];
    from += i * at.from[a];
    to += i * at.to[a];
  }
  y[to] = x[from];
}
)cuda",
                       {.registers = 48});
}

/// Every value equal to one. Arguments: T* y, uint64 count, T value.
template <class T>
Kernel fill() {
  return for_scalar<T>("fill", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(real* y, uint64 count, real value) {
  const uint64 at = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < count) y[at] = value;
}
)cuda",
                       {.registers = 24}, "usual");
}

/// y (outer, count, inner): y[o, k, :] = x[o, indices[k], :], for x (outer, extent, inner). Arguments: uint64 outer,
/// extent, inner, count, const int64* indices, const T* x, T* y.
template <class T>
Kernel gather() {
  return for_scalar<T>("gather", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 outer, uint64 extent, uint64 inner, uint64 count, const long long* indices, const real* x, real* y) {
  const uint64 at = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= outer * count * inner) return;
  const uint64 i = at % inner, row = at / inner, o = row / count;
  y[at] = x[(o * extent + uint64(indices[row % count])) * inner + i];
}
)cuda",
                       {.registers = 48});
}

/// y[o, i, :] = sum over j of m[i, j] x[o, j, :] for a sparse matrix by rows, x (outer, columns, inner) and y (outer,
/// rows, inner): averages of windows, interpolation, and (as the transpose of a selection) scatter_add. The order of
/// the sum is the matrix'. Arguments: uint64 outer, columns, rows, inner, const int64* start, const int64* column,
/// const double* weight, const T* x, T* y.
template <class T>
Kernel multiply_along() {
  return for_scalar<T>("multiply_along", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 outer, uint64 columns, uint64 rows, uint64 inner, const long long* start, const long long* column, const double* weight, const real* x, real* y) {
  const uint64 at = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= outer * rows * inner) return;
  const uint64 i = at % inner, row = at / inner % rows, o = at / inner / rows;
  const real* const from = x + o * columns * inner + i;
  real total = 0;
  for (long long k = start[row]; k < start[row + 1]; ++k) total += real(weight[k]) * from[uint64(column[k]) * inner];
  y[at] = total;
}
)cuda",
                       {.registers = 64});
}

/// Windows that slide over planes: the argument of the pooling kernels; {height, width} each.
struct Windows {
  std::int32_t planes = 0, in[2] = {}, out[2] = {}, size[2] = {}, stride[2] = {}, padding[2] = {};
};

/// The launch of a pooling kernel: a column of blocks for each plane. Throws Error when the planes are too large.
inline Grid windows_grid(Index planes, Index positions, unsigned threads = 256) {
  const unsigned blocks = groups_of(threads, positions);
  require(blocks <= 65535, "max_pool", "planes of ", positions, " pixels are too large");
  return {static_cast<unsigned>(planes), blocks, threads, 1};
}

namespace detail {
inline constexpr const char* windows_text = R"cuda(
typedef long long int64;
struct Windows { int planes, in[2], out[2], size[2], stride[2], padding[2]; };
__device__ inline int larger(int a, int b) { return a < b ? b : a; }
__device__ inline int smaller(int a, int b) { return a < b ? a : b; }
)cuda";
}

/// Where the largest value of each window is, as a position in x: the first of equal ones, a NaN before any number.
/// Arguments: Windows, const T* x, int64* positions.
template <class T>
Kernel max_pool_positions() {
  return for_scalar<T>("max_pool_positions", std::string(detail::windows_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Windows g, const real* x, int64* positions) {
  const int window = int(blockIdx.y * blockDim.x + threadIdx.x), windows = g.out[0] * g.out[1];
  if (window >= windows) return;
  const int64 first = int64(blockIdx.x) * g.in[0] * g.in[1];
  x += first;
  const int top = window / g.out[1] * g.stride[0] - g.padding[0], left = window % g.out[1] * g.stride[1] - g.padding[1];
  const int last_row = smaller(top + g.size[0], g.in[0]), last_column = smaller(left + g.size[1], g.in[1]);
  int best = larger(top, 0) * g.in[1] + larger(left, 0);
  real largest = x[best];
  for (int row = larger(top, 0); row < last_row; ++row)
    for (int column = larger(left, 0); column < last_column; ++column) {
      const int here = row * g.in[1] + column;
      const real value = x[here];
      if (!(value <= largest) && largest == largest) best = here, largest = value;
    }
  positions[int64(blockIdx.x) * windows + window] = first + best;
}
)cuda",
                       {.registers = 64});
}

/// The adjoint of reading x at the positions of the windows: each pixel adds up the windows that chose it, in their
/// order, so that no two threads write one place. Arguments: Windows, const int64* positions, const T* y, T* x.
template <class T>
Kernel max_pool_adjoint() {
  return for_scalar<T>("max_pool_adjoint", std::string(detail::windows_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Windows g, const int64* positions, const real* y, real* x) {
  const int pixel = int(blockIdx.y * blockDim.x + threadIdx.x), pixels = g.in[0] * g.in[1];
  if (pixel >= pixels) return;
  const int64 windows = int64(blockIdx.x) * g.out[0] * g.out[1], at = int64(blockIdx.x) * pixels + pixel;
  positions += windows;
  y += windows;
  // Window p covers row when p stride <= row + padding < p stride + size.
  const int r = pixel / g.in[1] + g.padding[0], c = pixel % g.in[1] + g.padding[1];
  const int first_p = r < g.size[0] ? 0 : (r - g.size[0]) / g.stride[0] + 1, last_p = smaller(r / g.stride[0] + 1, g.out[0]);
  const int first_q = c < g.size[1] ? 0 : (c - g.size[1]) / g.stride[1] + 1, last_q = smaller(c / g.stride[1] + 1, g.out[1]);
  real total = 0;
  for (int p = first_p; p < last_p; ++p)
    for (int q = first_q; q < last_q; ++q) {
      const int window = p * g.out[1] + q;
      if (positions[window] == at) total += y[window];
    }
  x[at] = total;
}
)cuda",
                       {.registers = 64});
}

}  // namespace settle::kernels
