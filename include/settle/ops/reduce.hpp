#pragma once
#include <algorithm>
#include <vector>

#include "settle/ops/map.hpp"

namespace settle {

namespace detail {
inline std::vector<int> all_axes(const Shape& shape) {
  std::vector<int> axes;
  for (int a = 0; a < shape.rank(); ++a) axes.push_back(a);
  return axes;
}
template <class AxisList>
Index reduced_count(const Shape& shape, const AxisList& axes) {
  const Index kept = reduced(shape, axes).size();
  return kept == 0 ? 0 : shape.size() / kept;
}
}  // namespace detail

/// The sum over some axes, which keep extent 1. Sums are accumulated in double.
template <class T, class D>
Var<T, D> sum(const Var<T, D>& x, Axes axes) {
  return reduce([](auto v) { return v; }, axes, x);
}

/// The sum of all elements, a scalar.
template <class T, class D>
Var<T, D> sum(const Var<T, D>& x) {
  static const auto identity = [](auto v) { return v; };
  const auto& function = PointwiseFunction<T, D>::template of<decltype(identity), 1>();
  return detail::pointwise<T, D>(function, x.shape(), {x}, {Shape{}}, {true}).front();
}

/// The mean over some axes, which keep extent 1. Throws Error when there is nothing to average.
template <class T, class D>
Var<T, D> mean(const Var<T, D>& x, Axes axes) {
  const Index count = detail::reduced_count(x.shape(), axes);
  require(count > 0, "mean", "the mean of no elements is undefined, got shape ", x.shape());
  return (1.0 / static_cast<double>(count)) * sum(x, axes);
}

/// The mean of all elements, a scalar.
template <class T, class D>
Var<T, D> mean(const Var<T, D>& x) {
  require(x.size() > 0, "mean", "the mean of no elements is undefined, got shape ", x.shape());
  return (1.0 / static_cast<double>(x.size())) * sum(x);
}

/// The sum of x over its broadcast axes, down to `shape`; the adjoint of broadcast_to.
template <class T, class D>
Var<T, D> sum_to(const Var<T, D>& x, const Shape& shape) {
  require(broadcasts_to(shape, x.shape()), "sum_to", "shape ", shape, " does not broadcast to ", x.shape());
  static const auto identity = [](auto v) { return v; };
  const auto& function = PointwiseFunction<T, D>::template of<decltype(identity), 1>();
  return detail::pointwise<T, D>(function, x.shape(), {x}, {shape}, {true}).front();
}

/// x repeated along its axes of extent 1 (and new leading axes) to fill `shape`.
template <class T, class D>
Var<T, D> broadcast_to(const Var<T, D>& x, const Shape& shape) {
  require(broadcasts_to(x.shape(), shape), "broadcast_to", "shape ", x.shape(), " does not broadcast to ", shape);
  static const auto identity = [](auto v) { return v; };
  const auto& function = PointwiseFunction<T, D>::template of<decltype(identity), 1>();
  return detail::pointwise<T, D>(function, shape, {x}, {shape}, {true}).front();
}

namespace cpu {
/// The largest value along the axes that `out` has extent 1 in; NaN if any value is NaN.
template <class T>
void max_over(const Tensor<T>& x, Tensor<T>& out) {
  const Shape shapes[2] = {x.shape(), out.shape()};
  const Space loops(x.shape(), shapes);
  T* y = out.mutable_data();
  std::fill_n(y, out.size(), -std::numeric_limits<T>::infinity());
  const Index inner = loops.inner(), step = loops.inner_stride(1);
  for (Index r = 0; r < loops.runs(); ++r) {
    const T* from = x.data() + loops.offset(0, r);
    T* to = y + loops.offset(1, r);
    for (Index i = 0; i < inner; ++i) {
      T& best = to[i * step];
      if (!(from[i] <= best)) best = best != best ? best : from[i];
    }
  }
}
}  // namespace cpu

/// The largest value over some axes, which keep extent 1. Equal largest values share the cotangent, as PyTorch's amax does.
/// Throws Error when there is nothing to compare.
template <class T, class D>
Var<T, D> max(const Var<T, D>& x, Axes axes) {
  require(detail::reduced_count(x.shape(), axes) > 0, "max", "the maximum of no elements is undefined, got shape ",
          x.shape());
  Tensor<T, D> y(reduced(x.shape(), axes));
  cpu::max_over(x.value(), y);
  return record<T, D>("max", y, {x}, [x, y](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    const Var<T, D> largest(y);
    const Var<T, D> chosen = map([](auto v, auto m) { return v == m; }, stop_gradient(x), largest);
    gradients.add(0, map([](auto cotangent, auto one, auto count) { return cotangent * one / count; }, g, chosen,
                         sum_to(chosen, y.shape())));
  });
}

/// log(sum(exp(x))) over some axes, which keep extent 1; stable for large values.
template <class T, class D>
Var<T, D> logsumexp(const Var<T, D>& x, Axes axes) {
  // An infinite maximum must not become NaN by inf - inf.
  const Var<T, D> largest =
      map([](auto m) { return select(abs(m) <= 1e308, m, 0.); }, max(stop_gradient(x), axes));
  const Var<T, D> total = reduce([](auto v, auto m) { return exp(v - m); }, axes, x, largest);
  return map([](auto s, auto m) { return log(s) + m; }, total, largest);
}

/// x - logsumexp(x) over an axis: the logarithm of the softmax.
template <class T, class D>
Var<T, D> log_softmax(const Var<T, D>& x, int axis) {
  return x - logsumexp(x, {axis});
}

}  // namespace settle
