#pragma once
#include <initializer_list>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/cpu/backend.hpp"

namespace settle::inline v0_2 {

/// A list of positions along an axis, which copies (and so gather and its derivatives) share.
class Indices {
 public:
  Indices(const std::vector<Index>& indices) : list_(Shape{std::ssize(indices)}, indices) {}
  Indices(std::initializer_list<Index> indices) : Indices(std::vector<Index>(indices)) {}
  const Tensor<Index>& list() const { return list_; }

 private:
  Tensor<Index> list_;
};

namespace detail {

/// The axes before an axis, and after it, as one.
inline std::pair<Index, Index> around(const Shape& shape, int axis) {
  Index outer = 1, inner = 1;
  for (int a = 0; a < axis; ++a) outer *= shape[a];
  for (int a = axis + 1; a < shape.rank(); ++a) inner *= shape[a];
  return {outer, inner};
}

inline Index checked_count(const char* where, const Indices& indices, Index extent) {
  for (Index i : indices.list().values())
    require(i >= 0 && i < extent, where, "index ", i, " is out of range for an axis of extent ", extent);
  return indices.list().size();
}

}  // namespace detail

template <class T, class D>
Var<T, D> scatter_add(const Var<T, D>& x, int axis, const Indices& indices, Index extent);

/// The slices of x at a list of positions of one axis, in the list's order: y[..., k, ...] = x[..., indices[k], ...].
/// Throws Error when an index is out of range.
template <class T, class D>
Var<T, D> gather(const Var<T, D>& x, int axis, const Indices& indices) {
  const int along = x.shape().axis(axis);
  const Index extent = x.shape(along);
  Shape shape = x.shape();
  shape[along] = detail::checked_count("gather", indices, extent);
  const auto [outer, inner] = detail::around(shape, along);
  Tensor<T, D> y(shape);
  Backend<D>::gather(outer, extent, inner, indices.list(), x.value().data(), y.mutable_data());
  return record<T, D>("gather", y, {x}, [along, indices, extent](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, scatter_add(g, along, indices, extent));
  });
}

/// The adjoint of gather: each slice of x is added to its position of an axis of the given extent, which starts as
/// zeros: y[..., indices[k], ...] += x[..., k, ...]. Throws Error when an index is out of range, their number is not
/// x's extent, or the extent is negative.
template <class T, class D>
Var<T, D> scatter_add(const Var<T, D>& x, int axis, const Indices& indices, Index extent) {
  const int along = x.shape().axis(axis);
  require(extent >= 0, "scatter_add", "expected an extent of at least 0, got ", extent);
  const Index count = detail::checked_count("scatter_add", indices, extent);
  require(count == x.shape(along), "scatter_add", "expected ", x.shape(along), " indices for axis ", along, " of ",
          x.shape(), ", got ", count);
  Shape shape = x.shape();
  shape[along] = extent;
  const auto [outer, inner] = detail::around(shape, along);
  Tensor<T, D> y(shape);
  Backend<D>::scatter_add(outer, extent, inner, indices.list(), x.value().data(), y.mutable_data());
  return record<T, D>("scatter_add", y, {x}, [along, indices](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    gradients.add(0, gather(g, along, indices));
  });
}

struct GatherOp {
  static constexpr const char* name = "gather";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, int axis, std::vector<Index> indices) {
      Shape to = from;
      to[axis] = static_cast<Index>(indices.size());
      s.add(
          title, [=](const auto& in) { return gather(in[0], axis, indices); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              i[axis] = indices[static_cast<std::size_t>(i[axis])];
              return s.at(in[0], i);
            });
          });
    };
    add("rows, some twice", {4, 3}, 0, {2, 0, 2, 3});
    add("columns, in reverse", {2, 3}, -1, {2, 1, 0});
    add("channels", {2, 3, 2}, 1, {1, 1, 1, 2});
    add("no index", {2, 3}, 1, {});
    add("of an empty batch", {0, 3}, 1, {0, 2});
  }
};

struct ScatterAddOp {
  static constexpr const char* name = "scatter_add";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, int axis, std::vector<Index> indices, Index extent) {
      Shape to = from;
      to[axis] = extent;
      s.add(
          title, [=](const auto& in) { return scatter_add(in[0], axis, indices, extent); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              const Index place = i[axis];
              double sum = 0;
              for (std::size_t k = 0; k < indices.size(); ++k)
                if (i[axis] = static_cast<Index>(k); indices[k] == place) sum += s.at(in[0], i);
              return sum;
            });
          });
    };
    add("rows, some together", {4, 3}, 0, {2, 0, 2, 3}, 5);
    add("channels", {2, 4, 2}, 1, {1, 1, 1, 2}, 3);
    add("no index", {2, 0}, 1, {}, 3);
    add("of an empty batch", {0, 2}, 1, {0, 2}, 3);
  }
};

}  // namespace settle
