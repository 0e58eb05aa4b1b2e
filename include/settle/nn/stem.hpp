#pragma once
#include <array>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/gabor.hpp"
#include "settle/ops/pool.hpp"
#include "settle/ops/resize.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// The means of stride x stride pixels, fewer at the far edges. Throws Error where an image has less than a window.
template <class T, class D>
Var<T, D> strided(const Var<T, D>& x, Index stride) {
  if (stride == 1) return x;
  return average_pool(x, {.size = {stride, stride}, .count_padding = false, .partial_windows = true});
}

}  // namespace detail

/// Logits (N, K, H', W') at the height and width of `images`, bilinearly between the centres of their pixels; as they
/// are where these are theirs.
template <class T, class D>
Var<T, D> at_size_of(const Var<T, D>& images, const Var<T, D>& logits) {
  const std::array<Index, 2> size{images.shape(2), images.shape(3)};
  return logits.shape(2) == size[0] && logits.shape(3) == size[1] ? logits
                                                                 : resize(logits, size, Interpolation::bilinear);
}

/// The recurrent models' first layer: (conv0 * image + bias)², a 7 x 7 convolution of images (N, I, H, W) to C
/// channels. With a stride the means of so many by so many pixels (fewer at the far edges) are what the recurrent layers
/// see, and logits are smaller than the image: see at_size_of.
template <Scalar T, class Device = Cpu>
struct SquaringStem {
  ConvLayer<T, Device> conv0;
  Index stride = 1;

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
    return detail::strided(
        map([](auto v, auto b) { return square(v + b); }, conv0.linear(images), conv0.channel_bias()), stride);
  }

  void parameters(auto&& visit) { visit_part("conv0", conv0, visit); }
};

}  // namespace settle
