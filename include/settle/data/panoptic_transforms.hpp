#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "settle/core/random.hpp"
#include "settle/data/panoptic_data.hpp"
#include "settle/data/resize.hpp"

// Changes of an image together with its segments. The map's ids are moved, never mixed.
namespace settle::inline v0_2 {

namespace detail {

/// The sample with every pixel, of image and map, fetched from where source(y, x) says, and its boxes moved by box(b).
template <class Source, class Box>
PanopticSample moved(const PanopticSample& from, Index height, Index width, const Source& source, const Box& box) {
  PanopticSample out{from.image_id, blank_image(height, width, from.image.channels), void_map(height, width),
                     from.segments};
  const Index channels = from.image.channels;
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x) {
      const auto [from_y, from_x] = source(y, x);
      std::copy_n(from.image.pixels.begin() + (from_y * from.image.width + from_x) * channels, channels,
                  out.image.pixels.begin() + (y * width + x) * channels);
      out.map(y, x) = from.map(from_y, from_x);
    }
  for (Segment& segment : out.segments) segment.box = box(segment.box);
  return out;
}

/// Counts areas anew, and drops the segments that have lost their last pixel.
inline void recount(PanopticSample& sample) {
  std::map<std::uint32_t, Index> areas;
  for (const std::uint32_t id : sample.map.ids) ++areas[id];
  std::erase_if(sample.segments,
                [&](const Segment& segment) { return !areas.contains(static_cast<std::uint32_t>(segment.id)); });
  for (Segment& segment : sample.segments) segment.area = areas[static_cast<std::uint32_t>(segment.id)];
}

}  // namespace detail

/// The size of an image whose shorter side becomes `short_side`, or less where its longer side would pass `long_side`;
/// each side rounded to whole pixels (detectron2's ResizeShortestEdge).
inline Extent short_side_extent(Extent from, Index short_side, Index long_side) {
  require(from[0] > 0 && from[1] > 0 && short_side > 0 && long_side > 0, "resize", "expected sides above 0, got ",
          from[0], " x ", from[1], " to ", short_side, ", at most ", long_side);
  const auto h = static_cast<double>(from[0]), w = static_cast<double>(from[1]);
  double scale = static_cast<double>(short_side) / std::min(h, w);
  if (scale * std::max(h, w) > static_cast<double>(long_side)) scale = static_cast<double>(long_side) / std::max(h, w);
  return {std::max<Index>(1, static_cast<Index>(h * scale + 0.5)),
          std::max<Index>(1, static_cast<Index>(w * scale + 0.5))};
}

/// The sample at another size: the picture by Pillow's bilinear filter, the map from the pixel under each pixel's
/// centre, boxes by the ratios of the sides. Segments that lose all their pixels are dropped.
inline PanopticSample resized(const PanopticSample& from, Extent to) {
  const Index h = from.map.height, w = from.map.width;
  if (to == Extent{h, w}) return from;
  PanopticSample out{from.image_id, resize_image(from.image, to[0], to[1], Filter::bilinear), void_map(to[0], to[1]),
                     from.segments};
  const auto under = [](Index at, Index sides, Index of) { return std::min(of - 1, (2 * at + 1) * of / (2 * sides)); };
  for (Index y = 0; y < to[0]; ++y)
    for (Index x = 0; x < to[1]; ++x) out.map(y, x) = from.map(under(y, to[0], h), under(x, to[1], w));
  const double across = static_cast<double>(to[1]) / static_cast<double>(w),
               down = static_cast<double>(to[0]) / static_cast<double>(h);
  for (Segment& segment : out.segments)
    segment.box = {segment.box[0] * across, segment.box[1] * down, segment.box[2] * across, segment.box[3] * down};
  detail::recount(out);
  return out;
}

/// Left and right exchanged.
inline PanopticSample mirrored(const PanopticSample& from) {
  const Index h = from.map.height, w = from.map.width;
  return detail::moved(
      from, h, w, [=](Index y, Index x) { return std::pair(y, w - 1 - x); },
      [=](const CocoBox& b) { return CocoBox{static_cast<double>(w) - b[0] - b[2], b[1], b[2], b[3]}; });
}

