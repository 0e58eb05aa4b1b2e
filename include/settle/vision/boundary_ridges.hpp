#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// The map (H, W) under a Gaussian of standard deviation `sigma` pixels, cut at 3 sigma; beyond the border the border's
/// values go on.
inline Tensor<float> gaussian_smoothed(const Tensor<float>& map, double sigma) {
  const Index height = map.shape(0), width = map.shape(1), reach = static_cast<Index>(std::ceil(3 * sigma));
  std::vector<float> taps;
  float sum = 0;
  for (Index k = -reach; k <= reach; ++k) {
    taps.push_back(static_cast<float>(std::exp(-0.5 * static_cast<double>(k * k) / (sigma * sigma))));
    sum += taps.back();
  }
  for (float& tap : taps) tap /= sum;
  Tensor<float> rows(map.shape(), 0.f), out(map.shape(), 0.f);
  float *const to_rows = rows.mutable_data(), *const to = out.mutable_data();
  for (Index y = 0; y < height; ++y)
    for (Index k = -reach; k <= reach; ++k)
      for (Index x = 0; x < width; ++x)
        to_rows[y * width + x] +=
            taps[static_cast<std::size_t>(k + reach)] * map.data()[y * width + std::clamp<Index>(x + k, 0, width - 1)];
  for (Index y = 0; y < height; ++y)
    for (Index k = -reach; k <= reach; ++k)
      for (Index x = 0; x < width; ++x)
        to[y * width + x] += taps[static_cast<std::size_t>(k + reach)] *
                             rows.data()[std::clamp<Index>(y + k, 0, height - 1) * width + x];
  return out;
}

}  // namespace detail

/// The soft map of boundaries (H, W) with 0 wherever it is not largest across the boundary: Canny's non-maximum
/// suppression (1986), for a map that is a ridge along each boundary. The boundary's normal at a pixel is the direction
/// in which the map's gradients around it are largest: the eigenvector of the larger eigenvalue of their outer
/// products' mean under a Gaussian of `sigma` pixels (the structure tensor), which sees both slopes of a ridge. A pixel
/// keeps its value where that is at least those one pixel away on both sides of it along the normal, which are
/// interpolated between four pixels. Throws Error for another rank and a sigma not above 0.
inline Tensor<float> boundary_ridges(const Tensor<float>& map, double sigma = 2) {
  require(map.rank() == 2, "boundary_ridges", "expected a map (H, W), got ", map.shape());
  require(sigma > 0 && sigma <= 100, "boundary_ridges", "expected a sigma above 0, up to 100, got ", sigma);
  const Index height = map.shape(0), width = map.shape(1);
  Tensor<float> out(map.shape(), 0.f);
  if (map.size() == 0) return out;
  const auto at = [&](Index y, Index x) {
    return map.data()[std::clamp<Index>(y, 0, height - 1) * width + std::clamp<Index>(x, 0, width - 1)];
  };
  const auto between = [&](float y, float x) {
    const auto top = static_cast<Index>(std::floor(y)), left = static_cast<Index>(std::floor(x));
    const float down = y - static_cast<float>(top), right = x - static_cast<float>(left);
    return (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1)) +
           down * ((1 - right) * at(top + 1, left) + right * at(top + 1, left + 1));
  };
  Tensor<float> xx(map.shape()), yy(map.shape()), xy(map.shape());
  for (Index y = 0, k = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x, ++k) {
      const float dx = at(y, x + 1) - at(y, x - 1), dy = at(y + 1, x) - at(y - 1, x);
      xx.mutable_data()[k] = dx * dx, yy.mutable_data()[k] = dy * dy, xy.mutable_data()[k] = dx * dy;
    }
  for (Tensor<float>* const part : {&xx, &yy, &xy}) *part = detail::gaussian_smoothed(*part, sigma);
  for (Index y = 0, k = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x, ++k) {
      const float value = map.data()[k], angle = std::atan2(2 * xy.data()[k], xx.data()[k] - yy.data()[k]) / 2;
      const float to_x = std::cos(angle), to_y = std::sin(angle);
      const auto from_y = static_cast<float>(y), from_x = static_cast<float>(x);
      if (value >= between(from_y + to_y, from_x + to_x) && value >= between(from_y - to_y, from_x - to_x))
        out.mutable_data()[k] = value;
    }
  return out;
}

}  // namespace settle
