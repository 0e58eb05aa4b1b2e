#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "settle/data/image.hpp"
#include "settle/vision/panoptic.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// A colour of full saturation; hue from 0 to 1.
inline Colour hue_colour(double hue, double value) {
  Colour out{};
  for (std::size_t c = 0; c < 3; ++c) {
    const double at = 6 * (hue + (3. - static_cast<double>(c)) / 3), turn = at - 6 * std::floor(at / 6);
    const double share = std::clamp(std::abs(turn - 3) - 1, 0., 1.);
    out[c] = static_cast<std::uint8_t>(255 * value * (0.15 + 0.85 * share));
  }
  return out;
}

inline void blend(std::uint8_t* pixel, const Colour& colour, double share) {
  for (std::size_t c = 0; c < 3; ++c)
    pixel[c] = static_cast<std::uint8_t>((1 - share) * pixel[c] + share * colour[c] + 0.5);
}

}  // namespace detail

/// How panoptic_picture draws.
struct PanopticPictureOptions {
  double tint = 0.45;     ///< share of a segment's colour within it
  Index least_side = 384;  ///< smaller pictures are enlarged by a whole factor, pixel by pixel, to about this side
};

/// A picture (red, green, blue) under the segments found in it: each thing in a colour of its own with an outline, each
/// kind of stuff in its category's colour, crowds darker, void as it is. Throws Error for a map of another size, and
/// segments that the map has not, or the reverse.
inline Image8 panoptic_picture(const Image8& image, const SegmentMap& map, const std::vector<Segment>& segments,
                               const std::vector<Category>& categories, const PanopticPictureOptions& options = {}) {
  const char* where = "panoptic_picture";
  require_image(image, where);
  require(image.channels == 3 && image.height == map.height && image.width == map.width, where,
          "expected a picture of 3 channels of the map's size, ", map.height, " x ", map.width, ", got ",
          image.channels, " of ", image.height, " x ", image.width);
  std::map<Index, Category> by_id;
  for (const Category& category : categories) by_id[category.id] = category;
  std::map<std::uint32_t, Colour> colours;
  std::map<std::uint32_t, bool> outlined;
  Index things = 0;
  for (const Segment& segment : measured_segments(map, segments, "", where)) {
    const auto found = by_id.find(segment.category);
    require(found != by_id.end(), where, "segment ", segment.id, ": expected a category of the list, got ",
            segment.category);
    const auto id = static_cast<std::uint32_t>(segment.id);
    outlined[id] = found->second.thing;
    // Hues a golden section apart: neighbours in the list look unlike each other.
    colours[id] = found->second.colour;
    if (outlined[id])
      colours[id] = detail::hue_colour(0.618034 * static_cast<double>(things++), segment.crowd ? 0.5 : 1);
  }
  const Index factor = std::max<Index>(1, options.least_side / std::max(image.height, image.width));
  Image8 out = blank_image(image.height * factor, image.width * factor, 3);
  for (Index y = 0; y < out.height; ++y)
    for (Index x = 0; x < out.width; ++x) {
      const Index from_y = y / factor, from_x = x / factor;
      std::uint8_t* pixel = out.pixels.data() + 3 * (y * out.width + x);
      std::copy_n(image.pixels.data() + 3 * (from_y * image.width + from_x), 3, pixel);
      const std::uint32_t id = map(from_y, from_x);
      if (id == 0) continue;
      const auto other = [&](Index v, Index u) {  // the enlarged picture's neighbour belongs to something else
        return v < 0 || u < 0 || v >= out.height || u >= out.width || map(v / factor, u / factor) != id;
      };
      const bool edge = outlined[id] && (other(y - 1, x) || other(y + 1, x) || other(y, x - 1) || other(y, x + 1));
      detail::blend(pixel, colours[id], edge ? 1 : options.tint);
    }
  return out;
}

/// Pictures of three channels in a row, with white gaps between them; shorter ones at the top.
inline Image8 side_by_side(const std::vector<Image8>& pictures, Index gap = 8) {
  Index height = 0, width = -gap;
  for (const Image8& picture : pictures) {
    require_image(picture, "side_by_side");
    require(picture.channels == 3, "side_by_side", "expected pictures of 3 channels, got ", picture.channels);
    height = std::max(height, picture.height), width += picture.width + gap;
  }
  Image8 out = blank_image(height, std::max<Index>(width, 0), 3, 255);
  Index left = 0;
  for (const Image8& picture : pictures) {
    for (Index y = 0; y < picture.height; ++y)
      std::copy_n(picture.pixels.data() + 3 * y * picture.width, 3 * picture.width,
                  out.pixels.data() + 3 * (y * width + left));
    left += picture.width + gap;
  }
  return out;
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
