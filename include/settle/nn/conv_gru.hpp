#pragma once
#include <array>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/released_models.hpp"

namespace settle::inline v0_2 {

/// A convolutional GRU (Ballas et al. 2016), with σ sigmoid, * a k x k convolution with zero padding and ⊙ pointwise,
/// on the state h and the drive x, both (N, C, H, W):
///
///     z = σ(Wz * x + bz + Uz * h)     r = σ(Wr * x + br + Ur * h)
///     n = tanh(Wn * x + bn + Un * (r ⊙ h))                          h' = (1 - z) ⊙ h + z ⊙ n
template <Scalar T, class Device = Cpu>
struct ConvGruCell {
  using V = Var<T, Device>;

  ConvLayer<T, Device> wz, wr, wn;
  V uz, ur, un;  ///< (C, C, k, k)

  /// PyTorch's default initial values. Throws Error for no channels and an even kernel.
  static ConvGruCell initial(Index channels, Index kernel, ParameterStreams& streams) {
    const auto layer = [&] { return ConvLayer<T, Device>::initial(channels, channels, kernel, streams); };
    const auto kernels = [&] {
      const Shape shape{channels, channels, kernel, kernel};
      return V(to<Device>(conv_uniform<T>(shape, shape, streams.next())));
    };
    return {.wz = layer(), .wr = layer(), .wn = layer(), .uz = kernels(), .ur = kernels(), .un = kernels()};
  }

  /// What the drive gives to z, r and n: the same at every step.
  std::array<V, 3> prepare(const V& x) const { return {wz(x), wr(x), wn(x)}; }

  /// The state that every run starts from: zeros.
  V initial_state(const V& x) const { return Tensor<T, Device>(x.shape(), T{0}); }

  /// The next state, for a prepared drive.
  V operator()(const V& h, const V& drive_z, const V& drive_r, const V& drive_n) const {
    const V reset =
        map([](auto state, auto x, auto u) { return state * sigmoid(x + u); }, h, drive_r, conv_same(h, ur));
    return map(
        [](auto state, auto xz, auto uh, auto xn, auto un_r) {
          const auto gate = sigmoid(xz + uh);
          return (1. - gate) * state + gate * tanh(xn + un_r);
        },
        h, drive_z, conv_same(h, uz), drive_n, conv_same(reset, un));
  }

  /// The next state.
  V operator()(const V& h, const V& x) const {
    const auto [drive_z, drive_r, drive_n] = prepare(x);
    return (*this)(h, drive_z, drive_r, drive_n);
  }

  void parameters(auto&& visit) {
    visit_part("wz", wz, visit), visit("uz.weight", uz);
    visit_part("wr", wr, visit), visit("ur.weight", ur);
    visit_part("wn", wn, visit), visit("un.weight", un);
  }
};

/// The convolutional GRU between the released stem and readout, at its initial values.
template <Scalar T, class Device = Cpu>
RecurrentNet<SquaringStem<T, Device>, ConvGruCell<T, Device>, BatchNormReadout<T, Device>> conv_gru_net(
    const ModelOptions& o = {}) {
  ParameterStreams streams(o.seed);
  return {.stem = SquaringStem<T, Device>::initial(o.orientations, streams, o.image_channels),
          .cell = ConvGruCell<T, Device>::initial(o.channels(), o.kernel, streams),
          .readout = BatchNormReadout<T, Device>::initial(o.channels(), streams, o.classes)};
}

}  // namespace settle
