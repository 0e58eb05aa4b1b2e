#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

/// Red, green, blue.
using Colour = std::array<std::uint8_t, 3>;

/// An 8-bit picture: rows from the top, pixels from the left, the channels of a pixel side by side
/// (1: grey, 3: red, green, blue).
struct Image8 {
  Index height = 0, width = 0, channels = 1;
  std::vector<std::uint8_t> pixels;
};

/// A grey picture of 16 bits: rows from the top, pixels from the left.
struct Image16 {
  Index height = 0, width = 0;
  std::vector<std::uint16_t> values;
};

/// A picture with every value equal to `value`. Throws Error for an extent below 0 and where there is no memory for it.
inline Image8 blank_image(Index height, Index width, Index channels = 1, std::uint8_t value = 0) {
  const auto bytes = static_cast<std::size_t>(Shape{height, width, channels}.size());
  return with_memory("image", bytes, [&] {
    return Image8{height, width, channels, std::vector<std::uint8_t>(bytes, value)};
  });
}

/// Throws Error "[where] ..." unless the picture has at least one pixel, 1 or 3 channels, and as many values as its
/// extents say.
inline void require_image(const Image8& image, const char* where) {
  require(image.height > 0 && image.width > 0, where, "expected at least one pixel, got ", image.height, " x ",
          image.width);
  require(image.channels == 1 || image.channels == 3, where, "expected 1 or 3 channels, got ", image.channels);
  require(static_cast<Index>(image.pixels.size()) == Shape{image.height, image.width, image.channels}.size(), where, "expected ",
          image.height, " x ", image.width, " x ", image.channels, " values, got ", image.pixels.size());
}

/// The picture as grey (channels = 1: 0.299 R + 0.587 G + 0.114 B, rounded as Pillow's convert("L") does), as RGB
/// (3: grey repeated) or as it is (0).
inline Image8 with_channels(const Image8& image, Index channels) {
  require_image(image, "with_channels");
  require(channels == 0 || channels == 1 || channels == 3, "with_channels",
          "expected 0, 1 or 3 channels to be asked for, got ", channels);
  if (channels == 0 || image.channels == channels) return image;
  Image8 out = blank_image(image.height, image.width, channels);
  for (std::size_t i = 0; i < static_cast<std::size_t>(image.height * image.width); ++i) {
    if (channels == 3) {
      std::fill_n(out.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i), 3, image.pixels[i]);
    } else {
      const auto* rgb = image.pixels.data() + 3 * i;
      out.pixels[i] = static_cast<std::uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
    }
  }
  return out;
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
