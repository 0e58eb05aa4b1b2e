#pragma once
#include <vector>

#include "settle/ops/concat.hpp"
#include "settle/ops/gather.hpp"
#include "settle/ops/reshape.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// For each element of `indices`, the place in a tensor of this shape that it names: its own position, but for the axis,
/// where it is the index.
inline std::vector<Index> element_places(const char* where, const Shape& shape, int axis, const Tensor<Index>& indices) {
  const int rank = shape.rank(), along = shape.axis(axis);
  require(indices.rank() == rank, where, "expected indices of rank ", rank, ", got ", indices.shape());
  for (int a = 0; a < rank; ++a)
    require(a == along || indices.shape(a) <= shape[a], where, "expected indices within ", shape,
            " outside axis ", along, ", got ", indices.shape());
  std::vector<Index> out(static_cast<std::size_t>(indices.size()));
  for (Index k = 0; k < indices.size(); ++k) {
    const Index index = indices.data()[k];
    require(index >= 0 && index < shape[along], where, "index ", index, " is out of range for an axis of extent ",
            shape[along]);
    Index rest = k, place = 0, stride = 1;
    for (int a = rank; a-- > 0;) {
      place += stride * (a == along ? index : rest % indices.shape(a));
      rest /= indices.shape(a), stride *= shape[a];
    }
    out[static_cast<std::size_t>(k)] = place;
  }
  return out;
}

}  // namespace detail

/// The element of x that each index names along an axis, as PyTorch's gather: y[i, j, k] = x[i, indices[i, j, k], k] for
/// axis 1; y has the shape of `indices`. Throws Error for an index out of range and for shapes that do not fit.
template <class T, class D>
Var<T, D> gather_elements(const Var<T, D>& x, int axis, const Tensor<Index>& indices) {
  const auto places = detail::element_places("gather_elements", x.shape(), axis, indices);
  return reshape(gather(reshape(x, {x.size()}), 0, Indices(places)), indices.shape());
}

/// x with each element of `source` added where its index names, as PyTorch's scatter_add: x[i, indices[i, j, k], k] +=
/// source[i, j, k] for axis 1. `source` has the shape of `indices`. Throws Error as gather_elements does.
template <class T, class D>
Var<T, D> scatter_add_elements(const Var<T, D>& x, int axis, const Tensor<Index>& indices, const Var<T, D>& source) {
  require(source.shape() == indices.shape(), "scatter_add_elements", "expected a source of shape ", indices.shape(),
          ", got ", source.shape());
  const auto places = detail::element_places("scatter_add_elements", x.shape(), axis, indices);
  return x + reshape(scatter_add(reshape(source, {source.size()}), 0, Indices(places), x.size()), x.shape());
}

/// The same with elements put in place of x's, as PyTorch's scatter; of several for one place the last one counts.
template <class T, class D>
Var<T, D> scatter_elements(const Var<T, D>& x, int axis, const Tensor<Index>& indices, const Var<T, D>& source) {
  require(source.shape() == indices.shape(), "scatter_elements", "expected a source of shape ", indices.shape(),
          ", got ", source.shape());
  const auto places = detail::element_places("scatter_elements", x.shape(), axis, indices);
  std::vector<Index> from(static_cast<std::size_t>(x.size()));
  for (std::size_t k = 0; k < from.size(); ++k) from[k] = static_cast<Index>(k);
  for (std::size_t k = 0; k < places.size(); ++k)
    from[static_cast<std::size_t>(places[k])] = x.size() + static_cast<Index>(k);
  const std::vector<Var<T, D>> both{reshape(x, {x.size()}), reshape(source, {source.size()})};
  return reshape(gather(concat(both, 0), 0, Indices(from)), x.shape());
}

namespace detail {

/// The samples of what moves single elements: `f(inputs, axis, indices)`, and `put(value, source)`, what a place holds
/// after a source was put there.
void scatter_samples(auto& s, auto f, auto put) {
  const auto add = [&](const char* title, Shape shape, int axis, Shape of, std::vector<Index> list) {
    const Tensor<Index> indices(of, list);
    s.add(
        title, [=](const auto& in) { return f(in, axis, indices); }, {s.uniform(shape), s.uniform(of)},
        [=, &s](const auto& in) {
          Tensor<double> out = in[0].clone();
          for (Index k = 0; k < of.size(); ++k) {
            auto i = s.position(of, k);
            i[axis] = indices.data()[k];
            Index place = 0;
            for (int a = 0; a < shape.rank(); ++a) place = place * shape[a] + i[a];
            out.mutable_data()[place] = put(out.data()[place], in[1].data()[k]);
          }
          return out;
        });
  };
  add("rows", {3, 4}, 0, {2, 4}, {0, 1, 2, 0, 2, 1, 0, 0});
  add("some together", {2, 3}, -1, {2, 4}, {0, 2, 0, 2, 1, 1, 1, 0});
  add("of a part", {2, 3, 2}, 1, {1, 2, 2}, {2, 0, 1, 0});
  add("no index", {2, 3}, 1, {2, 0}, {});
}

}  // namespace detail

struct GatherElementsOp {
  static constexpr const char* name = "gather_elements";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, int axis, Shape to, std::vector<Index> list) {
      const Tensor<Index> indices(to, list);
      s.add(
          title, [=](const auto& in) { return gather_elements(in[0], axis, indices); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index k) {
              auto i = s.position(to, k);
              i[axis] = indices.data()[k];
              return s.at(in[0], i);
            });
          });
    };
    add("of each row", {2, 3}, 1, {2, 2}, {2, 0, 1, 1});
    add("of a part", {3, 2, 4}, 0, {2, 1, 4}, {2, 0, 1, 1, 0, 0, 2, 2});
    add("more than there are", {1, 3}, -1, {1, 5}, {2, 2, 1, 0, 0});
    add("no index", {2, 3}, 0, {0, 3}, {});
  }
};

struct ScatterAddElementsOp {
  static constexpr const char* name = "scatter_add_elements";
  static void samples(auto& s) {
    detail::scatter_samples(
        s, [](const auto& in, int axis, const auto& i) { return scatter_add_elements(in[0], axis, i, in[1]); },
        [](double value, double source) { return value + source; });
  }
};

struct ScatterElementsOp {
  static constexpr const char* name = "scatter_elements";
  static void samples(auto& s) {
    detail::scatter_samples(
        s, [](const auto& in, int axis, const auto& i) { return scatter_elements(in[0], axis, i, in[1]); },
        [](double, double source) { return source; });
  }
};

}  // namespace settle
