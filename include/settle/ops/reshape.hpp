#pragma once
#include <algorithm>

#include "settle/autodiff/tape.hpp"

namespace settle::inline v0_2 {

/// The same values in the same order under another shape of equal size; nothing is copied. Throws Error when the sizes
/// differ.
template <class T, class D>
Var<T, D> reshape(const Var<T, D>& x, const Shape& shape) {
  return record<T, D>("reshape", x.value().reshape(shape), {x},
                      [from = x.shape()](const Var<T, D>& g, Cotangents<T, D>& gradients) {
                        gradients.add(0, reshape(g, from));
                      });
}

/// x without the given axes, which must have extent 1: what a reduction over them leaves. Throws Error for another
/// extent.
template <class T, class D>
Var<T, D> squeeze(const Var<T, D>& x, Axes axes) {
  Shape shape;
  for (int a = 0; a < x.shape().rank(); ++a) {
    const bool goes = std::any_of(axes.begin(), axes.end(), [&](int b) { return x.shape().axis(b) == a; });
    require(!goes || x.shape(a) == 1, "squeeze", "expected extent 1 in axis ", a, " of ", x.shape());
    if (!goes) shape.append(x.shape(a));
  }
  return reshape(x, shape);
}

/// x with an axis of extent 1 put in, so that it is the result's number `axis`; a negative one counts from the end.
template <class T, class D>
Var<T, D> unsqueeze(const Var<T, D>& x, int axis) {
  const int rank = x.shape().rank(), at = axis < 0 ? axis + rank + 1 : axis;
  require(at >= 0 && at <= rank, "unsqueeze", "axis ", axis, " is out of range for a result of rank ", rank + 1);
  Shape shape;
  for (int a = 0; a <= rank; ++a) {
    if (a == at) shape.append(1);
    if (a < rank) shape.append(x.shape(a));
  }
  return reshape(x, shape);
}

struct ReshapeOp {
  static constexpr const char* name = "reshape";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, Shape to) {
      s.add(
          title, [=](const auto& in) { return reshape(in[0], to); }, {s.uniform(from)},
          [=, &s](const auto& in) { return s.table(to, [&](Index at) { return in[0].data()[at]; }); });
    };
    add("axes merged and split", {2, 3, 4}, {6, 1, 2, 2});
    add("a scalar to a matrix", {}, {1, 1});
    add("empty", {0, 3}, {2, 0});
    const auto same = [&s](Shape to) {
      return [=, &s](const auto& in) { return s.table(to, [&](Index at) { return in[0].data()[at]; }); };
    };
    s.add(
        "without axes of one", [](const auto& in) { return squeeze(in[0], {0, -1}); }, {s.uniform({1, 2, 1, 3, 1})},
        same({2, 1, 3}));
    s.add(
        "an axis put in", [](const auto& in) { return unsqueeze(unsqueeze(in[0], 1), -1); }, {s.uniform({2, 3})},
        same({2, 1, 3, 1}));
  }
};

}  // namespace settle
