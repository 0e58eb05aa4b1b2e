#pragma once
#include <array>
#include <string>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/stem.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::inline v0_2 {

/// The feed-forward control of the released code (FFnet.py): conv0 7 x 7 without bias, batch norm (no non-linearity),
/// then six times k x k convolution, batch norm, ReLU, and a 1 x 1 convolution to the logits (N, K, H, W)
/// of K classes, 2 in the released code.
template <Scalar T, class Device = Cpu>
struct FeedForwardNet {
  using V = Var<T, Device>;

  V conv0;                                        ///< (C, I, 7, 7)
  std::array<ConvLayer<T, Device>, 6> conv;       ///< conv1 ... conv6
  std::array<RunningBatchNorm<T, Device>, 7> bn;  ///< bn0 ... bn6
  ConvLayer<T, Device> conv7;
  bool whole_image = false;  ///< one class for the image: see BatchNormReadout
  Index stride = 1;          ///< after the first layer: see SquaringStem

  /// PyTorch's default initial values.
  static FeedForwardNet initial(Index channels, Index kernel, ParameterStreams& streams, Index image_channels = 1,
                                Index classes = 2) {
    FeedForwardNet net;
    const Shape first{channels, image_channels, 7, 7};
    net.conv0 = to<Device>(conv_uniform<T>(first, first, streams.next()));
    for (auto& layer : net.conv) layer = ConvLayer<T, Device>::initial(channels, channels, kernel, streams);
    for (auto& norm : net.bn) norm = RunningBatchNorm<T, Device>::initial(channels, 1e-5);
    net.conv7 = ConvLayer<T, Device>::initial(classes, channels, 1, streams);
    return net;
  }

  /// The logits in training: batch norm on batch statistics; the running ones of this copy are updated.
  V train(const V& images) {
    return run(images, [](RunningBatchNorm<T, Device>& norm, const V& x) { return norm.train(x); });
  }

  /// The logits in evaluation: batch norm on the running statistics.
  V operator()(const V& images) const {
    return FeedForwardNet(*this).run(images,
                                     [](RunningBatchNorm<T, Device>& norm, const V&) { return norm.evaluate(); });
  }

  void parameters(auto&& visit) {
    visit("conv0.weight", conv0);
    visit_part("bn0", bn[0], visit);
    for (std::size_t k = 1; k < bn.size(); ++k) {
      visit_part("conv" + std::to_string(k), conv[k - 1], visit);
      visit_part("bn" + std::to_string(k), bn[k], visit);
    }
    visit_part("conv7", conv7, visit);
  }

  /// The running statistics: saved with the weights, but not trained.
  void buffers(auto&& visit) {
    for (std::size_t k = 0; k < bn.size(); ++k)
      bn[k].buffers([&](const std::string& name, V& buffer) { visit("bn" + std::to_string(k) + '.' + name, buffer); });
  }

 private:
  template <class Fold>
  V run(const V& images, Fold fold) {
    const auto normalise = [](auto v, auto scale, auto shift) { return v * scale + shift; };
    const V first = conv_same(images, conv0);
    auto [scale0, shift0] = fold(bn[0], first);
    V x = detail::strided(map(normalise, first, scale0, shift0), stride);
    for (std::size_t k = 0; k < conv.size(); ++k) {
      const V y = conv[k](x);
      const auto [scale, shift] = fold(bn[k + 1], y);
      x = map([](auto v, auto s, auto b) { return relu(v * s + b); }, y, scale, shift);
    }
    const V logits = conv7(x);
    return whole_image ? broadcast_to(max(logits, {2, 3}), logits.shape()) : logits;
  }
};

}  // namespace settle
