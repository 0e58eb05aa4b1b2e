#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <vector>

#include "settle/data/image.hpp"

namespace settle::inline v0_2 {

/// How resize_image weighs the pixels around a point: a triangle (reach 1), Keys' cubic with a = -1/2 (reach 2), or
/// Lanczos' windowed sinc (reach 3).
enum class Filter { bilinear, bicubic, lanczos };

namespace detail {

inline double filter_reach(Filter filter) {
  return filter == Filter::bilinear ? 1.0 : filter == Filter::bicubic ? 2.0 : 3.0;
}

inline double filter_weight(Filter filter, double distance) {
  const double x = std::abs(distance);
  if (x >= filter_reach(filter)) return 0.0;
  if (filter == Filter::bilinear) return 1.0 - x;
  if (filter == Filter::bicubic)
    return x < 1.0 ? (1.5 * x - 2.5) * x * x + 1.0 : (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
  const auto sinc = [](double t) { return t == 0.0 ? 1.0 : std::sin(t * std::numbers::pi) / (t * std::numbers::pi); };
  return sinc(x) * sinc(x / 3.0);
}

/// Weights are whole multiples of 2^-22, as in Pillow's 8-bit resize: the products of one pixel then fit 32 bits.
inline constexpr int weight_bits = 22;

/// Along one axis: output position i is the sum over k of weights[i * count + k] times input position first[i] + k.
struct Taps {
  Index count = 0;
  std::vector<Index> first;
  std::vector<std::int32_t> weights;
};

/// When the axis shrinks, the filter is stretched by the same factor, so that every input pixel counts.
inline Taps make_taps(Index in, Index out, Filter filter) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double reach = filter_reach(filter) * stretch;
  Taps taps;
  taps.count = std::min(in, static_cast<Index>(std::ceil(reach)) * 2 + 1);
  const auto all = static_cast<std::size_t>(Shape{out, taps.count}.size());
  with_memory("resize_image", 4 * all, [&] { taps.weights.assign(all, 0); });
  std::vector<double> weights(static_cast<std::size_t>(taps.count));
  for (Index i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const Index begin = std::max<Index>(0, static_cast<Index>(centre - reach + 0.5));
    const Index end = std::min(in, static_cast<Index>(centre + reach + 0.5));
    // A window cut by the border is moved inside, so that all have the same number of taps; those outside it weigh 0.
    const Index first = std::min(begin, in - taps.count);
    double sum = 0;
    for (Index k = begin; k < end; ++k) {
      const double weight = filter_weight(filter, (static_cast<double>(k) - centre + 0.5) * (1.0 / stretch));
      weights[static_cast<std::size_t>(k - begin)] = weight;
      sum += weight;
    }
    for (Index k = begin; k < end; ++k)
      taps.weights[static_cast<std::size_t>(i * taps.count + k - first)] = static_cast<std::int32_t>(
          std::round(weights[static_cast<std::size_t>(k - begin)] / sum * (1 << weight_bits)));
    taps.first.push_back(first);
  }
  return taps;
}

inline std::uint8_t rounded_sum(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

inline Image8 resize_rows(const Image8& in, Index width, Filter filter) {
  const Taps taps = make_taps(in.width, width, filter);
  Image8 out = blank_image(in.height, width, in.channels);
  std::uint8_t* to = out.pixels.data();
  for (Index y = 0; y < in.height; ++y)
    for (Index x = 0; x < width; ++x)
      for (Index c = 0; c < in.channels; ++c) {
        const std::uint8_t* from =
            in.pixels.data() + (y * in.width + taps.first[static_cast<std::size_t>(x)]) * in.channels + c;
        const std::int32_t* weights = taps.weights.data() + x * taps.count;
        std::int32_t sum = 1 << (weight_bits - 1);
        for (Index k = 0; k < taps.count; ++k) sum += from[k * in.channels] * weights[k];
        *to++ = rounded_sum(sum);
      }
  return out;
}

inline Image8 resize_columns(const Image8& in, Index height, Filter filter) {
  const Taps taps = make_taps(in.height, height, filter);
  Image8 out = blank_image(height, in.width, in.channels);
  const Index row = in.width * in.channels;
  std::vector<std::int32_t> sums(static_cast<std::size_t>(row));
  for (Index y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (weight_bits - 1));
    for (Index k = 0; k < taps.count; ++k) {
      const std::uint8_t* from = in.pixels.data() + (taps.first[static_cast<std::size_t>(y)] + k) * row;
      const std::int32_t weight = taps.weights[static_cast<std::size_t>(y * taps.count + k)];
      for (Index x = 0; x < row; ++x) sums[static_cast<std::size_t>(x)] += from[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), out.pixels.begin() + y * row, rounded_sum);
  }
  return out;
}

}  // namespace detail

/// The picture at another size, with the very values that Pillow's Image.resize gives for 8-bit pictures: rows first,
/// then columns, weights in fixed point, each pass rounded to 8 bits, the filter stretched when the picture shrinks.
/// (Pillow 13 takes the columns first in some cases where the height shrinks more than the width; earlier ones never
/// do.) Throws Error for an empty or inconsistent picture and for extents below 1.
inline Image8 resize_image(const Image8& image, Index height, Index width, Filter filter = Filter::bicubic) {
  require_image(image, "resize_image");
  require(height > 0 && width > 0, "resize_image", "expected an output of at least 1 x 1, got ", height, " x ", width);
  Image8 out = width == image.width ? image : detail::resize_rows(image, width, filter);
  return height == out.height ? out : detail::resize_columns(out, height, filter);
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
