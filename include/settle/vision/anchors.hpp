#pragma once
#include <cmath>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

/// The boxes from which proposals are told, the same at each place of a map of features.
struct AnchorOptions {
  std::vector<double> sizes{32};          ///< square roots of the areas
  std::vector<double> ratios{0.5, 1, 2};  ///< height / width
  double offset = 0;                      ///< of the centres from the places' corners, in strides
};

/// The anchors of a map of height x width places, one each `stride` pixels: boxes (height width A, 4) in the order of
/// rows, columns, sizes, ratios. A box of size s and ratio r has width sqrt(s^2 / r) and height r times that. Neither
/// rounded nor cut at the image's border. Throws Error for sizes and ratios that are not above 0.
template <Scalar T>
Tensor<T> make_anchors(Index height, Index width, Index stride, const AnchorOptions& options = {}) {
  require(height >= 0 && width >= 0 && stride >= 1, "anchors", "expected a map and a stride of at least 1, got ",
          height, " x ", width, " and ", stride);
  std::vector<std::pair<double, double>> halves;
  for (const double size : options.sizes)
    for (const double ratio : options.ratios) {
      require(size > 0 && ratio > 0, "anchors", "expected sizes and ratios above 0, got ", size, " and ", ratio);
      const double half = std::sqrt(size * size / ratio) / 2;
      halves.emplace_back(half, ratio * half);
    }
  Tensor<T> out(Shape{height * width * std::ssize(halves), 4});
  T* box = out.mutable_data();
  const auto step = static_cast<double>(stride);
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x) {
      const double cx = (static_cast<double>(x) + options.offset) * step;
      const double cy = (static_cast<double>(y) + options.offset) * step;
      for (const auto& [w, h] : halves)
        for (const double edge : {cx - w, cy - h, cx + w, cy + h}) *box++ = static_cast<T>(edge);
    }
  return out;
}

}  // namespace settle
