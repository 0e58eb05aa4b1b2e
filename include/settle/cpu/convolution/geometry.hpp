#pragma once
#include <algorithm>
#include <compare>

#include "settle/core/round_up.hpp"
#include "settle/core/tensor.hpp"
#include "settle/cpu/instruction_set.hpp"

namespace settle::inline v0_2 {

/// How a convolution is computed. One that cannot serve a geometry gives way to gemm, which serves all of them.
enum class ConvAlgorithm {
  automatic,  ///< the one that a cost model expects to be fastest
  direct,     ///< sums over the taps in registers: stride 1
  gemm,       ///< patches as the columns of a matrix, then a matrix product: any geometry
  fft         ///< overlapping tiles in the frequency domain, on the CPU the direct way for tiles where values stand out
              ///< or are not finite: stride 1, dilation 1, one group, kernels up to 48
};

namespace cpu {

/// The extents of one convolution y = conv(x, w): x (N, C, H, W), w (O, C / groups, kh, kw), y (N, O, H', W').
struct ConvGeometry {
  Index batch, in_channels, in_height, in_width, out_channels, kernel_height, kernel_width;
  Index stride_h = 1, stride_w = 1;
  Index pad_h = 0, pad_w = 0;  ///< zeros on both sides of each axis
  Index dilation_h = 1, dilation_w = 1;
  Index groups = 1;

  /// Stride 1 and the padding that keeps the image's size, for a square kernel of odd extent.
  static ConvGeometry same(Index batch, Index in, Index height, Index width, Index out, Index kernel) {
    return {batch, in, height, width, out, kernel, kernel, 1, 1, kernel / 2, kernel / 2};
  }

  Index out_height() const { return out_extent(in_height, kernel_height, stride_h, pad_h, dilation_h); }
  Index out_width() const { return out_extent(in_width, kernel_width, stride_w, pad_w, dilation_w); }
  Index in_pixels() const { return in_height * in_width; }
  Index out_pixels() const { return out_height() * out_width(); }
  Index taps() const { return kernel_height * kernel_width; }

  Index in_size() const { return batch * in_channels * in_pixels(); }
  Index out_size() const { return batch * out_channels * out_pixels(); }
  Index weight_size() const { return out_channels * (in_channels / groups) * taps(); }

  /// The multiply-adds of any of the three directions when every tap is computed.
  Index multiply_adds() const { return batch * out_pixels() * weight_size(); }

  auto operator<=>(const ConvGeometry&) const = default;

 private:
  static Index out_extent(Index in, Index kernel, Index stride, Index pad, Index dilation) {
    const Index room = in + 2 * pad - dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }
};

inline namespace SETTLE_INSTRUCTION_SET {
namespace detail {

/// Uninitialised memory for the duration of one call, counted as "workspace".
template <class T, class Device = Cpu>
Tensor<T, Device> workspace(Index size) {
  const MemoryTag tag("workspace");
  return Tensor<T, Device>(Shape{size});
}

/// The multiply-adds that make it worth while to wake another thread.
inline constexpr Index thread_grain = 100'000;

}  // namespace detail
}  // namespace SETTLE_INSTRUCTION_SET
}  // namespace cpu
}  // namespace settle
