#pragma once
#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "settle/data/loader.hpp"
#include "settle/data/pathfinder.hpp"
#include "settle/data/resize.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// Planes (..., H, W) of a tensor as planes of another size: value(plane, y, x) for each.
template <class Value>
Tensor<float> each_pixel(const Tensor<float>& planes, Index height, Index width, const Value& value) {
  if (planes.size() == 0) return planes;
  Shape shape = planes.shape();
  shape[-2] = height, shape[-1] = width;
  Tensor<float> out(shape);
  const Index area = planes.shape(-2) * planes.shape(-1), count = planes.size() / area;
  float* to = out.mutable_data();
  for (Index plane = 0; plane < count; ++plane)
    for (Index y = 0; y < height; ++y)
      for (Index x = 0; x < width; ++x) *to++ = value(planes.data() + plane * area, y, x);
  return out;
}

/// The sample with every pixel fetched from where source(y, x) says, for image and masks alike.
template <class Source>
void move_pixels(Sample& sample, Index height, Index width, const Source& source) {
  const Index from_width = sample.image.shape(-1);
  for (Tensor<float>* planes : {&sample.image, &sample.target, &sample.ignore})
    *planes = each_pixel(*planes, height, width, [&](const float* plane, Index y, Index x) {
      const auto [from_y, from_x] = source(y, x);
      return plane[from_y * from_width + from_x];
    });
}

/// The planes at another size with the filter of resize_image, not rounded.
inline Tensor<float> resized_planes(const Tensor<float>& planes, Index height, Index width) {
  const Taps columns = make_taps(planes.shape(-1), width, Filter::bicubic);
  const Taps rows = make_taps(planes.shape(-2), height, Filter::bicubic);
  const auto pick = [](const Taps& taps, Index at, const float* from, Index stride) {
    double total = 0;
    const Index first = taps.first[static_cast<std::size_t>(at)];
    for (Index k = 0; k < taps.count; ++k)
      total += static_cast<double>(taps.weights[static_cast<std::size_t>(at * taps.count + k)]) *
               static_cast<double>(from[(first + k) * stride]);
    return static_cast<float>(total / (1 << weight_bits));
  };
  const Index from_width = planes.shape(-1);
  const Tensor<float> narrow = each_pixel(planes, planes.shape(-2), width, [&](const float* plane, Index y, Index x) {
    return pick(columns, x, plane + y * from_width, 1);
  });
  return each_pixel(narrow, height, width,
                    [&](const float* plane, Index y, Index x) { return pick(rows, y, plane + x, width); });
}

inline void resize_sample(Sample& sample, Index height, Index width) {
  const Index from_height = sample.image.shape(-2), from_width = sample.image.shape(-1);
  if (height == from_height && width == from_width) return;
  const auto nearest = [](Index at, Index to, Index from) {  // the pixel under the centre of pixel `at`
    return std::min(from - 1, (2 * at + 1) * from / (2 * to));
  };
  const auto masked = [&](const float* plane, Index y, Index x) {
    return plane[nearest(y, height, from_height) * from_width + nearest(x, width, from_width)];
  };
  sample.image = resized_planes(sample.image, height, width);
  sample.target = each_pixel(sample.target, height, width, masked);
  sample.ignore = each_pixel(sample.ignore, height, width, masked);
}

/// Borders of zeros that the ignore mask marks; the rest of the sample lies at (top, left).
inline void pad_sample(Sample& sample, Index top, Index left, Index height, Index width) {
  const Index from_height = sample.image.shape(-2), from_width = sample.image.shape(-1);
  if (height == from_height && width == from_width) return;
  if (sample.ignore.size() == 0) sample.ignore = Tensor<float>(sample.target.shape(), 0.f);
  const auto padded = [&](const Tensor<float>& planes, float border) {
    return each_pixel(planes, height, width, [&](const float* plane, Index y, Index x) {
      const Index from_y = y - top, from_x = x - left;
      const bool inside = from_y >= 0 && from_x >= 0 && from_y < from_height && from_x < from_width;
      return inside ? plane[from_y * from_width + from_x] : border;
    });
  };
  sample.image = padded(sample.image, 0), sample.target = padded(sample.target, 0);
  sample.ignore = padded(sample.ignore, 1);
}

inline void crop_sample(Sample& sample, Index top, Index left, Index height, Index width) {
  require(sample.image.shape(-2) >= height && sample.image.shape(-1) >= width, "crop", "expected an image of at least ",
          height, " x ", width, ", got ", sample.image.shape(-2), " x ", sample.image.shape(-1));
  move_pixels(sample, height, width, [=](Index y, Index x) { return std::pair(y + top, x + left); });
}

}  // namespace detail

