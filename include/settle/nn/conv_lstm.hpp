#pragma once
#include <array>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"

namespace settle::inline v0_2 {

/// The convolutional LSTM cell of the released code (convlstm.py): with σ sigmoid, * a k x k convolution with zero
/// padding and ⊙ pointwise, on the state (h, c) and the drive x, all (N, C, H, W),
///
///     i = σ(Wxi * x + bi + Whi * h)     f = σ(Wxf * x + bf + Whf * h)     o = σ(Wxo * x + bo + Who * h)
///     c' = f ⊙ c + i ⊙ tanh(Wxc * x + bc + Whc * h)                       h' = o ⊙ tanh(c')
///
/// Without peepholes and batch norm. Parameters bear the released names.
template <Scalar T, class Device = Cpu>
struct ConvLstmCell {
  using V = Var<T, Device>;
  using State = std::array<V, 2>;  ///< h, c

  ConvLayer<T, Device> wxi, wxf, wxc, wxo;
  V whi, whf, whc, who;  ///< (C, C, k, k)

  /// PyTorch's default initial values, as in the released code.
  static ConvLstmCell initial(Index channels, Index kernel, ParameterStreams& streams) {
    const auto layer = [&] { return ConvLayer<T, Device>::initial(channels, channels, kernel, streams); };
    const auto kernels = [&] {
      const Shape shape{channels, channels, kernel, kernel};
      return V(to<Device>(conv_uniform<T>(shape, shape, streams.next())));
    };
    return {.wxi = layer(),
            .wxf = layer(),
            .wxc = layer(),
            .wxo = layer(),
            .whi = kernels(),
            .whf = kernels(),
            .whc = kernels(),
            .who = kernels()};
  }

  /// What the drive gives to i, f, c and o: the same at every step.
  std::array<V, 4> prepare(const V& x) const { return {wxi(x), wxf(x), wxc(x), wxo(x)}; }

  /// The state that every run starts from: zeros.
  State initial_state(const V& x) const {
    const V zero(Tensor<T, Device>(x.shape(), T{0}));
    return {zero, zero};
  }

  /// The next state, for a prepared drive.
  State operator()(const State& state, const V& drive_i, const V& drive_f, const V& drive_c, const V& drive_o) const {
    const auto& [h, c] = state;
    const V next_c = map([](auto cell, auto xi, auto hi, auto xf, auto hf, auto xc,
                            auto hc) { return sigmoid(xf + hf) * cell + sigmoid(xi + hi) * tanh(xc + hc); },
                         c, drive_i, conv_same(h, whi), drive_f, conv_same(h, whf), drive_c, conv_same(h, whc));
    // A pass of its own, and not a second output of the one above: the penalty of the released code follows the path
    // from c to h' through c'.
    const V next_h = map([](auto cell, auto xo, auto ho) { return sigmoid(xo + ho) * tanh(cell); }, next_c, drive_o,
                         conv_same(h, who));
    return {next_h, next_c};
  }

  /// The next state.
  State operator()(const State& state, const V& x) const {
    const auto [drive_i, drive_f, drive_c, drive_o] = prepare(x);
    return (*this)(state, drive_i, drive_f, drive_c, drive_o);
  }

  void parameters(auto&& visit) {
    visit_part("Wxi", wxi, visit), visit("Whi.weight", whi);
    visit_part("Wxf", wxf, visit), visit("Whf.weight", whf);
    visit_part("Wxc", wxc, visit), visit("Whc.weight", whc);
    visit_part("Wxo", wxo, visit), visit("Who.weight", who);
  }
};

}  // namespace settle
