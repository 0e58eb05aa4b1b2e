#pragma once
#include <utility>
#include <vector>

#include "settle/kernels/convolution_fft.hpp"
#include "settle/kernels/convolution_gemm.hpp"
#include "settle/kernels/fold.hpp"
#include "settle/kernels/moments.hpp"
#include "settle/kernels/move.hpp"
#include "settle/kernels/random.hpp"
#include "settle/kernels/ranks.hpp"
#include "settle/kernels/vectors.hpp"

namespace settle::inline v0_2::kernels {

/// Every kernel whose text is written by hand, for both scalar types where it serves both. The kernels of maps are
/// printed when they are needed.
inline std::vector<Kernel> registry() {
  std::vector<Kernel> out{merge_moments()};
  for (const Spectra storage : {Spectra::float32, Spectra::bfloat16})
    for (const auto kernel : {transform_tiles, inverse_transform_tiles, multiply_spectra, correlate_spectra})
      out.push_back(kernel(storage));
  const auto add = [&]<class T>(T) {
    for (Kernel kernel :
         {fold_sums<T>(), fold_maxima<T>(), random_uniform<T>(), random_normal<T>(), fill<T>(), copy_strided<T>(),
          gather<T>(), multiply_along<T>(), max_pool_positions<T>(), max_pool_adjoint<T>(), sum_products<T>(),
          largest_magnitudes<T>(), mix<T>(), gather_patches<T>(), scatter_patches<T>(), add_in_tree<T>()})
      out.push_back(std::move(kernel));
  };
  add(float{}), add(double{});
  return out;
}

/// What is compiled together with a kernel, and the kernel itself.
inline std::vector<Kernel> compiled_with(const Kernel& kernel) {
  if (kernel.program.empty()) return {kernel};
  std::vector<Kernel> out = registry();
  std::erase_if(out, [&](const Kernel& other) { return other.program != kernel.program; });
  return out;
}

}  // namespace settle::kernels
