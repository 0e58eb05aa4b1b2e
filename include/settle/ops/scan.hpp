#pragma once
#include <vector>

#include "settle/ops/concat.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/pad.hpp"
#include "settle/ops/slice.hpp"

namespace settle::inline v0_2 {

/// The product over some axes, which keep extent 1; of nothing it is 1. Halves are multiplied with each other until one
/// is left, so that zeros take nothing from the derivatives.
template <class T, class D>
Var<T, D> prod(const Var<T, D>& x, Axes axes) {
  Var<T, D> y = x;
  for (const int axis : axes) {
    const int along = x.shape().axis(axis);
    if (y.shape(along) == 0) {
      y = Tensor<T, D>(reduced(y.shape(), Axes{along}), T{1});
      continue;
    }
    while (y.shape(along) > 1) {
      const Index half = y.shape(along) / 2;
      const Var<T, D> product = slice(y, along, 0, half) * slice(y, along, half, half);
      y = y.shape(along) % 2 == 0 ? product : concat(std::vector{product, slice(y, along, 2 * half, 1)}, along);
    }
  }
  return y;
}

/// The sums of all elements up to each, along an axis: y[..., i, ...] = x[..., 0, ...] + ... + x[..., i, ...], by
/// adding what is 1, 2, 4, ... places before.
template <class T, class D>
Var<T, D> cumsum(const Var<T, D>& x, int axis) {
  const int along = x.shape().axis(axis);
  const Index extent = x.shape(along);
  Var<T, D> y = x;
  for (Index step = 1; step < extent; step *= 2) {
    Shape before, after;
    for (int a = 0; a < x.shape().rank(); ++a) before.append(a == along ? step : 0), after.append(0);
    y = y + pad(slice(y, along, 0, extent - step), before, after);
  }
  return y;
}

struct ProdOp {
  static constexpr const char* name = "prod";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Tensor<double> x, Axes axes) {
      const Shape from = x.shape(), to = reduced(from, axes);
      s.add(
          title, [=](const auto& in) { return prod(in[0], axes); }, {x},
          [=, &s](const auto& in) {
            Tensor<double> out(to, 1.0);
            for (Index k = 0; k < from.size(); ++k) {
              const auto i = s.position(from, k);
              Index place = 0;
              for (int a = 0; a < to.rank(); ++a) place = place * to[a] + (to[a] == 1 ? 0 : i[a]);
              out.mutable_data()[place] *= in[0].data()[k];
            }
            return out;
          });
    };
    add("rows", s.uniform({3, 5}), {1});
    add("some axes", s.uniform({2, 3, 2, 3}), {0, 2, 3});
    add("of two zeros", Tensor<double>({3, 3}, {1, 2, 3, 0, 2, 4, 0, 3, 0}), {-1});
    add("one element", s.uniform({1, 2}), {0});
    add("of nothing", s.uniform({2, 0}), {1});
    add("an empty batch", s.uniform({0, 3}), {1});
  }
};

struct CumsumOp {
  static constexpr const char* name = "cumsum";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape shape, int axis) {
      s.add(
          title, [=](const auto& in) { return cumsum(in[0], axis); }, {s.uniform(shape)},
          [=, &s](const auto& in) {
            return s.table(shape, [&](Index at) {
              auto i = s.position(shape, at);
              const Index last = i[axis];
              double sum = 0;
              for (i[axis] = 0; i[axis] <= last; ++i[axis]) sum += s.at(in[0], i);
              return sum;
            });
          });
    };
    add("rows", {2, 5}, 1);
    add("an axis between", {2, 7, 3}, -2);
    add("one element", {1, 3}, 0);
    add("nothing", {2, 0}, 1);
  }
};

}  // namespace settle
