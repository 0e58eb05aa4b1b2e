#pragma once
#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/gabor.hpp"

namespace settle {

/// The recurrent models' first layer: (conv0 * image + bias)², a 7 x 7 convolution of images (N, I, H, W) to C
/// channels.
template <Scalar T, class Device = Cpu>
struct SquaringStem {
  ConvLayer<T, Device> conv0;

  /// The Gabor bank, and biases U(-1/7, 1/7), as in the released code, which has 12 orientations: 25 channels. Each of
  /// an image's channels gets the bank divided by their number: with the same biases, a grey image in three channels
  /// gives what one channel would.
  static SquaringStem initial(Index orientations, ParameterStreams& streams, Index image_channels = 1) {
    require(image_channels >= 1, "stem", "expected images of at least 1 channel, got ", image_channels);
    Tensor<T> bank = cast<T>(gabor_bank(orientations));
    if (image_channels > 1) {
      const Tensor<T> one = bank;
      const Index taps = one.size() / one.shape(0);
      bank = Tensor<T>(Shape{one.shape(0), image_channels, one.shape(2), one.shape(3)});
      T* to = bank.mutable_data();
      for (Index k = 0; k < bank.size(); ++k)
        to[k] = one.data()[k / (image_channels * taps) * taps + k % taps] / static_cast<T>(image_channels);
    }
    return {{to<Device>(bank), to<Device>(conv_uniform<T>({bank.shape(0)}, bank.shape(), streams.next()))}};
  }

  Var<T, Device> operator()(const Var<T, Device>& images) const {
    return map([](auto v, auto b) { return square(v + b); }, conv0.linear(images), conv0.channel_bias());
  }

  void parameters(auto&& visit) { visit_part("conv0", conv0, visit); }
};

}  // namespace settle
