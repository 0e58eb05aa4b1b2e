#pragma once
#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "settle/ops/elements.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// Calls f(at, first, stride) for every line of elements along an axis, line number `at`: its k-th element is number
/// first + k stride.
template <class F>
void each_line(const Shape& shape, int axis, const F& f) {
  const auto around_axis = around(shape, axis);
  const Index outer = around_axis.first, inner = around_axis.second, extent = shape[axis];
  for (Index o = 0; o < outer; ++o)
    for (Index i = 0; i < inner; ++i) f(o * inner + i, o * extent * inner + i, inner);
}

/// Whether a comes before b: not-a-number is larger than any number.
template <class T>
bool ordered_before(T a, T b, bool descending) {
  const bool less = b != b ? a == a : a < b, greater = a != a ? b == b : b < a;
  return descending ? greater : less;
}

}  // namespace detail

/// The positions along an axis in the order of the elements there, shape that of x; of equal ones the first comes first,
/// and not-a-number counts as the largest. They are found on the processor, whatever the device.
template <class T, class D>
Tensor<Index> argsort(const Var<T, D>& x, int axis, bool descending = false) {
  const int along = x.shape().axis(axis);
  const Tensor<T> values = to<Cpu>(x.value());
  Tensor<Index> out(x.shape());
  Index* const places = out.mutable_data();
  std::vector<Index> order(static_cast<std::size_t>(x.shape(along)));
  detail::each_line(x.shape(), along, [&](Index, Index first, Index stride) {
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
      return detail::ordered_before(values.data()[first + a * stride], values.data()[first + b * stride], descending);
    });
    for (std::size_t k = 0; k < order.size(); ++k) places[first + static_cast<Index>(k) * stride] = order[k];
  });
  return out;
}

/// Elements in an order, and the positions that they had along the axis.
template <class V>
struct Ordered {
  V values;
  Tensor<Index> positions;
};

/// x with its elements along an axis in ascending order, or in descending; order and ties as argsort.
template <class T, class D>
Ordered<Var<T, D>> sort(const Var<T, D>& x, int axis, bool descending = false) {
  const Tensor<Index> positions = argsort(x, axis, descending);
  return {gather_elements(x, axis, positions), positions};
}

/// The `count` largest elements along an axis, the largest first, or the smallest. Throws Error where there are fewer.
template <class T, class D>
Ordered<Var<T, D>> top_k(const Var<T, D>& x, Index count, int axis = -1, bool largest = true) {
  const int along = x.shape().axis(axis);
  require(count >= 0 && count <= x.shape(along), "top_k", "expected at most the ", x.shape(along), " elements of axis ",
          along, " of ", x.shape(), ", got ", count);
  const Tensor<Index> all = argsort(x, axis, largest);
  Shape shape = x.shape();
  shape[along] = count;
  Tensor<Index> positions(shape);
  Index* const out = positions.mutable_data();
  detail::each_line(shape, along, [&](Index line, Index first, Index stride) {
    const Index from = line / stride * x.shape(along) * stride + line % stride;
    for (Index k = 0; k < count; ++k) out[first + k * stride] = all.data()[from + k * stride];
  });
  return {gather_elements(x, axis, positions), positions};
}

/// The position of the largest element along an axis, which keeps extent 1: the first of equal ones, and of
/// not-a-number. Throws Error for an axis of extent 0.
template <class T, class D>
Tensor<Index> argmax(const Var<T, D>& x, int axis) {
  const int along = x.shape().axis(axis);
  require(x.shape(along) > 0, "argmax", "the largest of no elements is undefined, got shape ", x.shape());
  const Tensor<T> values = to<Cpu>(x.value());
  Tensor<Index> out(reduced(x.shape(), Axes{along}));
  Index* const places = out.mutable_data();
  detail::each_line(x.shape(), along, [&](Index line, Index first, Index stride) {
    Index best = 0;
    for (Index k = 1; k < x.shape(along); ++k)
      if (detail::ordered_before(values.data()[first + k * stride], values.data()[first + best * stride], true)) best = k;
    places[line] = best;
  });
  return out;
}

/// The same for the smallest element.
template <class T, class D>
Tensor<Index> argmin(const Var<T, D>& x, int axis) {
  return argmax(-x, axis);
}

struct SortOp {
  static constexpr const char* name = "sort";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape shape, int axis, bool descending) {
      s.add(
          title, [=](const auto& in) { return sort(in[0], axis, descending).values; }, {s.distinct(shape)},
          [=, &s](const auto& in) {
            return s.table(shape, [&](Index at) {
              auto i = s.position(shape, at);
              const auto k = static_cast<std::size_t>(i[axis]);
              std::vector<double> line;
              for (i[axis] = 0; i[axis] < shape[axis]; ++i[axis]) line.push_back(s.at(in[0], i));
              descending ? std::sort(line.begin(), line.end(), std::greater<>()) : std::sort(line.begin(), line.end());
              return line[k];
            });
          });
    };
    add("rows", {3, 5}, 1, false);
    add("an axis between, descending", {2, 4, 3}, -2, true);
    add("one element", {1, 1}, 0, true);
    add("an empty batch", {0, 3}, 1, false);
  }
};

struct TopKOp {
  static constexpr const char* name = "top_k";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape shape, Index count, int axis, bool largest) {
      Shape to = shape;
      to[axis] = count;
      s.add(
          title, [=](const auto& in) { return top_k(in[0], count, axis, largest).values; }, {s.distinct(shape)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              const auto k = static_cast<std::size_t>(i[axis]);
              std::vector<double> line;
              for (i[axis] = 0; i[axis] < shape[axis]; ++i[axis]) line.push_back(s.at(in[0], i));
              largest ? std::sort(line.begin(), line.end(), std::greater<>()) : std::sort(line.begin(), line.end());
              return line[k];
            });
          });
    };
    add("of each row", {3, 5}, 2, -1, true);
    add("the smallest, of an axis between", {2, 4, 3}, 3, 1, false);
    add("all", {3}, 3, 0, true);
    add("none", {2, 3}, 0, 1, true);
  }
};

}  // namespace settle
