#pragma once
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "settle/ops/linear_map.hpp"

namespace settle {

/// The windows of a pooling, per image axis (height, width).
struct PoolOptions {
  std::array<Index, 2> size{2, 2};
  std::array<Index, 2> stride{0, 0};   ///< 0: the window's size
  std::array<Index, 2> padding{0, 0};  ///< on both sides of each axis; at most half the window's size
  bool count_padding = true;           ///< whether averages count the padding's zeros, as PyTorch does by default
};

namespace detail {

inline cpu::PoolGeometry pool_geometry(const char* where, const Shape& x, const PoolOptions& o) {
  require(x.rank() == 4, where, "expected images (N, C, H, W), got ", x);
  cpu::PoolGeometry g{.planes = x[0] * x[1], .size = o.size, .stride = o.stride, .padding = o.padding};
  for (std::size_t a = 0; a < 2; ++a) {
    if (g.stride[a] == 0) g.stride[a] = g.size[a];
    g.in[a] = x[static_cast<int>(a) + 2];
    require(g.size[a] >= 1 && g.stride[a] >= 1 && g.padding[a] >= 0 && g.padding[a] <= g.size[a] / 2, where,
            "expected windows of at least 1, strides of at least 0 and a padding of at most half the window, got size ",
            o.size[a], ", stride ", o.stride[a], ", padding ", o.padding[a]);
    require(g.in[a] >= 1 && g.in[a] + 2 * g.padding[a] >= g.size[a], where, "the window ", o.size[0], " x ", o.size[1],
            " is larger than the padded image: input ", x, ", padding ", o.padding[0], ", ", o.padding[1]);
    g.out[a] = (g.in[a] + 2 * g.padding[a] - g.size[a]) / g.stride[a] + 1;
  }
  return g;
}

/// The averages of windows along one axis, as a matrix. The two axes' averages multiply.
inline LinearMap window_averages(const cpu::PoolGeometry& g, std::size_t axis, bool count_padding) {
  SparseMatrix matrix;
  matrix.columns = g.in[axis];
  for (Index p = 0; p < g.out[axis]; ++p, matrix.end_row()) {
    const Index from = p * g.stride[axis] - g.padding[axis];
    const Index first = std::max<Index>(from, 0), last = std::min(from + g.size[axis], g.in[axis]);
    const Index count = count_padding ? g.size[axis] : last - first;
    for (Index i = first; i < last; ++i) matrix.add(i, 1.0 / static_cast<double>(count));
  }
  return LinearMap(std::move(matrix));
}

/// y = the values of x (N, C, H, W) at one position of each window.
template <class T, class D>
Var<T, D> chosen(const Var<T, D>& x, const cpu::PoolGeometry& g, const Tensor<Index, D>& positions);

/// The adjoint: each window's value added at its position, to an image of zeros.
template <class T, class D>
Var<T, D> chosen_adjoint(const Var<T, D>& y, const cpu::PoolGeometry& g, const Tensor<Index, D>& positions) {
  Tensor<T, D> x(Shape{y.shape(0), y.shape(1), g.in[0], g.in[1]});
  if (x.size() > 0) Backend<D>::max_pool_adjoint(g, positions, y.value().data(), x.mutable_data());
  return record<T, D>("max_pool_adjoint", x, {y}, [g, positions](const Var<T, D>& c, Cotangents<T, D>& gradients) {
    gradients.add(0, chosen(c, g, positions));
  });
}

template <class T, class D>
Var<T, D> chosen(const Var<T, D>& x, const cpu::PoolGeometry& g, const Tensor<Index, D>& positions) {
  Tensor<T, D> y(Shape{x.shape(0), x.shape(1), g.out[0], g.out[1]});
  if (y.size() > 0) Backend<D>::max_pool(g, positions, x.value().data(), y.mutable_data());
  return record<T, D>("max_pool", y, {x}, [g, positions](const Var<T, D>& c, Cotangents<T, D>& gradients) {
    gradients.add(0, chosen_adjoint(c, g, positions));
  });
}

}  // namespace detail

/// The largest value of each window of x (N, C, H, W), as PyTorch's max_pool2d: shape (N, C, H', W') with
/// H' = (H + 2 padding - size) / stride + 1, rounded down. Padding is never the largest; of equal values the first gets
/// the cotangent. Throws Error when a window does not fit.
template <class T, class D>
Var<T, D> max_pool(const Var<T, D>& x, const PoolOptions& options = {}) {
  const auto g = detail::pool_geometry("max_pool", x.shape(), options);
  return detail::chosen(x, g, Backend<D>::max_pool_positions(g, x.value().data()));
}

/// The mean of each window of x (N, C, H, W), as PyTorch's avg_pool2d; shapes as for max_pool.
/// Throws Error when a window does not fit.
template <class T, class D>
Var<T, D> average_pool(const Var<T, D>& x, const PoolOptions& options = {}) {
  const auto g = detail::pool_geometry("average_pool", x.shape(), options);
  const Var<T, D> rows = apply_along(x, 2, detail::window_averages(g, 0, options.count_padding));
  return apply_along(rows, 3, detail::window_averages(g, 1, options.count_padding));
}

namespace detail {

/// Both poolings' samples: `f(x, options)`, and `combine(values, options)` of a window's values by plain loops.
void pool_samples(auto& s, auto f, auto combine) {
  const auto add = [&](const char* title, Shape from, PoolOptions o) {
    const auto g = pool_geometry("samples", from, o);
    s.add(
        title, [=](const auto& in) { return f(in[0], o); }, {s.distinct(from)},
        [=, &s](const auto& in) {
          const Shape to{from[0], from[1], g.out[0], g.out[1]};
          return s.table(to, [&](Index at) {
            auto i = s.position(to, at);
            const Index top = i[2] * g.stride[0] - o.padding[0], left = i[3] * g.stride[1] - o.padding[1];
            std::vector<double> values;
            for (i[2] = top; i[2] < top + o.size[0]; ++i[2])
              for (i[3] = left; i[3] < left + o.size[1]; ++i[3])
                if (i[2] >= 0 && i[2] < from[2] && i[3] >= 0 && i[3] < from[3]) values.push_back(s.at(in[0], i));
            return combine(values, o);
          });
        });
  };
  add("halves", {2, 2, 4, 6}, {});
  add("odd images", {1, 2, 5, 7}, {});
  add("overlapping windows with padding", {1, 1, 5, 6}, {{3, 3}, {2, 1}, {1, 1}});
  add("padding that is not counted", {1, 1, 4, 5}, {{3, 2}, {1, 2}, {1, 1}, false});
  add("gaps between windows", {1, 1, 5, 5}, {{1, 2}, {3, 3}});
  add("one pixel", {2, 1, 1, 1}, {{1, 1}});
  add("the whole image", {1, 2, 3, 2}, {{3, 2}});
  add("no images", {0, 2, 4, 4}, {});
}

}  // namespace detail

struct MaxPoolOp {
  static constexpr const char* name = "max_pool";
  static void samples(auto& s) {
    detail::pool_samples(
        s, [](const auto& x, const PoolOptions& o) { return max_pool(x, o); },
        [](const std::vector<double>& values, const PoolOptions&) {
          return *std::max_element(values.begin(), values.end());
        });
  }
};

struct AveragePoolOp {
  static constexpr const char* name = "average_pool";
  static void samples(auto& s) {
    detail::pool_samples(
        s, [](const auto& x, const PoolOptions& o) { return average_pool(x, o); },
        [](const std::vector<double>& values, const PoolOptions& o) {
          double sum = 0;
          for (double v : values) sum += v;
          return sum / static_cast<double>(o.count_padding ? o.size[0] * o.size[1] : static_cast<Index>(values.size()));
        });
  }
};

}  // namespace settle
