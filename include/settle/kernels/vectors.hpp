#pragma once
#include "settle/kernels/source.hpp"

// What the solvers do on arrays that are split evenly among systems of equations. Sums are in double, each block one
// piece of one system, to be folded in order by fold_sums.
namespace settle::inline v0_2::kernels {

/// total[s pieces + p] = the sum over piece p of system s of x y, or of (x - y)². Arguments: uint64 length (of a
/// system), pieces, piece (its length), int squares, const T* x, const T* y, double* total; a block for each piece.
template <class T>
Kernel sum_products() {
  return for_scalar<T>("sum_products", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 length, uint64 pieces, uint64 piece, int squares, const real* x, const real* y, double* total) {
  __shared__ double shared[256];
  const uint64 first = uint64(blockIdx.x) % pieces * piece, last = first + piece < length ? first + piece : length;
  const uint64 system = uint64(blockIdx.x) / pieces * length;
  double sum = 0;
  for (uint64 k = first + threadIdx.x; k < last; k += blockDim.x) {
    const double a = double(x[system + k]), b = double(y[system + k]);
    sum += squares ? (a - b) * (a - b) : a * b;
  }
  sum = combine_row<Sum>(sum, shared);
  if (threadIdx.x == 0) total[blockIdx.x] = sum;
}
)cuda",
                       {.registers = 48, .shared = 2048}, "vectors");
}

/// largest[s pieces + p] = the largest |x| of piece p of system s; NaN if there is one. Arguments: uint64 length (of a
/// system), pieces, piece (its length), const T* x, T* largest; a block for each piece.
template <class T>
Kernel largest_magnitudes() {
  return for_scalar<T>("largest_magnitudes", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 length, uint64 pieces, uint64 piece, const real* x, real* largest) {
  __shared__ real shared[256];
  const uint64 first = uint64(blockIdx.x) % pieces * piece, last = first + piece < length ? first + piece : length;
  const uint64 system = uint64(blockIdx.x) / pieces * length;
  real found = 0;
  for (uint64 k = first + threadIdx.x; k < last; k += blockDim.x) found = maximum(found, abs(x[system + k]));
  found = combine_row<Maximum>(found, shared);
  if (threadIdx.x == 0) largest[blockIdx.x] = found;
}
)cuda",
                       {.registers = 48, .shared = 2048}, "vectors");
}

/// y = c y + d x with numbers for each system, the c before the d; where a number is 0 its vector is not read.
/// Arguments: uint64 count, length (of a system), const double* numbers, T* y, const T* x.
template <class T>
Kernel mix() {
  return for_scalar<T>("mix", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 count, uint64 length, const double* numbers, real* y, const real* x) {
  const uint64 k = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= count) return;
  const real keep = real(numbers[k / length]), add = real(numbers[count / length + k / length]);
  real value = keep == real(0) ? real(0) : keep * y[k];
  if (add != real(0)) value += add * x[k];
  y[k] = value;
}
)cuda",
                       {.registers = 40}, "vectors");
}

}  // namespace settle::kernels
