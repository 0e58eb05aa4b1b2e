#pragma once
#include <array>
#include <cmath>
#include <string>

#include "settle/nn/conv_layer.hpp"
#include "settle/nn/initialisers.hpp"
#include "settle/nn/released_models.hpp"

namespace settle::inline v0_2 {

/// The horizontal unit of the gamma-net (Linsley, Kim, Ashok and Serre 2020, "Recurrent neural circuits for contour
/// detection"): two kernels and normalised gates. With σ sigmoid, * a k x k convolution with zero padding, ⊙ pointwise,
/// U a 1 x 1 convolution and X the drive, both and the state h (N, C, H, W),
///
///     g1 = σ(BN0(U1 h) + b1)      c1 = BN1(W_inh * (h ⊙ g1))      s = relu(X - relu(c1 ⊙ (α ⊙ h + μ)))
///     g2 = σ(BN2(U2 s) + b2)      c2 = BN3(W_exc * s)             n = relu(κ ⊙ (s + c2) + ω ⊙ s ⊙ c2)
///     h' = (1 - g2) ⊙ h + g2 ⊙ n
///
/// It differs from HgruCell in these: rectifiers in place of softplus and none around the mixture, gates with batch
/// norm, one κ for s and c2, and an initial μ of 0.
template <Scalar T, class Device = Cpu>
struct FgruCell {
  using V = Var<T, Device>;

  /// Batch norm on batch statistics: a sample's next state depends on the whole batch.
  static constexpr bool couples_samples = true;

  V w_inh, w_exc;               ///< (C, C, k, k)
  V alpha, mu, kappa, omega;    ///< (C, 1, 1)
  ConvLayer<T, Device> u1, u2;  ///< 1 x 1
  std::array<BatchNorm<T, Device>, 4> bn;

  /// Orthogonal kernels; the gates' biases are -log U(1, 7), as for 8 steps. Throws Error for no channels and an even
  /// kernel.
  static FgruCell initial(Index channels, Index kernel, ParameterStreams& streams) {
    require_layer("fgru", channels, kernel);
    const auto kernels = [&](Index k) {
      return V(to<Device>(orthogonal<T>({channels, channels, k, k}, streams.next())));
    };
    const auto vector = [&](double value) {
      return V(Tensor<T, Device>(Shape{channels, 1, 1}, static_cast<T>(value)));
    };
    const auto bias = [&] {
      Random random = streams.next();
      return map([](auto u) { return -log(u); }, V(to<Device>(uniform<T>(Shape{channels}, 1, 7, random))));
    };
    const auto norm = BatchNorm<T, Device>::initial(channels, 0.1, 0, 1e-3);
    return {.w_inh = kernels(kernel),
            .w_exc = kernels(kernel),
            .alpha = vector(0.1),
            .mu = vector(0),
            .kappa = vector(0.5),
            .omega = vector(0.5),
            .u1 = {kernels(1), bias()},
            .u2 = {kernels(1), bias()},
            .bn = {norm, norm, norm, norm}};
  }

  /// The state that every run starts from: zeros.
  V initial_state(const V& x) const { return Tensor<T, Device>(x.shape(), T{0}); }

  /// The next state.
  V operator()(const V& h, const V& x) const {
    const V u = u1.linear(h);
    const auto [scale0, shift0] = bn[0].fold(u);
    const V gated =
        map([](auto state, auto v, auto scale, auto shift, auto b) { return state * sigmoid(v * scale + shift + b); },
            h, u, scale0, shift0, u1.channel_bias());
    const V inhibition = conv_same(gated, w_inh);
    const auto [scale1, shift1] = bn[1].fold(inhibition);
    const V s = map([](auto drive, auto state, auto c, auto scale, auto shift, auto a,
                       auto m) { return relu(drive - relu((c * scale + shift) * (a * state + m))); },
                    x, h, inhibition, scale1, shift1, alpha, mu);
    const V v = u2.linear(s);
    const auto [scale2, shift2] = bn[2].fold(v);
    const V gate = map([](auto w, auto scale, auto shift, auto b) { return sigmoid(w * scale + shift + b); }, v, scale2,
                       shift2, u2.channel_bias());
    const V excitation = conv_same(s, w_exc);
    const auto [scale3, shift3] = bn[3].fold(excitation);
    return map(
        [](auto state, auto sum, auto g, auto c, auto scale, auto shift, auto k, auto o) {
          const auto c2 = c * scale + shift;
          return (1. - g) * state + g * relu(k * (sum + c2) + o * sum * c2);
        },
        h, s, gate, excitation, scale3, shift3, kappa, omega);
  }

  void parameters(auto&& visit) {
    visit("w_inh", w_inh), visit("w_exc", w_exc);
    visit("alpha", alpha), visit("mu", mu), visit("kappa", kappa), visit("omega", omega);
    visit_part("u1", u1, visit), visit_part("u2", u2, visit);
    for (std::size_t k = 0; k < bn.size(); ++k) visit_part("bn." + std::to_string(k), bn[k], visit);
  }
};

/// The gamma-net's unit between the released stem and readout, at its initial values.
template <Scalar T, class Device = Cpu>
RecurrentNet<SquaringStem<T, Device>, FgruCell<T, Device>, BatchNormReadout<T, Device>> fgru_net(
    const ModelOptions& o = {}) {
  ParameterStreams streams(o.seed);
  return {.stem = SquaringStem<T, Device>::initial(o.orientations, streams, o.image_channels),
          .cell = FgruCell<T, Device>::initial(o.channels(), o.kernel, streams),
          .readout = BatchNormReadout<T, Device>::initial(o.channels(), streams, o.classes)};
}

}  // namespace settle
