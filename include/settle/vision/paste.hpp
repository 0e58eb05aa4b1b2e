#pragma once
#include <algorithm>
#include <array>
#include <cmath>

#include "settle/core/tensor.hpp"
#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

/// A small mask (h, w) of probabilities stretched over its box (left, top, right, bottom) in an image: at each pixel's
/// centre the bilinear mean of the nearest four values, of which those outside the mask are 0. Returns (height, width);
/// all is 0 for a box without area. Throws Error for a mask of another rank.
template <Scalar T>
Tensor<T> paste_mask(const Tensor<T>& mask, const std::array<T, 4>& box, Index height, Index width) {
  require(mask.rank() == 2, "paste_mask", "expected a mask (h, w), got ", mask.shape());
  Tensor<T> out(Shape{height, width}, T(0));
  const T box_width = box[2] - box[0], box_height = box[3] - box[1];
  if (!(box_width > 0 && box_height > 0) || mask.size() == 0) return out;
  const Index h = mask.shape(0), w = mask.shape(1);
  // Half a value beyond the border the mean is 0.
  const auto bounds = [](T from, T length, Index values, Index extent) {
    const T margin = length / static_cast<T>(2 * values) + 1;
    const auto inside = [&](T at) { return static_cast<Index>(std::clamp(at, T(0), static_cast<T>(extent))); };
    return std::array{inside(std::floor(from - margin)), inside(std::ceil(from + length + margin))};
  };
  const auto value = [&](Index y, Index x) {
    return y < 0 || y >= h || x < 0 || x >= w ? T(0) : mask.data()[y * w + x];
  };
  const auto [top, bottom] = bounds(box[1], box_height, h, height);
  const auto [left, right] = bounds(box[0], box_width, w, width);
  T* pixel = out.mutable_data();
  for (Index y = top; y < bottom; ++y) {
    const T v = (static_cast<T>(y) + T(0.5) - box[1]) / box_height * static_cast<T>(h) - T(0.5);
    const T v0 = std::floor(v), b = v - v0;
    for (Index x = left; x < right; ++x) {
      const T u = (static_cast<T>(x) + T(0.5) - box[0]) / box_width * static_cast<T>(w) - T(0.5);
      const T u0 = std::floor(u), a = u - u0;
      const auto i = static_cast<Index>(v0), j = static_cast<Index>(u0);
      pixel[y * width + x] = (1 - b) * ((1 - a) * value(i, j) + a * value(i, j + 1)) +
                             b * ((1 - a) * value(i + 1, j) + a * value(i + 1, j + 1));
    }
  }
  return out;
}

/// Which values are at least a threshold.
template <Scalar T>
Mask mask_above(const Tensor<T>& values, T threshold = T(0.5)) {
  require(values.rank() == 2, "mask_above", "expected values (height, width), got ", values.shape());
  Mask out = empty_mask(values.shape(0), values.shape(1));
  std::transform(values.data(), values.data() + values.size(), out.values.begin(),
                 [&](T value) { return value >= threshold; });
  return out;
}

}  // namespace settle
