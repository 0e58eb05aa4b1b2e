#pragma once
#include <array>
#include <string>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"

namespace settle::inline v0_2 {

/// The hGRU cell of the released code (hgrucleanSEG.py, hConvGRUCell): with σ sigmoid, ζ softplus (the identity above
/// 20),
/// * a k x k convolution with zero padding, ⊙ pointwise, U a 1 x 1 convolution and X the drive,
///
///     g1 = σ(U1 h + b1)       c1 = BN1(W_inh * (h ⊙ g1))       s = ζ(X - ζ(c1 ⊙ (α ⊙ h + μ)))
///     g2 = σ(U2 s + b2)       c2 = BN3(W_exc * s)              n = ζ(κ ⊙ s + γ ⊙ c2 + ω ⊙ s ⊙ c2)
///     h' = ζ((1 - g2) ⊙ h + g2 ⊙ n)
///
/// The state h and X have the shape (N, C, H, W). Four of the eight batch norm vectors (bn.0, bn.2) take no part; they
/// are kept because the released weights have them. Parameters bear the released names.
template <Scalar T, class Device = Cpu>
struct HgruCell {
  using V = Var<T, Device>;

  /// Batch norm on batch statistics: a sample's next state depends on the whole batch.
  static constexpr bool couples_samples = true;

  V w_gate_inh, w_gate_exc;      ///< (C, C, k, k)
  V alpha, gamma, kappa, w, mu;  ///< (C, 1, 1); w is ω
  ConvLayer<T, Device> u1_gate, u2_gate;
  std::array<BatchNorm<T, Device>, 4> bn;

  /// Initial values as in the released code, or with its intended gate biases (see Initialisation). Throws Error for no
  /// channels and an even kernel.
  static HgruCell initial(Index channels, Index kernel, ParameterStreams& streams,
                          Initialisation initialisation = Initialisation::released) {
    require_layer("hgru", channels, kernel);
    const auto kernels = [&](Index k) {
      return V(to<Device>(orthogonal<T>({channels, channels, k, k}, streams.next())));
    };
    const auto vector = [&](double value) {
      return V(Tensor<T, Device>(Shape{channels, 1, 1}, static_cast<T>(value)));
    };
    Random random = streams.next();
    V b1 = to<Device>(uniform<T>(Shape{channels}, 1, 7, random));
    if (initialisation == Initialisation::corrected) b1 = map([](auto u) { return log(u); }, b1);
    const auto norm = BatchNorm<T, Device>::initial(channels, 0.1, 0, 1e-3);
    return {.w_gate_inh = kernels(kernel),
            .w_gate_exc = kernels(kernel),
            .alpha = vector(0.1),
            .gamma = vector(1),
            .kappa = vector(0.5),
            .w = vector(0.5),
            .mu = vector(1),
            .u1_gate = {kernels(1), b1},
            .u2_gate = {kernels(1), -b1},
            .bn = {norm, norm, norm, norm}};
  }

  /// The state that every run starts from: zeros.
  V initial_state(const V& x) const { return Tensor<T, Device>(x.shape(), T{0}); }

  /// The next state.
  V operator()(const V& h, const V& x) const {
    const V gated = map([](auto state, auto u, auto b) { return state * sigmoid(u + b); }, h, u1_gate.linear(h),
                        u1_gate.channel_bias());
    const V inhibition = conv_same(gated, w_gate_inh);
    const auto [scale1, shift1] = bn[1].fold(inhibition);
    const V s = map([](auto drive, auto state, auto c, auto scale, auto shift, auto a,
                       auto m) { return softplus_cut(drive - softplus_cut((c * scale + shift) * (a * state + m))); },
                    x, h, inhibition, scale1, shift1, alpha, mu);
    const V excitation = conv_same(s, w_gate_exc);
    const auto [scale3, shift3] = bn[3].fold(excitation);
    return map(
        [](auto state, auto sum, auto u, auto b, auto c, auto scale, auto shift, auto k, auto g, auto o) {
          const auto gate = sigmoid(u + b), c2 = c * scale + shift;
          const auto next = softplus_cut(k * sum + g * c2 + o * sum * c2);
          return softplus_cut((1. - gate) * state + gate * next);
        },
        h, s, u2_gate.linear(s), u2_gate.channel_bias(), excitation, scale3, shift3, kappa, gamma, w);
  }

  void parameters(auto&& visit) {
    visit("w_gate_inh", w_gate_inh), visit("w_gate_exc", w_gate_exc);
    visit("alpha", alpha), visit("gamma", gamma), visit("kappa", kappa), visit("w", w), visit("mu", mu);
    visit_part("u1_gate", u1_gate, visit), visit_part("u2_gate", u2_gate, visit);
    for (std::size_t k = 0; k < bn.size(); ++k) visit_part("bn." + std::to_string(k), bn[k], visit);
  }
};

}  // namespace settle
