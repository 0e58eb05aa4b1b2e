#pragma once
#include <algorithm>

#include "settle/nn/batch_norm.hpp"
#include "settle/nn/initialisers.hpp"
#include "settle/ops/conv_transpose.hpp"

namespace settle::inline v0_2 {

/// A transposed convolution with bias whose stride is its kernel's extent, as PyTorch's ConvTranspose2d(I, O, k, k): an
/// image k times as large. The bias is left to the map that uses the result.
template <Scalar T, class Device = Cpu>
struct ConvTransposeLayer {
  Var<T, Device> weight;  ///< (I, O, k, k)
  Var<T, Device> bias;    ///< (O)

  /// PyTorch's default initial values. Throws Error for no channels and a kernel below 1.
  static ConvTransposeLayer initial(Index in, Index out, Index kernel, ParameterStreams& streams) {
    require(std::min({in, out, kernel}) >= 1, "conv_transpose", "expected channels and a kernel of at least 1, got ",
            in, ", ", out, " and ", kernel);
    const Shape shape{in, out, kernel, kernel};
    const auto weight = to<Device>(conv_uniform<T>(shape, shape, streams.next()));
    return {weight, to<Device>(conv_uniform<T>({out}, shape, streams.next()))};
  }

  /// The transposed convolution without the bias.
  Var<T, Device> linear(const Var<T, Device>& x) const {
    return conv_transpose(x, weight, {.stride = {weight.shape(2), weight.shape(3)}});
  }

  /// The bias, shaped (O, 1, 1).
  Var<T, Device> channel_bias() const { return per_channel(bias); }

  Var<T, Device> operator()(const Var<T, Device>& x) const { return linear(x) + channel_bias(); }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

}  // namespace settle
