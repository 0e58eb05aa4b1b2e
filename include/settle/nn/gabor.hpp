#pragma once
#include <algorithm>
#include <cmath>
#include <numbers>

#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

/// What the filters of a Gabor bank look like, in pixels: a wave of length `wavelength` along the direction u under a
/// bell of deviation `deviation` along u and `deviation / aspect` across it.
struct GaborShape {
  double wavelength = 3.5;
  double deviation = 2.8;
  double aspect = 0.3;
  double aperture = 3;  ///< the radius of the disc outside which the wave is cut off
};

/// The stem's first weights (2 · orientations + 1, 1, 7, 7): for u, v the coordinates turned by multiples of
/// 180 / orientations degrees, first the filters exp(-(u² + aspect² v²) / (2 deviation²)) cos(2π u / wavelength +
/// phase) of phase 0 (a bright bar in the centre), then those of the other phase (an edge), each made to sum to zero
/// and to unit length; last the aperture as a disc that sums to 49. With 12 orientations it has all figures of the
/// released bank (gabor_serre.npy, paper 1.5), the singular values within 0.001. They fix the second phase at 2.035: 90
/// degrees, taken for radians.
inline Tensor<double> gabor_bank(Index orientations = 12, const GaborShape& shape = {}) {
  require(orientations >= 1, "gabor_bank", "expected at least 1 orientation, got ", orientations);
  require(orientations <= Shape::max_size, "gabor_bank", "no array holds ", orientations, " orientations");
  constexpr Index side = 7, pixels = side * side;
  Tensor<double> bank(Shape{2 * orientations + 1, 1, side, side}, 0.0);
  double* filter = bank.mutable_data();
  const auto each_pixel = [&](auto&& value) {
    for (Index k = 0; k < pixels; ++k) {
      const double x = static_cast<double>(k % side - side / 2), y = static_cast<double>(k / side - side / 2);
      filter[k] = x * x + y * y <= shape.aperture * shape.aperture ? value(x, y) : 0.0;
    }
  };
  const auto sum_of = [&](auto&& term) {
    double sum = 0;
    for (Index k = 0; k < pixels; ++k) sum += term(filter[k]);
    return sum;
  };
  for (const double phase : {0.0, 90.0}) {
    for (Index o = 0; o < orientations; ++o, filter += pixels) {
      const double angle = std::numbers::pi * static_cast<double>(o) / static_cast<double>(orientations);
      each_pixel([&](double x, double y) {
        const double u = x * std::cos(angle) - y * std::sin(angle), v = x * std::sin(angle) + y * std::cos(angle);
        const double bell =
            std::exp(-(u * u + shape.aspect * shape.aspect * v * v) / (2 * shape.deviation * shape.deviation));
        return bell * std::cos(2 * std::numbers::pi * u / shape.wavelength + phase);
      });
      const double mean = sum_of([](double f) { return f; }) / pixels;
      std::for_each_n(filter, pixels, [&](double& f) { f -= mean; });
      const double length = std::sqrt(sum_of([](double f) { return f * f; }));
      std::for_each_n(filter, pixels, [&](double& f) { f /= length; });
    }
  }
  each_pixel([](double, double) { return 1.0; });
  const double area = sum_of([](double f) { return f; });
  std::for_each_n(filter, pixels, [&](double& f) { f *= pixels / area; });
  return bank;
}

}  // namespace settle
