#pragma once
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "settle/autodiff/module.hpp"
#include "settle/nn/gala_gate.hpp"
#include "settle/nn/group_norm.hpp"
#include "settle/ops/concat.hpp"

namespace settle::inline v0_2 {

/// What a HgruV2Cell is made of.
struct HgruV2Options {
  Index in = 256, channels = 256;  ///< of the drive, and of the state
  Index kernel = 3;
  bool gala = true;
  Index groups = 32;  ///< of the group norms
  int steps = 20;     ///< that the gates' initial biases are made for
};

/// The hGRU whose state has other channels than its drive, of the released panoptic code (rnns.py, hConvGRUCellv2): the
/// state is spread over the drive's channels first. Signs as at GalaHgruCell, [,] is side by side:
///
///     f  = F * h + f0
///     g1 = g(f)               of GalaGate, a quarter of the channels for its maps
///     i  = ζ(x - ζ(GN0(W_inh * (g1 ⊙ f)) ⊙ (α ⊙ f + μ)))
///     g2 = σ(U1 [i, h] + u1)       h' = (1 - g2) ⊙ h + g2 ⊙ ζ(GN1(W_exc * i))
///
/// x has the shape (N, I, H, W), the state (N, C, H, W). Parameters bear the released names.
template <Scalar T, class Device = Cpu>
struct HgruV2Cell {
  using V = Var<T, Device>;

  V fan_out_kernel, fan_out_bias;  ///< F (I, C, k, k), f0 (I, 1, 1)
  V w_gate_inh, w_gate_exc;        ///< (I, I, k, k), (C, I, k, k)
  V alpha, mu;                     ///< (I, 1, 1)
  GalaGate<T, Device> gate;        ///< g1
  ConvLayer<T, Device> u1_gate;    ///< (C, I + C, 1, 1)
  std::array<GroupNorm<T, Device>, 2> bn;

  /// Kernels are Kaiming normal of the fan in where the released code's are orthogonal, which takes long for as many
  /// channels (U0 Xavier uniform); alpha 0.1, mu 0, group norms 0.1, b or u0 from U(1, T - 1) without the logarithm, as
  /// released, and u1 = -log U(1, T - 1). Throws Error unless 4 and the groups divide the channels.
  static HgruV2Cell initial(const HgruV2Options& options, ParameterStreams& streams) {
    const Index in = options.in, c = options.channels, k = options.kernel;
    require_layer("hgru_v2", std::min(in, c), k);
    const auto kernel = [&](Index to, Index from, Index extent) {
      return V(fill_weight<T, Device>({to, from, extent, extent}, {WeightFilling::kaiming_fan_in}, streams));
    };
    const auto vector = [&](Index channels, double value) {
      return V(Tensor<T, Device>(Shape{channels, 1, 1}, static_cast<T>(value)));
    };
    const auto drawn = [&](Index channels) {
      Random random = streams.next();
      return V(to<Device>(uniform<T>(Shape{channels}, 1, std::max(options.steps, 2) - 1, random)));
    };
    HgruV2Cell cell;
    cell.fan_out_kernel = kernel(in, c, k), cell.fan_out_bias = vector(in, 0);
    cell.w_gate_inh = kernel(in, in, k), cell.w_gate_exc = kernel(c, in, k);
    cell.alpha = vector(in, 0.1), cell.mu = vector(in, 0);
    cell.gate = GalaGate<T, Device>::initial(options.gala, std::max<Index>(in / 4, 1), k, drawn(in), streams);
    cell.u1_gate = {kernel(c, in + c, 1), -log(drawn(c))};
    cell.bn = {GroupNorm<T, Device>::initial(in, options.groups, 0.1),
               GroupNorm<T, Device>::initial(c, options.groups, 0.1)};
    return cell;
  }

  /// The state that every run starts from: zeros.
  V initial_state(const V& x) const {
    return Tensor<T, Device>(Shape{x.shape(0), fan_out_kernel.shape(1), x.shape(2), x.shape(3)}, T{0});
  }

  /// The next state.
  V operator()(const V& h, const V& x) const {
    const V spread = conv_same(h, fan_out_kernel) + fan_out_bias;
    const V inhibition = conv_same(gate(spread), w_gate_inh);
    const auto [scale0, shift0] = bn[0].fold(inhibition);
    const V i = map([](auto drive, auto f, auto c, auto scale, auto shift, auto a,
                       auto m) { return softplus_cut(drive - softplus_cut((c * scale + shift) * (a * f + m))); },
                    x, spread, inhibition, scale0, shift0, alpha, mu);
    const V excitation = conv_same(i, w_gate_exc), update = u1_gate.linear(concat(std::vector<V>{i, h}, 1));
    const auto [scale1, shift1] = bn[1].fold(excitation);
    return map(
        [](auto state, auto u, auto b, auto c, auto scale, auto shift) {
          const auto g = sigmoid(u + b);
          return (1. - g) * state + g * softplus_cut(c * scale + shift);
        },
        h, update, u1_gate.channel_bias(), excitation, scale1, shift1);
  }

  void parameters(auto&& visit) {
    visit("fan_out_kernel", fan_out_kernel), visit("fan_out_bias", fan_out_bias);
    visit("w_gate_inh", w_gate_inh), visit("w_gate_exc", w_gate_exc), visit("alpha", alpha), visit("mu", mu);
    gate.parameters(visit);
    visit_part("u1_gate", u1_gate, visit);
    for (std::size_t k = 0; k < bn.size(); ++k) visit_part("bn." + std::to_string(k), bn[k], visit);
  }
};

}  // namespace settle