/// Turned anticlockwise by a quarter.
inline PanopticSample turned(const PanopticSample& from) {
  const Index h = from.map.height, w = from.map.width;
  return detail::moved(
      from, w, h, [=](Index y, Index x) { return std::pair(x, w - 1 - y); },
      [=](const CocoBox& b) { return CocoBox{b[1], static_cast<double>(w) - b[0] - b[2], b[3], b[2]}; });
}

/// A window of the image. Boxes are those of what is left of the segments. Throws Error unless it lies in the image.
inline PanopticSample cropped(const PanopticSample& from, Index top, Index left, Extent size) {
  require(top >= 0 && left >= 0 && top + size[0] <= from.map.height && left + size[1] <= from.map.width, "crop",
          "expected a window in the image of ", from.map.height, " x ", from.map.width, ", got ", size[0], " x ",
          size[1], " at row ", top, ", column ", left);
  PanopticSample out = detail::moved(
      from, size[0], size[1], [=](Index y, Index x) { return std::pair(y + top, x + left); },
      [](const CocoBox& b) { return b; });
  detail::recount(out);
  out.segments = measured_segments(out.map, std::move(out.segments), "", "crop");
  return out;
}

/// Each value v of the picture becomes (v - 127.5) contrast + 127.5 + 255 brightness, rounded and kept within 0 to 255.
inline void change_colours(Image8& image, double contrast, double brightness) {
  std::array<std::uint8_t, 256> table;
  for (std::size_t v = 0; v < table.size(); ++v)
    table[v] = static_cast<std::uint8_t>(
        std::clamp(std::round((static_cast<double>(v) - 127.5) * contrast + 127.5 + 255 * brightness), 0., 255.));
  for (std::uint8_t& value : image.pixels) value = table[value];
}

/// How images are changed at random before they are trained on, in this order.
struct PanopticAugmentation {
  std::vector<Index> short_sides = {};  ///< one is drawn for each image; none: images keep their size
  Index long_side = 1333;               ///< the most that the longer side may become
  Index crop = 0;                       ///< windows of this side where the image has more; 0: the whole image
  bool mirror = true;                   ///< left and right exchanged, with probability 1/2
  bool turn = false;                    ///< also top and bottom, and turned by quarters: all eight equally likely
  double brightness = 0, contrast = 0;  ///< the largest shift, as a share of 255, and change of the factor
};

/// The sample changed by numbers of a stream. Every stream draws the same number of them, whatever the image.
inline PanopticSample augmented(PanopticSample sample, const PanopticAugmentation& options, Random& random) {
  std::array<double, 6> drawn;
  for (double& u : drawn) u = random.uniform();
  const auto below = [](double u, Index count) { return static_cast<Index>(u * static_cast<double>(count)); };
  if (!options.short_sides.empty()) {
    const auto k = static_cast<std::size_t>(below(drawn[0], std::ssize(options.short_sides)));
    const Extent from{sample.map.height, sample.map.width};
    sample = resized(sample, short_side_extent(from, options.short_sides[k], options.long_side));
  }
  if (options.crop > 0) {
    const Extent size{std::min(options.crop, sample.map.height), std::min(options.crop, sample.map.width)};
    sample = cropped(sample, below(drawn[1], sample.map.height - size[0] + 1),
                     below(drawn[2], sample.map.width - size[1] + 1), size);
  }
  const Index way = below(drawn[3], options.turn ? 8 : 2);
  if (way % 2 == 1 && (options.mirror || options.turn)) sample = mirrored(sample);
  for (Index k = 0; k < way / 2; ++k) sample = turned(sample);
  if (options.brightness > 0 || options.contrast > 0)
    change_colours(sample.image, 1 + options.contrast * (2 * drawn[4] - 1), options.brightness * (2 * drawn[5] - 1));
  return sample;
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
