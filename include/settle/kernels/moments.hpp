#pragma once
#include <string>

#include "settle/kernels/source.hpp"

// Means and variances that are found in parts and merged (Chan, Golub and LeVeque): each part's squares are summed
// about a value of its own, so nothing cancels.
namespace settle::inline v0_2::kernels {

/// The moments of some values.
struct Moments {
  double count = 0, mean = 0;
  double squares = 0;  ///< the sum of the squares of the distances from the mean
};

namespace detail {
inline constexpr const char* moments_text = R"cuda(
template <class T> struct Moments { T count, mean, squares; };
struct Merged {
  template <class T> static __device__ Moments<T> of(Moments<T> a, Moments<T> b) {
    if (a.count == T(0)) return b;
    const T count = a.count + b.count, share = b.count / count, apart = b.mean - a.mean;
    return {count, a.mean + share * apart, a.squares + b.squares + apart * apart * a.count * share};
  }
};
)cuda";
}

/// For each channel a number next to the mean of its values, the sum of their distances from it, and the sum of the
/// squares of these, from the moments [part][channel] of the values' parts, merged in a fixed order. Arguments: int
/// parts, const Moments* moments, float* centre, float* sum, float* squares; a block for each channel.
inline const Kernel& merge_moments() {
  static const Kernel kernel = for_scalar<float>("merge_moments", std::string(detail::moments_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(int parts, const Moments<double>* moments, float* centre, float* sum, float* squares) {
  __shared__ Moments<double> shared[256];
  Moments<double> total = {0.0, 0.0, 0.0};
  for (int k = int(threadIdx.x); k < parts; k += int(blockDim.x))
    total = Merged::of(total, moments[uint64(k) * gridDim.x + blockIdx.x]);
  total = combine_row<Merged>(total, shared);
  if (threadIdx.x != 0) return;
  const float near = float(total.mean);
  const double offset = total.mean - double(near);
  centre[blockIdx.x] = near;
  sum[blockIdx.x] = float(total.count * offset);
  squares[blockIdx.x] = float(total.squares + total.count * offset * offset);
}
)cuda",
                                                 {.registers = 64, .shared = 256 * 24}, "convolution_fft");
  return kernel;
}

}  // namespace settle::kernels
