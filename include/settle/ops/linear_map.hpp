#pragma once
#include <memory>
#include <utility>

#include "settle/autodiff/tape.hpp"
#include "settle/ops/gather.hpp"

namespace settle::inline v0_2 {

using cpu::SparseMatrix;

/// A sparse matrix with its transpose: resampling along an axis, and its adjoint.
class LinearMap {
 public:
  /// Throws Error when an entry is outside the matrix.
  explicit LinearMap(SparseMatrix matrix) {
    for (Index c : matrix.column)
      require(c >= 0 && c < matrix.columns, "linear_map", "column ", c, " is outside a matrix of ", matrix.columns,
              " columns");
    adjoint_ = std::make_shared<Shared>(cpu::transposed(matrix));
    forward_ = std::make_shared<Shared>(std::move(matrix));
  }

  const SparseMatrix& matrix() const { return forward_->matrix; }
  /// The slot for a device's form of the matrix.
  std::shared_ptr<void>* derived() const { return &forward_->derived; }
  LinearMap adjoint() const {
    LinearMap out(*this);
    std::swap(out.forward_, out.adjoint_);
    return out;
  }

 private:
  struct Shared {
    explicit Shared(SparseMatrix m) : matrix(std::move(m)) {}
    SparseMatrix matrix;
    std::shared_ptr<void> derived;
  };

  std::shared_ptr<Shared> forward_, adjoint_;
};

/// The product of a constant sparse matrix M with each column along an axis: y[..., i, ...] = sum over j of M[i, j]
/// x[..., j, ...]. Pooling by averages and interpolation are such products along the rows and columns of images; the
/// gradient is the product with M's transpose. Throws Error when M's columns are not the axis' extent.
template <class T, class D>
Var<T, D> apply_along(const Var<T, D>& x, int axis, const LinearMap& map) {
  const int along = x.shape().axis(axis);
  const SparseMatrix& m = map.matrix();
  require(m.columns == x.shape(along), "apply_along", "expected extent ", m.columns, " in axis ", along, ", got shape ",
          x.shape());
  Shape shape = x.shape();
  shape[along] = m.rows;
  const auto [outer, inner] = detail::around(shape, along);
  Tensor<T, D> y(shape);
  Backend<D>::multiply_along(m, map.derived(), outer, inner, x.value().data(), y.mutable_data());
  return record<T, D>("apply_along", y, {x}, [along, map](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, apply_along(g, along, map.adjoint()));
  });
}

struct LinearMapOp {
  static constexpr const char* name = "apply_along";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, int axis, Tensor<double> dense) {
      SparseMatrix matrix;
      matrix.columns = dense.shape(1);
      for (Index r = 0; r < dense.shape(0); ++r, matrix.end_row())
        for (Index c = 0; c < matrix.columns; ++c)
          if (const double w = dense.data()[r * matrix.columns + c]; w != 0) matrix.add(c, w);
      Shape to = from;
      to[axis] = matrix.rows;
      s.add(
          title, [=, map = LinearMap(matrix)](const auto& in) { return apply_along(in[0], axis, map); },
          {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              const Index row = i[axis];
              double sum = 0;
              for (i[axis] = 0; i[axis] < from[axis]; ++i[axis])
                sum += dense.data()[row * from[axis] + i[axis]] * s.at(in[0], i);
              return sum;
            });
          });
    };
    add("rows", {2, 3, 2}, 1, Tensor<double>({4, 3}, {1, 0, 2, 0, 0, 0, 0.5, 0.25, 0, 0, -1, 3}));
    add("columns", {3, 2}, -1, Tensor<double>({1, 2}, {0.5, 0.5}));
    add("an empty batch", {0, 2}, 1, Tensor<double>({1, 2}, {1, 2}));
    add("to nothing", {2, 2}, 0, Tensor<double>(Shape{0, 2}));
  }
};

}  // namespace settle
