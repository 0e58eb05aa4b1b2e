#pragma once
#include <algorithm>
#include <array>
#include <cmath>

#include "settle/ops/linear_map.hpp"

namespace settle::inline v0_2 {

/// How resize finds the value between pixels. Pixels are areas: output pixel i covers the input around
/// (i + 1/2) in / out - 1/2, as PyTorch's interpolate with align_corners = false. The antialiased ones, as its antialias
/// = true, widen their filter where the image becomes smaller, so that every pixel counts.
enum class Interpolation { nearest, bilinear, bicubic, bilinear_antialiased, bicubic_antialiased };

namespace detail {

/// Keys' cubic filter at a distance, of a free parameter a.
inline double cubic_filter(double distance, double a) {
  const double d = std::abs(distance);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0.0;
}

/// Row i of an antialiased interpolation: the filter around pixel i's centre, as wide as it takes to pass no pixel over,
/// over the pixels that there are.
inline void add_filtered_row(SparseMatrix& matrix, Index i, Index in, Index out, bool cubic) {
  const double scale = static_cast<double>(in) / static_cast<double>(out), width = std::max(scale, 1.0);
  const double reach = (cubic ? 2 : 1) * width, centre = scale * (static_cast<double>(i) + 0.5);
  const Index first = std::max<Index>(static_cast<Index>(centre - reach + 0.5), 0);
  const Index last = std::min<Index>(static_cast<Index>(centre + reach + 0.5), in);
  const auto weight = [&](Index j) {
    const double distance = (static_cast<double>(j) + 0.5 - centre) / width;
    return cubic ? cubic_filter(distance, -0.5) : std::max(0.0, 1 - std::abs(distance));
  };
  double total = 0;
  for (Index j = first; j < last; ++j) total += weight(j);
  for (Index j = first; j < last; ++j) matrix.add(j, weight(j) / total);
}

inline LinearMap interpolation(Index in, Index out, Interpolation how) {
  require(out <= Shape::max_size / in, "resize", "expected smaller images, got ", in, " to ", out, " pixels");
  SparseMatrix matrix;
  matrix.columns = in;
  const bool antialiased = how == Interpolation::bilinear_antialiased || how == Interpolation::bicubic_antialiased;
  matrix.reserve("resize", out, antialiased ? std::min(in, 4 * (in / out + 2)) : 4);
  for (Index i = 0; i < out; ++i, matrix.end_row()) {
    if (how == Interpolation::nearest) {
      matrix.add(i * in / out, 1.0);
      continue;
    }
    if (antialiased) {
      add_filtered_row(matrix, i, in, out, how == Interpolation::bicubic_antialiased);
      continue;
    }
    if (how == Interpolation::bicubic) {
      const double place = (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5;
      const double below = std::floor(place);
      for (int k = -1; k <= 2; ++k)
        matrix.add(std::clamp<Index>(static_cast<Index>(below) + k, 0, in - 1),
                   cubic_filter(place - below - k, -0.75));
      continue;
    }
    const double at =
        std::max(0.0, (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5);
    const Index first = std::min(static_cast<Index>(at), in - 1);
    const double weight = first + 1 < in ? at - static_cast<double>(first) : 0.0;
    matrix.add(first, 1.0 - weight);
    if (weight > 0) matrix.add(first + 1, weight);
  }
  return LinearMap(std::move(matrix));
}

}  // namespace detail

/// Images (N, C, H, W) at another size (height, width). The gradient is the adjoint of the interpolation.
/// Throws Error unless there are images of at least one pixel and the new size is at least 1 x 1.
template <class T, class D>
Var<T, D> resize(const Var<T, D>& x, std::array<Index, 2> size, Interpolation how) {
  require(x.shape().rank() == 4 && x.shape(2) >= 1 && x.shape(3) >= 1, "resize",
          "expected images (N, C, H, W) of at least one pixel, got ", x.shape());
  require(size[0] >= 1 && size[1] >= 1, "resize", "expected a size of at least 1 x 1, got ", size[0], " x ", size[1]);
  const Var<T, D> rows = apply_along(x, 2, detail::interpolation(x.shape(2), size[0], how));
  return apply_along(rows, 3, detail::interpolation(x.shape(3), size[1], how));
}

struct ResizeOp {
  static constexpr const char* name = "resize";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape from, std::array<Index, 2> size, Interpolation how) {
      s.add(
          title, [=](const auto& in) { return resize(in[0], size, how); }, {s.uniform(from)},
          [=, &s](const auto& in) {
            // The two pixels around a point and the second one's weight, clamped at the borders.
            struct Between {
              Index low, high;
              double weight;
            };
            const auto between = [&](Index i, int axis) -> Between {
              const Index n = from[axis + 2];
              const double scale = static_cast<double>(n) / static_cast<double>(size[static_cast<std::size_t>(axis)]);
              if (how == Interpolation::nearest) {
                const auto pixel = static_cast<Index>((static_cast<double>(i) + 1e-9) * scale);
                return {pixel, pixel, 0};
              }
              const double at =
                  std::clamp((static_cast<double>(i) + 0.5) * scale - 0.5, 0.0, static_cast<double>(n - 1));
              const auto low = static_cast<Index>(at);
              return {low, std::min(low + 1, n - 1), at - static_cast<double>(low)};
            };
            const Shape to{from[0], from[1], size[0], size[1]};
            return s.table(to, [&](Index at) {
              auto i = s.position(to, at);
              const Between y = between(i[2], 0), x = between(i[3], 1);
              const auto pixel = [&](Index row, Index column) { return i[2] = row, i[3] = column, s.at(in[0], i); };
              return (1 - y.weight) * ((1 - x.weight) * pixel(y.low, x.low) + x.weight * pixel(y.low, x.high)) +
                     y.weight * ((1 - x.weight) * pixel(y.high, x.low) + x.weight * pixel(y.high, x.high));
            });
          });
    };
    for (const auto how : {Interpolation::nearest, Interpolation::bilinear}) {
      const bool nearest = how == Interpolation::nearest;
      add(nearest ? "nearest, twice as large" : "bilinear, twice as large", {2, 1, 3, 2}, {6, 4}, how);
      add(nearest ? "nearest, odd sizes" : "bilinear, odd sizes", {1, 2, 5, 4}, {3, 7}, how);
      add(nearest ? "nearest, from one pixel" : "bilinear, from one pixel", {1, 1, 1, 1}, {3, 2}, how);
      add(nearest ? "nearest, to one pixel" : "bilinear, to one pixel", {1, 1, 4, 3}, {1, 1}, how);
      add(nearest ? "nearest, no images" : "bilinear, no images", {0, 1, 4, 3}, {2, 2}, how);
    }
  }
};

}  // namespace settle