/// Changes of a sample for a loader's list; image, target and ignore mask stay together. What is random is drawn from
/// the sample's own stream.
namespace transforms {

/// Mirrors left-right, top-bottom, both or not, each with probability 1/2 where it is allowed.
inline Transform random_flip(bool horizontal = true, bool vertical = true) {
  return [=](Sample& sample, Random& random) {
    const bool h = random.below(2) == 1 && horizontal, v = random.below(2) == 1 && vertical;
    const Flip flip = h && v ? Flip::both : h ? Flip::horizontal : v ? Flip::vertical : Flip::none;
    for (Tensor<float>* planes : {&sample.image, &sample.target, &sample.ignore})
      if (planes->size() > 0 && flip != Flip::none) *planes = flipped(*planes, flip);
  };
}

/// Turns anticlockwise by quarters: `turns` of them.
inline Transform rotate90(Index turns) {
  return [turns = ((turns % 4) + 4) % 4](Sample& sample, Random&) {
    const Index h = sample.image.shape(-2), w = sample.image.shape(-1);
    if (turns == 1) detail::move_pixels(sample, w, h, [=](Index y, Index x) { return std::pair(x, w - 1 - y); });
    if (turns == 2)
      detail::move_pixels(sample, h, w, [=](Index y, Index x) { return std::pair(h - 1 - y, w - 1 - x); });
    if (turns == 3) detail::move_pixels(sample, w, h, [=](Index y, Index x) { return std::pair(h - 1 - x, y); });
  };
}

/// Turns by none, one, two or three quarters, each equally likely.
inline Transform random_rotate90() {
  return [](Sample& sample, Random& random) { rotate90(random.below(4))(sample, random); };
}

/// Turns anticlockwise about the centre by an angle in degrees: the image interpolated between four pixels, the masks
/// taken from the nearest. What comes from outside shows the border's values, and is marked in the ignore mask.
inline Transform rotate(double degrees) {
  return [degrees](Sample& sample, Random&) {
    const double angle = degrees * std::numbers::pi / 180, c = std::cos(angle), s = std::sin(angle);
    const Index h = sample.image.shape(-2), w = sample.image.shape(-1);
    const double middle_y = static_cast<double>(h - 1) / 2, middle_x = static_cast<double>(w - 1) / 2;
    const auto source = [&](Index y, Index x) {
      const double dy = static_cast<double>(y) - middle_y, dx = static_cast<double>(x) - middle_x;
      return std::pair(middle_y + c * dy + s * dx, middle_x + c * dx - s * dy);
    };
    const auto clamped = [](double at, Index extent) {
      return std::clamp<Index>(static_cast<Index>(at), 0, extent - 1);
    };
    const auto nearest = [&](const float* plane, Index y, Index x) {
      const auto [from_y, from_x] = source(y, x);
      return plane[clamped(std::floor(from_y + 0.5), h) * w + clamped(std::floor(from_x + 0.5), w)];
    };
    sample.image = detail::each_pixel(sample.image, h, w, [&](const float* plane, Index y, Index x) {
      const auto [from_y, from_x] = source(y, x);
      const double first_y = std::floor(from_y), first_x = std::floor(from_x);
      const float* upper = plane + clamped(first_y, h) * w;
      const float* lower = plane + clamped(first_y + 1, h) * w;
      const Index x0 = clamped(first_x, w), x1 = clamped(first_x + 1, w);
      const auto part_y = static_cast<float>(from_y - first_y), part_x = static_cast<float>(from_x - first_x);
      return (1 - part_y) * ((1 - part_x) * upper[x0] + part_x * upper[x1]) +
             part_y * ((1 - part_x) * lower[x0] + part_x * lower[x1]);
    });
    sample.target = detail::each_pixel(sample.target, h, w, nearest);
    if (sample.ignore.size() == 0) sample.ignore = Tensor<float>(sample.target.shape(), 0.f);
    sample.ignore = detail::each_pixel(sample.ignore, h, w, [&](const float* plane, Index y, Index x) {
      const auto [from_y, from_x] = source(y, x);
      const bool inside = from_y > -0.5 && from_x > -0.5 && from_y < static_cast<double>(h) - 0.5 &&
                          from_x < static_cast<double>(w) - 0.5;
      return inside ? nearest(plane, y, x) : 1.f;
    });
  };
}

/// Turns by an angle uniform in [-degrees, degrees].
inline Transform random_rotate(double degrees) {
  return [=](Sample& sample, Random& random) { rotate(random.uniform(-degrees, degrees))(sample, random); };
}

/// A window of the given size, every place equally likely. An image that is smaller is an Error: pad it first.
inline Transform random_crop(Index height, Index width) {
  return [=](Sample& sample, Random& random) {
    const auto place = [&](Index extent, Index size) { return extent > size ? random.below(extent - size + 1) : 0; };
    const Index top = place(sample.image.shape(-2), height), left = place(sample.image.shape(-1), width);
    detail::crop_sample(sample, top, left, height, width);
  };
}

/// The window of the given size in the middle.
inline Transform centre_crop(Index height, Index width) {
  return [=](Sample& sample, Random&) {
    detail::crop_sample(sample, (sample.image.shape(-2) - height) / 2, (sample.image.shape(-1) - width) / 2, height,
                        width);
  };
}

/// Borders of zeros all round, which the ignore mask marks, where the image is smaller than the given size.
inline Transform pad(Index height, Index width) {
  return [=](Sample& sample, Random&) {
    const Index h = std::max(height, sample.image.shape(-2)), w = std::max(width, sample.image.shape(-1));
    detail::pad_sample(sample, (h - sample.image.shape(-2)) / 2, (w - sample.image.shape(-1)) / 2, h, w);
  };
}

/// Another size: the image by the filter of resize_image (bicubic, stretched when it shrinks), the masks from the
/// nearest pixel.
inline Transform resize(Index height, Index width) {
  require(height >= 1 && width >= 1, "resize", "expected a size of at least 1 x 1, got ", height, " x ", width);
  return [=](Sample& sample, Random&) { detail::resize_sample(sample, height, width); };
}

/// Both extents times one factor, the logarithm of which is uniform between those of `least` and `most`.
inline Transform random_scale(double least, double most) {
  require(least > 0 && least <= most, "random_scale", "expected 0 < least <= most, got ", least, " and ", most);
  return [=](Sample& sample, Random& random) {
    const double factor = std::exp(random.uniform(std::log(least), std::log(most)));
    const auto scaled = [&](Index extent) {
      return std::max<Index>(1, std::llround(factor * static_cast<double>(extent)));
    };
    detail::resize_sample(sample, scaled(sample.image.shape(-2)), scaled(sample.image.shape(-1)));
  };
}

/// The image's deviations from its mean times a factor uniform in [1 - contrast, 1 + contrast], plus a number uniform
/// in [-brightness, brightness].
inline Transform random_brightness_contrast(double brightness, double contrast) {
  return [=](Sample& sample, Random& random) {
    const double shift = random.uniform(-brightness, brightness), factor = 1 + random.uniform(-contrast, contrast);
    double total = 0;
    for (const float v : sample.image.values()) total += static_cast<double>(v);
    const double mean = total / static_cast<double>(std::max<Index>(1, sample.image.size()));
    float* values = sample.image.mutable_data();
    for (Index k = 0; k < sample.image.size(); ++k)
      values[k] = static_cast<float>((static_cast<double>(values[k]) - mean) * factor + mean + shift);
  };
}

/// (image - mean) / deviation, by channel; one number serves all channels.
inline Transform normalise(std::vector<double> mean, std::vector<double> deviation) {
  require(!mean.empty() && !deviation.empty(), "normalise", "expected a mean and a deviation");
  for (const double d : deviation) require(d > 0, "normalise", "expected deviations above 0, got ", d);
  return [mean = std::move(mean), deviation = std::move(deviation)](Sample& sample, Random&) {
    const auto channels = static_cast<std::size_t>(sample.image.shape(0));
    const Index area = sample.image.size() / std::max<Index>(1, sample.image.shape(0));
    const auto of = [&](const std::vector<double>& numbers, std::size_t c) {
      require(numbers.size() == 1 || numbers.size() == channels, "normalise", "expected 1 or ", channels,
              " numbers for an image of ", channels, " channels, got ", numbers.size());
      return numbers.size() == 1 ? numbers.front() : numbers[c];
    };
    float* value = sample.image.mutable_data();
    for (std::size_t c = 0; c < channels; ++c) {
      const double m = of(mean, c), d = of(deviation, c);
      for (Index k = 0; k < area; ++k, ++value) *value = static_cast<float>((static_cast<double>(*value) - m) / d);
    }
  };
}

}  // namespace transforms

}  // namespace settle
