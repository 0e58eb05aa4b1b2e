#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "settle/ops/linear_map.hpp"

namespace settle::inline v0_2 {

/// The windows of a pooling, per image axis (height, width).
struct PoolOptions {
  std::array<Index, 2> size{2, 2};
  std::array<Index, 2> stride{0, 0};   ///< 0: the window's size
  std::array<Index, 2> padding{0, 0};  ///< on both sides of each axis; at most half the window's size
  bool count_padding = true;           ///< whether averages count the padding's zeros, as PyTorch does by default
  bool partial_windows = false;        ///< whether windows may reach beyond the padding's far end: PyTorch's ceil_mode
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
    const Index least = g.size[a] - 2 * g.padding[a];  // what a window has of the image where it has most padding
    require(g.in[a] >= std::max<Index>(least, 1), where, "the window ", o.size[0], " x ", o.size[1],
            " is larger than the padded image: input ", x, ", padding ", o.padding[0], ", ", o.padding[1]);
    g.out[a] = (g.in[a] - least) / g.stride[a] + 1;
    const bool more = o.partial_windows && (g.in[a] - least) % g.stride[a] != 0;
    if (more && g.out[a] * g.stride[a] < g.in[a] + g.padding[a]) ++g.out[a];  // it begins in the image
  }
  return g;
}

/// The averages of windows along one axis, as a matrix. The two axes' averages multiply.
inline LinearMap window_averages(const cpu::PoolGeometry& g, std::size_t axis, bool count_padding) {
  SparseMatrix matrix;
  matrix.columns = g.in[axis];
  matrix.reserve("average_pool", g.out[axis], std::min(g.size[axis], g.in[axis]));
  for (Index p = 0; p < g.out[axis]; ++p, matrix.end_row()) {
    const Index from = p * g.stride[axis] - g.padding[axis];
    const Index first = std::max<Index>(from, 0), last = std::min(from + g.size[axis], g.in[axis]);
    const Index padded = std::min(from + g.size[axis], g.in[axis] + g.padding[axis]) - from;
    const Index count = count_padding ? padded : last - first;
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
/// H' = (H + 2 padding - size) / stride + 1, rounded down, or with partial windows up. Padding is never the largest; of
/// equal values the first gets the cotangent. Throws Error when a window does not fit.
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

/// Where the window of output pixel i begins; it ends where that of i + 1 would, rounded up.
inline std::pair<Index, Index> adaptive_window(Index i, Index in, Index out) {
  return {i * in / out, ((i + 1) * in + out - 1) / out};
}

inline void require_adaptive(const char* where, const Shape& x, std::array<Index, 2> size) {
  require(x.rank() == 4 && x[2] >= 1 && x[3] >= 1, where, "expected images (N, C, H, W) of at least one pixel, got ", x);
  for (int a = 0; a < 2; ++a) {
    const Index out = size[static_cast<std::size_t>(a)];
    require(out >= 1 && out <= Shape::max_size / x[a + 2], where, "expected a size of at least 1 x 1, got ", size[0],
            " x ", size[1]);
  }
}

}  // namespace detail

/// The means of windows that divide images (N, C, H, W) into size[0] x size[1] parts, as PyTorch's
/// adaptive_avg_pool2d: output pixel i is the mean of pixels floor(i H / H') to ceil((i + 1) H / H') - 1.
/// Throws Error unless there is a pixel, and the size is at least 1 x 1.
template <class T, class D>
Var<T, D> adaptive_average_pool(const Var<T, D>& x, std::array<Index, 2> size) {
  detail::require_adaptive("adaptive_average_pool", x.shape(), size);
  const auto means = [&](int axis) {
    const Index in = x.shape(axis), out = size[static_cast<std::size_t>(axis - 2)];
    SparseMatrix matrix;
    matrix.columns = in;
    matrix.reserve("adaptive_average_pool", out, in / out + 2);
    for (Index i = 0; i < out; ++i, matrix.end_row()) {
      const auto [first, last] = detail::adaptive_window(i, in, out);
      for (Index j = first; j < last; ++j) matrix.add(j, 1.0 / static_cast<double>(last - first));
    }
    return LinearMap(std::move(matrix));
  };
  return apply_along(apply_along(x, 2, means(2)), 3, means(3));
}

/// The largest values of the same windows, as PyTorch's adaptive_max_pool2d; of equal ones the first gets the cotangent.
/// On another device the places are looked for on the processor.
template <class T, class D>
Var<T, D> adaptive_max_pool(const Var<T, D>& x, std::array<Index, 2> size) {
  detail::require_adaptive("adaptive_max_pool", x.shape(), size);
  cpu::PoolGeometry g;
  g.planes = x.shape(0) * x.shape(1), g.in = {x.shape(2), x.shape(3)}, g.out = size;
  // Windows of no one size: for those who ask which may hold a pixel, all do.
  g.stride = {1, 1}, g.padding = size, g.size = {g.in[0] + size[0], g.in[1] + size[1]};
  const Tensor<T> values = to<Cpu>(x.value());
  Tensor<Index> found(Shape{g.planes, size[0], size[1]});
  Index* next = found.mutable_data();
  for (Index plane = 0; plane < g.planes; ++plane)
    for (Index p = 0; p < size[0]; ++p)
      for (Index q = 0; q < size[1]; ++q) {
        const auto rows = detail::adaptive_window(p, g.in[0], size[0]);
        const auto columns = detail::adaptive_window(q, g.in[1], size[1]);
        Index best = (plane * g.in[0] + rows.first) * g.in[1] + columns.first;
        for (Index row = rows.first; row < rows.second; ++row)
          for (Index column = columns.first; column < columns.second; ++column) {
            const Index here = (plane * g.in[0] + row) * g.in[1] + column;
            const T v = values.data()[here], w = values.data()[best];
            if (!(v <= w) && w == w) best = here;  // not-a-number wins, as in max_pool
          }
        *next++ = best;
      }
  return detail::chosen(x, g, to<D>(found.reshape({found.size()})));
}

namespace detail {

/// Both adaptive poolings' samples, by plain loops.
void adaptive_pool_samples(auto& s, auto f, auto combine) {
  const auto add = [&](const char* title, Shape from, std::array<Index, 2> size) {
    s.add(
        title, [=](const auto& in) { return f(in[0], size); }, {s.distinct(from)},
        [=, &s](const auto& in) {
          const Shape to{from[0], from[1], size[0], size[1]};
          return s.table(to, [&](Index at) {
            auto i = s.position(to, at);
            const auto edge = [&](Index k, int axis, bool up) {
              const double place = static_cast<double>(k * from[axis]) / static_cast<double>(to[axis]);
              return static_cast<Index>(up ? std::ceil(place - 1e-9) : std::floor(place + 1e-9));
            };
            const Index top = edge(i[2], 2, false), bottom = edge(i[2] + 1, 2, true);
            const Index left = edge(i[3], 3, false), right = edge(i[3] + 1, 3, true);
            std::vector<double> values;
            for (i[2] = top; i[2] < bottom; ++i[2])
              for (i[3] = left; i[3] < right; ++i[3]) values.push_back(s.at(in[0], i));
            return combine(values);
          });
        });
  };
  add("whole parts", {2, 2, 4, 6}, {2, 3});
  add("parts that overlap", {1, 2, 5, 7}, {3, 2});
  add("more parts than pixels", {1, 1, 2, 3}, {5, 4});
  add("one part", {1, 2, 3, 5}, {1, 1});
  add("no images", {0, 2, 4, 4}, {2, 2});
}

/// Both poolings' samples: `f(x, options)`, and `combine(values, options, padded)` of a window's values by plain loops,
/// with the number of places that it has on the padded image.
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
            const auto within = [&](Index first, std::size_t a) {
              return std::min(first + o.size[a], from[static_cast<int>(a) + 2] + o.padding[a]) - first;
            };
            const Index padded = within(top, 0) * within(left, 1);
            for (i[2] = top; i[2] < top + o.size[0]; ++i[2])
              for (i[3] = left; i[3] < left + o.size[1]; ++i[3])
                if (i[2] >= 0 && i[2] < from[2] && i[3] >= 0 && i[3] < from[3]) values.push_back(s.at(in[0], i));
            return combine(values, o, padded);
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
  add("partial windows", {1, 1, 5, 6}, {{2, 3}, {2, 2}, {0, 1}, true, true});
  add("partial windows of the image alone", {1, 1, 6, 5}, {{3, 2}, {2, 3}, {1, 0}, false, true});
}

}  // namespace detail

