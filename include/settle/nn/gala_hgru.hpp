#pragma once
#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "settle/autodiff/module.hpp"
#include "settle/nn/gala_gate.hpp"
#include "settle/nn/group_norm.hpp"

namespace settle::inline v0_2 {

/// What a GalaHgruCell is made of.
struct GalaHgruOptions {
  Index channels = 256;
  Index kernel = 3;           ///< of all but the 1 x 1 convolutions; odd
  bool gala = true;           ///< the first gate attends: a product of a channel's and a place's part
  bool less_softplus = true;  ///< the candidate is the excitation alone
  Index groups = 32;          ///< of the group norms
  int steps = 20;             ///< that the gates' initial biases are made for
  Initialisation initialisation = Initialisation::released;  ///< corrected: with the logarithm that released lacks
};

/// The hGRU cell of the released panoptic code (rnns.py, hConvGRUCell): with GN group norm, x the drive, U a 1 x 1
/// convolution and the other signs as at GalaGate,
///
///     g1 = g(h)               of GalaGate
///     i  = ζ(x - GN0(W_inh * (g1 ⊙ h)) ⊙ (α ⊙ h + μ))
///     g2 = σ(U1 i + u1)       e = ζ(GN1(W_exc * i))
///     c  = e                  with less_softplus,   i + ζ(w ⊙ i ⊙ e)   without
///     h' = (1 - g2) ⊙ h + g2 ⊙ c
///
/// The state h and x have the shape (N, C, H, W); samples stay apart. Parameters bear the released names.
template <Scalar T, class Device = Cpu>
struct GalaHgruCell {
  using V = Var<T, Device>;

  bool less_softplus = true;
  V w_gate_inh, w_gate_exc;  ///< (C, C, k, k)
  V alpha, mu, w;            ///< (C, 1, 1); w only without less_softplus
  GalaGate<T, Device> gate;  ///< g1
  ConvLayer<T, Device> u1_gate;
  std::array<GroupNorm<T, Device>, 2> bn;

  /// Kernels are Kaiming normal of the fan in (U0 Xavier uniform), group norms start from 0.1, alpha from 0.1, mu from
  /// 1, and w from 0.5. The gates' biases b (or u0) and u1 = -b are U(1, T - 1) as released, where the intended
  /// logarithm is lost, or its logarithm; T is steps, 2 for less. Throws Error unless 4 and the groups divide the
  /// channels.
  static GalaHgruCell initial(const GalaHgruOptions& options, ParameterStreams& streams) {
    const Index c = options.channels, k = options.kernel;
    require_layer("gala_hgru", c, k);
    const auto kernel = [&](Index out, Index in, Index extent) {
      return V(fill_weight<T, Device>({out, in, extent, extent}, {WeightFilling::kaiming_fan_in}, streams));
    };
    const auto vector = [&](Index channels, double value) {
      return V(Tensor<T, Device>(Shape{channels, 1, 1}, static_cast<T>(value)));
    };
    GalaHgruCell cell;
    cell.less_softplus = options.less_softplus;
    cell.w_gate_inh = kernel(c, c, k), cell.w_gate_exc = kernel(c, c, k);
    cell.alpha = vector(c, 0.1), cell.mu = vector(c, 1);
    if (!options.less_softplus) cell.w = vector(c, 0.5);
    Random random = streams.next();
    V bias = to<Device>(uniform<T>(Shape{c}, 1, std::max(options.steps, 2) - 1, random));
    if (options.initialisation == Initialisation::corrected) bias = stop_gradient(log(bias));
    cell.gate = GalaGate<T, Device>::initial(options.gala, c / 2, k, bias, streams);
    cell.u1_gate = {kernel(c, c, 1), -bias};
    cell.bn = {GroupNorm<T, Device>::initial(c, options.groups, 0.1),
               GroupNorm<T, Device>::initial(c, options.groups, 0.1)};
    return cell;
  }

  /// The state that every run starts from: zeros.
  V initial_state(const V& x) const { return Tensor<T, Device>(x.shape(), T{0}); }

  /// The next state.
  V operator()(const V& h, const V& x) const {
    const V inhibition = conv_same(gate(h), w_gate_inh);
    const auto [scale0, shift0] = bn[0].fold(inhibition);
    const V i = map([](auto drive, auto state, auto c, auto scale, auto shift, auto a,
                       auto m) { return softplus_cut(drive - (c * scale + shift) * (a * state + m)); },
                    x, h, inhibition, scale0, shift0, alpha, mu);
    const V excitation = conv_same(i, w_gate_exc), update = u1_gate.linear(i), bias = u1_gate.channel_bias();
    const auto [scale1, shift1] = bn[1].fold(excitation);
    if (less_softplus)
      return map(
          [](auto state, auto u, auto b, auto c, auto scale, auto shift) {
            const auto g = sigmoid(u + b);
            return (1. - g) * state + g * softplus_cut(c * scale + shift);
          },
          h, update, bias, excitation, scale1, shift1);
    return map(
        [](auto state, auto inner, auto u, auto b, auto c, auto scale, auto shift, auto weight) {
          const auto g = sigmoid(u + b);
          const auto candidate = inner + softplus_cut(weight * inner * softplus_cut(c * scale + shift));
          return (1. - g) * state + g * candidate;
        },
        h, i, update, bias, excitation, scale1, shift1, w);
  }

  void parameters(auto&& visit) {
    visit("w_gate_inh", w_gate_inh), visit("w_gate_exc", w_gate_exc), visit("alpha", alpha), visit("mu", mu);
    if (!less_softplus) visit("w", w);
    gate.parameters(visit);
    visit_part("u1_gate", u1_gate, visit);
    for (std::size_t k = 0; k < bn.size(); ++k) visit_part("bn." + std::to_string(k), bn[k], visit);
  }
};

}  // namespace settle
