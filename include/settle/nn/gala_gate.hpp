#pragma once
#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"

namespace settle::inline v0_2 {

/// The first gate of the released panoptic code's hGRU cells, with ζ softplus (the identity above 20), σ sigmoid, * a
/// convolution with zero padding and ⊙ pointwise:
///
///     g(h) = σ(V1 ζ(V0 h + v0) ⊙ (S1 * ζ(S0 * h + s0)) + b)      with gala: a channel's part and a place's (Linsley et
///     al.
///                                                                2019), the channel's without pooling over places
///     g(h) = σ(U0 h + u0)                                        without
///
/// Parameters bear the released names.
template <Scalar T, class Device = Cpu>
struct GalaGate {
  using V = Var<T, Device>;

  bool gala = true;
  ConvLayer<T, Device> channel_gate_0;             ///< V0 (C / 4, C, 1, 1) and v0
  V channel_gate_1;                                ///< V1 (C, C / 4, 1, 1)
  V spatial_gate_0, spatial_bias, spatial_gate_1;  ///< S0 (S, C, k, k), s0 (S, 1, 1), S1 (1, S, k, k)
  V combine_bias;                                  ///< b (C, 1, 1)
  ConvLayer<T, Device> u0_gate;                    ///< without gala

  /// Kernels Kaiming normal of the fan in (U0 Xavier uniform), s0 0, v0 as PyTorch's convolutions; b or u0 is `bias`
  /// (C). `spatial` is the number S of maps. Throws Error unless 4 divides the channels.
  static GalaGate initial(bool gala, Index spatial, Index kernel, const V& bias, ParameterStreams& streams) {
    const Index c = bias.size();
    require(!gala || c % 4 == 0, "gala_gate", "expected channels that 4 divides, got ", c);
    const auto weight = [&](Index out, Index in, Index extent) {
      return V(fill_weight<T, Device>({out, in, extent, extent}, {WeightFilling::kaiming_fan_in}, streams));
    };
    GalaGate gate;
    gate.gala = gala;
    if (!gala) {
      gate.u0_gate = {fill_weight<T, Device>({c, c, 1, 1}, {WeightFilling::xavier_uniform}, streams), bias};
      return gate;
    }
    gate.channel_gate_0 = ConvLayer<T, Device>::initial(c / 4, c, 1, streams);
    gate.channel_gate_0.weight = weight(c / 4, c, 1), gate.channel_gate_1 = weight(c, c / 4, 1);
    gate.spatial_gate_0 = weight(spatial, c, kernel), gate.spatial_gate_1 = weight(1, spatial, kernel);
    gate.spatial_bias = Tensor<T, Device>(Shape{spatial, 1, 1}, T{0});
    gate.combine_bias = reshape(bias, {c, 1, 1});
    return gate;
  }

  /// g(h) ⊙ h
  V operator()(const V& h) const {
    if (!gala)
      return map([](auto v, auto u, auto b) { return v * sigmoid(u + b); }, h, u0_gate.linear(h),
                 u0_gate.channel_bias());
    const auto plus = [](auto v, auto b) { return softplus_cut(v + b); };
    const V channels = conv(map(plus, channel_gate_0.linear(h), channel_gate_0.channel_bias()), channel_gate_1);
    const V places = conv_same(map(plus, conv_same(h, spatial_gate_0), spatial_bias), spatial_gate_1);
    return map([](auto v, auto c, auto s, auto b) { return v * sigmoid(c * s + b); }, h, channels, places,
               combine_bias);
  }

  void parameters(auto&& visit) {
    if (!gala) return visit_part("u0_gate", u0_gate, visit);
    visit_part("u0_channel_gate_0", channel_gate_0, visit), visit("u0_channel_gate_1.weight", channel_gate_1);
    visit("u0_spatial_gate_0", spatial_gate_0), visit("u0_spatial_bias", spatial_bias);
    visit("u0_spatial_gate_1", spatial_gate_1), visit("u0_combine_bias", combine_bias);
  }
};

}  // namespace settle
