#pragma once
#include "settle/kernels/source.hpp"

// What is summed over ranks.
namespace settle::inline v0_2::kernels {

/// Adds up what `ranks` ranks gave, `count` numbers each, one after the other; the sum is then in the first. The order
/// is that of distributed::add_in_tree, and results below the smallest normal number are zeros of their sign, as
/// FlushDenormals has them on the processor: the same bits. Arguments: uint64 ranks, count, T* terms; a thread for each
/// of `count`.
template <class T>
Kernel add_in_tree() {
  return for_scalar<T>("add_in_tree", R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(uint64 ranks, uint64 count, real* terms) {
  const uint64 k = uint64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= count) return;
  const real smallest = sizeof(real) == 4 ? real(1.17549435e-38) : real(2.2250738585072014e-308);
  for (uint64 step = 1; step < ranks; step *= 2)
    for (uint64 r = 0; r + step < ranks; r += 2 * step) {
      const real sum = terms[r * count + k] + terms[(r + step) * count + k];
      terms[r * count + k] = abs(sum) < smallest ? sum * real(0) : sum;
    }
}
)cuda",
                       {.registers = 40});
}

}  // namespace settle::kernels