struct MaxPoolOp {
  static constexpr const char* name = "max_pool";
  static void samples(auto& s) {
    detail::pool_samples(
        s, [](const auto& x, const PoolOptions& o) { return max_pool(x, o); },
        [](const std::vector<double>& values, const PoolOptions&, Index) {
          return *std::max_element(values.begin(), values.end());
        });
  }
};

struct AveragePoolOp {
  static constexpr const char* name = "average_pool";
  static void samples(auto& s) {
    detail::pool_samples(
        s, [](const auto& x, const PoolOptions& o) { return average_pool(x, o); },
        [](const std::vector<double>& values, const PoolOptions& o, Index padded) {
          double sum = 0;
          for (double v : values) sum += v;
          return sum / static_cast<double>(o.count_padding ? padded : static_cast<Index>(values.size()));
        });
  }
};

struct AdaptiveAveragePoolOp {
  static constexpr const char* name = "adaptive_average_pool";
  static void samples(auto& s) {
    detail::adaptive_pool_samples(
        s, [](const auto& x, std::array<Index, 2> size) { return adaptive_average_pool(x, size); },
        [](const std::vector<double>& values) {
          double sum = 0;
          for (double v : values) sum += v;
          return sum / static_cast<double>(values.size());
        });
  }
};

struct AdaptiveMaxPoolOp {
  static constexpr const char* name = "adaptive_max_pool";
  static void samples(auto& s) {
    detail::adaptive_pool_samples(
        s, [](const auto& x, std::array<Index, 2> size) { return adaptive_max_pool(x, size); },
        [](const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); });
  }
};

}  // namespace settle
