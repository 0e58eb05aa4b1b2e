#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

namespace settle {

/// An 8-bit picture: rows from the top, pixels from the left, the channels of a pixel side by side
/// (1: grey, 3: red, green, blue).
struct Image8 {
  Index height = 0, width = 0, channels = 1;
  std::vector<std::uint8_t> pixels;
};

/// A picture with every value equal to `value`.
inline Image8 blank_image(Index height, Index width, Index channels = 1, std::uint8_t value = 0) {
  return {height, width, channels,
          std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * channels), value)};
}

/// Throws Error "[where] ..." unless the picture has at least one pixel, 1 or 3 channels, and as many values as its
/// extents say.
inline void require_image(const Image8& image, const char* where) {
  require(image.height > 0 && image.width > 0, where, "expected at least one pixel, got ", image.height, " x ",
          image.width);
  require(image.channels == 1 || image.channels == 3, where, "expected 1 or 3 channels, got ", image.channels);
  require(static_cast<Index>(image.pixels.size()) == image.height * image.width * image.channels, where, "expected ",
          image.height, " x ", image.width, " x ", image.channels, " values, got ", image.pixels.size());
}

}  // namespace settle
