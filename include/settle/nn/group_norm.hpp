#pragma once
#include <array>

#include "settle/nn/batch_norm.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// Statistics of the rows of x (rows, columns, places) over the last two axes, each (rows).
template <class T, class D>
CentredStatistics<T, D> row_statistics(const Var<T, D>& x) {
  const Index rows = x.shape(0);
  const auto s = centred_statistics(reshape(x, {1, rows, x.shape(1), x.shape(2)}));
  return {reshape(s.centre, {rows}), reshape(s.offset, {rows}), reshape(s.variance, {rows})};
}

}  // namespace detail

/// Group norm, as PyTorch's GroupNorm: the channels are cut into groups, and each group of a sample is normalised by
/// its own mean and variance: (x - mean) / sqrt(variance + epsilon) · weight + bias, weight and bias per channel.
/// Samples stay apart.
template <Scalar T, class Device = Cpu>
struct GroupNorm {
  Var<T, Device> weight, bias;  ///< (C)
  Index groups = 32;
  double epsilon = 1e-5;

  /// All channels with the same weight and bias. Throws Error unless the channels can be cut into the groups.
  static GroupNorm initial(Index channels, Index groups, double weight = 1, double bias = 0, double epsilon = 1e-5) {
    require(groups >= 1 && channels >= 1 && channels % groups == 0, "group_norm",
            "expected groups that divide the channels, got ", groups, " groups and ", channels, " channels");
    return {Tensor<T, Device>(Shape{channels}, static_cast<T>(weight)),
            Tensor<T, Device>(Shape{channels}, static_cast<T>(bias)), groups, epsilon};
  }

  /// The normalisation for x (N, C, ...) with a number for each sample and channel, (N, C, 1, 1), for the map that uses
  /// x (N, C, H, W). Where a group's mean is a thousand times its spread three digits are lost; the operator below
  /// keeps them.
  ScaleShift<T, Device> fold(const Var<T, Device>& x) const {
    const Shape shape{x.shape(0), weight.size(), 1, 1};
    if (x.size() == 0) {
      const Var<T, Device> w = per_channel(weight), b = per_channel(bias);
      return {broadcast_to(w, shape), broadcast_to(b, shape)};
    }
    const auto s = statistics(x);
    const auto [scale, shift] = map(
        [](auto centre, auto offset, auto variance, auto w, auto b, auto eps) {
          const auto factor = w * rsqrt(variance + eps);
          return outputs(factor, b - (centre + offset) * factor);
        },
        s.centre, s.offset, s.variance, by_group(weight), by_group(bias), epsilon);
    return {reshape(scale, shape), reshape(shift, shape)};
  }

  /// x (N, C, ...) normalised, without loss of digits however far a group's mean is from 0.
  Var<T, Device> operator()(const Var<T, Device>& x) const {
    if (x.size() == 0) return check_shape(x), x;
    const auto s = statistics(x);
    const Shape grouped{x.shape(0), groups, weight.size() / groups, x.size() / x.shape(0) / weight.size()};
    const Shape per_group{x.shape(0), groups, 1, 1}, per_weight{groups, weight.size() / groups, 1};
    const auto y = map([](auto v, auto centre, auto offset, auto variance, auto w, auto b,
                          auto eps) { return (v - centre - offset) * (w * rsqrt(variance + eps)) + b; },
                       reshape(x, grouped), reshape(s.centre, per_group), reshape(s.offset, per_group),
                       reshape(s.variance, per_group), reshape(weight, per_weight), reshape(bias, per_weight), epsilon);
    return reshape(y, x.shape());
  }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }

 private:
  void check_shape(const Var<T, Device>& x) const {
    require(x.shape().rank() >= 2 && x.shape(1) == weight.size() && bias.shape() == weight.shape() &&
                weight.size() % groups == 0,
            "group_norm", "expected x (N, ", weight.size(), ", ...) in ", groups, " groups, got ", x.shape());
  }

  /// (1, groups, C / groups)
  Var<T, Device> by_group(const Var<T, Device>& v) const { return reshape(v, {1, groups, v.size() / groups}); }

  /// (N, groups, 1)
  detail::CentredStatistics<T, Device> statistics(const Var<T, Device>& x) const {
    check_shape(x);
    const Index rows = x.shape(0) * groups, columns = weight.size() / groups;
    const auto s = detail::row_statistics(reshape(x, {rows, columns, x.size() / rows / columns}));
    const Shape shape{x.shape(0), groups, 1};
    return {reshape(s.centre, shape), reshape(s.offset, shape), reshape(s.variance, shape)};
  }
};

/// Layer norm, as PyTorch's LayerNorm: the last axes, those of the weight's shape, are normalised together by their own
/// mean and variance, then · weight + bias element by element.
template <Scalar T, class Device = Cpu>
struct LayerNorm {
  Var<T, Device> weight, bias;
  double epsilon = 1e-5;

  /// Weight 1 and bias 0 for the last axes. Throws Error for no elements.
  static LayerNorm initial(const Shape& axes, double epsilon = 1e-5) {
    require(axes.rank() >= 1 && axes.size() >= 1, "layer_norm", "expected the shape of at least one element, got ",
            axes);
    return {Tensor<T, Device>(axes, T{1}), Tensor<T, Device>(axes, T{0}), epsilon};
  }

  Var<T, Device> operator()(const Var<T, Device>& x) const {
    const Shape &axes = weight.shape(), &shape = x.shape();
    bool fits = shape.rank() >= axes.rank() && bias.shape() == axes;
    for (int a = 1; fits && a <= axes.rank(); ++a) fits = shape[-a] == axes[-a];
    require(fits, "layer_norm", "expected the last axes ", axes, ", got ", shape);
    if (x.size() == 0) return x;
    const Index count = weight.size(), rows = x.size() / count;
    const auto s = detail::row_statistics(reshape(x, {rows, count, 1}));
    const Shape per_row{rows, 1}, per_element{1, count};
    const auto y = map([](auto v, auto centre, auto offset, auto variance, auto w, auto b,
                          auto eps) { return (v - centre - offset) * rsqrt(variance + eps) * w + b; },
                       reshape(x, {rows, count}), reshape(s.centre, per_row), reshape(s.offset, per_row),
                       reshape(s.variance, per_row), reshape(weight, per_element), reshape(bias, per_element), epsilon);
    return reshape(y, shape);
  }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

}  // namespace settle
