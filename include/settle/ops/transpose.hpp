#pragma once
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/cpu/backend.hpp"

namespace settle::inline v0_2 {

/// The axes in another order: axis k of the result is axis axes[k] of x (NumPy's transpose).
/// Throws Error when `axes` does not name each axis once.
template <class T, class D>
Var<T, D> transpose(const Var<T, D>& x, const std::vector<int>& axes) {
  const int rank = x.shape().rank();
  require(static_cast<int>(axes.size()) == rank, "transpose", "expected ", rank, " axes for shape ", x.shape(),
          ", got ", axes.size());
  const cpu::Strides contiguous = cpu::contiguous_strides(x.shape());
  cpu::Strides from{};
  std::vector<int> inverse(axes.size(), -1);
  Shape shape;
  for (std::size_t k = 0; k < axes.size(); ++k) {
    const auto axis = static_cast<std::size_t>(x.shape().axis(axes[k]));
    require(inverse[axis] < 0, "transpose", "axis ", axis, " is named twice");
    inverse[axis] = static_cast<int>(k);
    from[k] = contiguous[axis];
    shape.append(x.shape(axes[k]));
  }
  Tensor<T, D> y(shape);
  Backend<D>::copy_strided(shape, x.value().data(), from, y.mutable_data(), cpu::contiguous_strides(shape));
  return record<T, D>("transpose", y, {x}, [inverse](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, transpose(g, inverse));
  });
}

/// The last two axes swapped.
template <class T, class D>
Var<T, D> transpose(const Var<T, D>& x) {
  const int rank = x.shape().rank();
  require(rank >= 2, "transpose", "expected a matrix or a batch of matrices, got ", x.shape());
  std::vector<int> axes;
  for (int a = 0; a < rank - 2; ++a) axes.push_back(a);
  axes.insert(axes.end(), {rank - 1, rank - 2});
  return transpose(x, axes);
}

struct TransposeOp {
  static constexpr const char* name = "transpose";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, std::vector<int> axes) {
      Shape to;
      for (int a : axes) to.append(from[a]);
      s.add(
          title, [=](const auto& in) { return transpose(in[0], axes); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(from, 0);
              for (std::size_t k = 0; k < axes.size(); ++k)
                i[from.axis(axes[k])] = s.position(to, at)[static_cast<int>(k)];
              return s.at(in[0], i);
            });
          });
    };
    add("a matrix", {3, 5}, {1, 0});
    add("channels last", {2, 3, 2, 3}, {0, 2, 3, 1});
    add("all axes reversed", {2, 3, 1, 2}, {3, 2, 1, 0});
    add("axes counted from the end", {2, 3, 4}, {0, -1, -2});
    add("unchanged", {2, 3}, {0, 1});
    add("a scalar", {}, {});
    add("empty", {2, 0, 3}, {2, 0, 1});
    s.add(
        "the last two axes", [](const auto& in) { return transpose(in[0]); }, {s.uniform({2, 3, 2})},
        [&s](const auto& in) {
          return s.table({2, 2, 3}, [&](Index at) { return in[0].data()[at / 6 * 6 + at % 3 * 2 + at / 3 % 2]; });
        });
  }
};

}  // namespace settle
