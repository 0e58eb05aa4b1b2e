#pragma once
#include <array>
#include <string>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"

namespace settle {

/// Batch norm with running statistics, as PyTorch's BatchNorm2d: training uses the batch's statistics and moves the
/// running ones by `momentum` towards them (the variance unbiased); evaluation uses the running ones.
template <Scalar T, class Device = Cpu>
struct RunningBatchNorm {
  BatchNorm<T, Device> norm;
  Var<T, Device> running_mean, running_var;  ///< (C); no gradient
  double momentum = 0.1;

  static RunningBatchNorm initial(Index channels, double epsilon) {
    return {BatchNorm<T, Device>::initial(channels, 1, 0, epsilon), Tensor<T, Device>(Shape{channels}, T{0}),
            Tensor<T, Device>(Shape{channels}, T{1})};
  }

  /// The normalisation for x (N, C, H, W) on its own statistics; updates the running ones.
  ScaleShift<T, Device> train(const Var<T, Device>& x) {
    const auto statistics = batch_statistics(x);
    const double count = static_cast<double>(x.size()) / static_cast<double>(x.shape(1));
    require(count > 1, "batch_norm", "expected more than one value per channel when training, got ", x.shape());
    const Shape vector{x.shape(1)};
    const auto towards = [&](const Var<T, Device>& running, const Var<T, Device>& now, double correction) {
      return map([](auto old, auto value, auto m, auto c) { return (1. - m) * old + m * c * value; }, running,
                 reshape(stop_gradient(now), vector), momentum, correction);
    };
    running_mean = towards(running_mean, statistics.mean, 1);
    running_var = towards(running_var, statistics.variance, count / (count - 1));
    return norm.fold(statistics);
  }

  /// The normalisation on the running statistics.
  ScaleShift<T, Device> evaluate() const {
    return norm.fold(BatchStatistics<T, Device>{per_channel(running_mean), per_channel(running_var)});
  }

  void parameters(auto&& visit) { norm.parameters(visit); }
  /// The running statistics: saved with the weights, but not trained.
  void buffers(auto&& visit) { visit("running_mean", running_mean), visit("running_var", running_var); }
};

/// The feed-forward control of the released code (FFnet.py): conv0 7 x 7 without bias, batch norm (no non-linearity),
/// then six times k x k convolution, batch norm, ReLU, and a 1 x 1 convolution to the logits (N, 2, H, W).
template <Scalar T, class Device = Cpu>
struct FeedForwardNet {
  using V = Var<T, Device>;

  V conv0;                                        ///< (C, 1, 7, 7)
  std::array<ConvLayer<T, Device>, 6> conv;       ///< conv1 ... conv6
  std::array<RunningBatchNorm<T, Device>, 7> bn;  ///< bn0 ... bn6
  ConvLayer<T, Device> conv7;

  /// PyTorch's default initial values.
  static FeedForwardNet initial(Index channels, Index kernel, ParameterStreams& streams) {
    FeedForwardNet net;
    const Shape first{channels, 1, 7, 7};
    net.conv0 = to<Device>(conv_uniform<T>(first, first, streams.next()));
    for (auto& layer : net.conv) layer = ConvLayer<T, Device>::initial(channels, channels, kernel, streams);
    for (auto& norm : net.bn) norm = RunningBatchNorm<T, Device>::initial(channels, 1e-5);
    net.conv7 = ConvLayer<T, Device>::initial(2, channels, 1, streams);
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
    V x = map(normalise, first, scale0, shift0);
    for (std::size_t k = 0; k < conv.size(); ++k) {
      const V y = conv[k](x);
      const auto [scale, shift] = fold(bn[k + 1], y);
      x = map([](auto v, auto s, auto b) { return relu(v * s + b); }, y, scale, shift);
    }
    return conv7(x);
  }
};

}  // namespace settle
