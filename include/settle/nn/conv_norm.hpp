#pragma once
#include <array>
#include <type_traits>
#include <utility>
#include <variant>

#include "settle/autodiff/module.hpp"
#include "settle/nn/group_norm.hpp"
#include "settle/nn/initialisers.hpp"
#include "settle/ops/convolution.hpp"

namespace settle::inline v0_2 {

/// Whether a net is trained, which batch norms make a difference of.
enum class Mode { train, evaluate };

/// Which normalisation follows a convolution.
enum class NormKind {
  none,
  group,        ///< GroupNorm
  batch,        ///< RunningBatchNorm
  frozen_batch  ///< FrozenBatchNorm, of pretrained nets
};

struct NormOptions {
  NormKind kind = NormKind::none;
  Index groups = 32;  ///< of NormKind::group
};

/// A normalisation chosen at run time.
template <Scalar T, class Device = Cpu>
struct NormLayer {
  using V = Var<T, Device>;
  std::variant<std::monostate, GroupNorm<T, Device>, RunningBatchNorm<T, Device>, FrozenBatchNorm<T, Device>> norm;

  static NormLayer initial(Index channels, const NormOptions& options) {
    switch (options.kind) {
      case NormKind::group:
        return {GroupNorm<T, Device>::initial(channels, options.groups)};
      case NormKind::batch:
        return {RunningBatchNorm<T, Device>::initial(channels, 1e-5)};
      case NormKind::frozen_batch:
        return {FrozenBatchNorm<T, Device>::initial(channels)};
      case NormKind::none:
        break;
    }
    return {};
  }

  /// The normalisation for x (N, C, H, W) as a factor and a number added; updates running statistics in training.
  /// Statistics of no values stay as they are. Not for none.
  ScaleShift<T, Device> fold(const V& x, Mode mode) {
    return std::visit(
        [&]<class N>(N& n) -> ScaleShift<T, Device> {
          if constexpr (std::is_same_v<N, RunningBatchNorm<T, Device>>)
            return mode == Mode::train && x.size() > 0 ? n.train(x) : n.evaluate();
          else if constexpr (std::is_same_v<N, GroupNorm<T, Device>>)
            return n.fold(x);
          else if constexpr (std::is_same_v<N, FrozenBatchNorm<T, Device>>)
            return n.fold();
          else
            fail("norm", "there is no normalisation to fold");
        },
        norm);
  }

  bool none() const { return std::holds_alternative<std::monostate>(norm); }
  const FrozenBatchNorm<T, Device>* frozen() const { return std::get_if<FrozenBatchNorm<T, Device>>(&norm); }

  void parameters(auto&& visit) {
    std::visit(
        [&]<class N>(N& n) {
          if constexpr (!std::is_same_v<N, std::monostate>) n.parameters(visit);
        },
        norm);
  }
  void buffers(auto&& visit) {
    std::visit(
        [&]<class N>(N& n) {
          if constexpr (requires { n.buffers(visit); }) n.buffers(visit);
        },
        norm);
  }
};

/// What a ConvNorm is made of.
struct ConvNormOptions {
  Index in = 1, out = 1;
  Index kernel = 3, stride = 1;
  bool bias = false;
  NormOptions norm{};
  WeightFilling filling{};  ///< of the kernel
};

/// A convolution padded by half its kernel's extent, a normalisation or a bias, and on demand an addition and ReLU, in
/// one pass behind the convolution; a frozen batch norm's factor goes into the kernel. Parameters are named as in
/// detectron2's Conv2d: weight, bias, norm.*.
template <Scalar T, class Device = Cpu>
struct ConvNorm {
  using V = Var<T, Device>;

  V weight;  ///< (O, I, k, k)
  V bias;    ///< (O); undefined where there is none
  NormLayer<T, Device> norm;
  Index stride = 1;
  bool frozen = false;  ///< weight and bias are buffers: saved, not trained

  /// Kernels as options.filling says, biases 0. Throws Error for no channels and an even kernel.
  static ConvNorm initial(const ConvNormOptions& options, ParameterStreams& streams) {
    require(options.in >= 1 && options.out >= 1 && options.kernel >= 1 && options.kernel % 2 == 1, "conv_norm",
            "expected at least 1 channel and an odd kernel, got ", options.in, " to ", options.out,
            " channels and a kernel of ", options.kernel);
    const Shape shape{options.out, options.in, options.kernel, options.kernel};
    ConvNorm layer;
    layer.weight = fill_weight<T, Device>(shape, options.filling, streams);
    if (options.bias) layer.bias = Tensor<T, Device>(Shape{options.out}, T{0});
    layer.norm = NormLayer<T, Device>::initial(options.out, options.norm);
    layer.stride = options.stride;
    return layer;
  }

  /// x (N, I, H, W) to (N, O, H / stride, W / stride), rounded up: norm(conv(x)) + added, if that is defined, and ReLU
  /// of it where asked for.
  V forward(const V& x, Mode mode, bool activate = false, const V& added = {}) {
    const Index pad = weight.shape(2) / 2;
    const ConvOptions slide{.stride = {stride, stride}, .padding = {pad, pad}};
    V scale = Tensor<T, Device>(Shape{}, T{1}), shift = Tensor<T, Device>(Shape{}, T{0}), y;
    if (norm.frozen()) {
      const auto folded = norm.fold(x, mode);
      y = conv(x, weight * reshape(folded.scale, {weight.shape(0), 1, 1, 1}), slide);
      shift = folded.shift;
    } else {
      y = conv(x, weight, slide);
      if (!norm.none()) {
        if (bias.defined()) y = y + per_channel(bias);  // statistics are of both
        const auto folded = norm.fold(y, mode);
        scale = folded.scale, shift = folded.shift;
      }
    }
    if (bias.defined() && norm.none()) shift = per_channel(bias);
    if (bias.defined() && norm.frozen()) shift = shift + norm.fold(x, mode).scale * per_channel(bias);
    if (added.defined())
      return activate ? map([](auto v, auto s, auto b, auto a) { return relu(v * s + b + a); }, y, scale, shift, added)
                      : map([](auto v, auto s, auto b, auto a) { return v * s + b + a; }, y, scale, shift, added);
    if (activate) return map([](auto v, auto s, auto b) { return relu(v * s + b); }, y, scale, shift);
    return norm.none() && !bias.defined() ? y : map([](auto v, auto s, auto b) { return v * s + b; }, y, scale, shift);
  }

  void parameters(auto&& visit) {
    if (!frozen) visit_own(visit);
    visit_part("norm", norm, visit);
  }
  void buffers(auto&& visit) {
    if (frozen) visit_own(visit);
    visit_buffers("norm", norm, visit);
  }

 private:
  void visit_own(auto& visit) {
    visit("weight", weight);
    if (bias.defined()) visit("bias", bias);
  }
};

}  // namespace settle
