#pragma once
#include <algorithm>

#include "settle/nn/batch_norm.hpp"
#include "settle/nn/initialisers.hpp"
#include "settle/ops/convolution.hpp"

namespace settle::inline v0_2 {

/// Throws Error "[where] ..." unless a layer can have that many channels and square kernels of that extent.
inline void require_layer(const char* where, Index channels, Index kernel) {
  require(channels >= 1, where, "expected channels >= 1, got ", channels);
  require(kernel >= 1 && kernel % 2 == 1, where, "expected an odd kernel >= 1, got ", kernel);
}

/// The convolution with stride 1 that keeps the image's size: x (N, I, H, W), weight (O, I, kh, kw) with odd kernel
/// extents, zeros beyond the border. Throws Error for an even kernel.
template <class T, class D>
Var<T, D> conv_same(const Var<T, D>& x, const Var<T, D>& weight) {
  const Shape& w = weight.shape();
  require(w.rank() == 4 && w[2] % 2 == 1 && w[3] % 2 == 1, "conv_same",
          "expected a weight (O, I, kh, kw) with odd kernel extents, got ", w);
  return conv(x, weight, ConvOptions::same(w));
}

/// The weight and the bias of a convolution with stride 1 that keeps the image's size. The bias is left to the map that
/// uses the result, which adds it in its own pass.
template <Scalar T, class Device = Cpu>
struct ConvLayer {
  Var<T, Device> weight;  ///< (O, I, k, k), k odd
  Var<T, Device> bias;    ///< (O)

  /// PyTorch's default initial values. Throws Error for no channels and an even kernel.
  static ConvLayer initial(Index out, Index in, Index kernel, ParameterStreams& streams) {
    require_layer("conv_layer", std::min(out, in), kernel);
    const Shape shape{out, in, kernel, kernel};
    const auto weight = to<Device>(conv_uniform<T>(shape, shape, streams.next()));
    return {weight, to<Device>(conv_uniform<T>({out}, shape, streams.next()))};
  }

  /// The convolution without the bias.
  Var<T, Device> linear(const Var<T, Device>& x) const { return conv_same(x, weight); }

  /// The bias, shaped (O, 1, 1).
  Var<T, Device> channel_bias() const { return per_channel(bias); }

  /// The convolution with the bias.
  Var<T, Device> operator()(const Var<T, Device>& x) const { return linear(x) + channel_bias(); }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

}  // namespace settle
