#pragma once
#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/gabor.hpp"

namespace settle {

/// The recurrent models' first layer: (conv0 * image + bias)², a 7 x 7 convolution of images (N, 1, H, W) to C
/// channels.
template <Scalar T, class Device = Cpu>
struct SquaringStem {
  ConvLayer<T, Device> conv0;

  /// The Gabor bank, and biases U(-1/7, 1/7), as in the released code, which has 12 orientations: 25 channels.
  static SquaringStem initial(Index orientations, ParameterStreams& streams) {
    const Tensor<T> bank = cast<T>(gabor_bank(orientations));
    return {{to<Device>(bank), to<Device>(conv_uniform<T>({bank.shape(0)}, bank.shape(), streams.next()))}};
  }

  Var<T, Device> operator()(const Var<T, Device>& images) const {
    return map([](auto v, auto b) { return square(v + b); }, conv0.linear(images), conv0.channel_bias());
  }

  void parameters(auto&& visit) { visit_part("conv0", conv0, visit); }
};

}  // namespace settle
