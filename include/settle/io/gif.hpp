#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "settle/data/image.hpp"
#include "settle/io/atomic_file.hpp"

namespace settle::inline v0_2 {

struct GifOptions {
  std::vector<Index> delays = {10};  ///< hundredths of a second that each frame stays: one for all, or one per frame
  std::vector<Colour> palette;       ///< for one-channel frames, whose values then are positions in it; none: 256 greys
};

namespace detail {

/// Bits gathered to bytes, lowest first, in GIF's blocks of at most 255 bytes.
class GifBits {
 public:
  explicit GifBits(std::string& out) : out_(out) {}

  void put(unsigned code, unsigned bits) {
    pending_ |= code << pending_bits_;
    pending_bits_ += bits;
    for (; pending_bits_ >= 8; pending_bits_ -= 8, pending_ >>= 8) put_byte(static_cast<char>(pending_ & 255));
  }

  void finish() {
    if (pending_bits_ > 0) put_byte(static_cast<char>(pending_ & 255));
    if (!block_.empty()) put_block();
    out_ += '\0';
  }

 private:
  void put_byte(char byte) {
    block_ += byte;
    if (block_.size() == 255) put_block();
  }
  void put_block() {
    out_ += static_cast<char>(block_.size());
    out_ += block_;
    block_.clear();
  }

  std::string& out_;
  std::string block_;
  unsigned pending_ = 0, pending_bits_ = 0;
};

/// Lempel-Ziv-Welch as GIF has it: a code names a string of pixels seen before; each code sent makes a new one of its
/// string and the pixel after it. Codes grow from bits + 1 to 12 bits, then the table starts anew.
inline void lzw(std::string& out, const std::vector<std::uint8_t>& pixels, unsigned bits) {
  const unsigned clear = 1u << bits, end = clear + 1, full = 4096;
  out += static_cast<char>(bits);
  GifBits stream(out);
  std::vector<std::uint16_t> longer;  // [code << bits | pixel]: the code of that string and that pixel; 0: none yet
  unsigned next = 0, width = 0;
  const auto restart = [&] {
    longer.assign(std::size_t{full} << bits, 0);
    next = end + 1;
    width = bits + 1;
  };
  restart();
  stream.put(clear, width);
  unsigned code = pixels.front();
  for (std::size_t i = 1; i < pixels.size(); ++i) {
    std::uint16_t& known = longer[std::size_t{code} << bits | pixels[i]];
    if (known != 0) {
      code = known;
      continue;
    }
    stream.put(code, width);
    known = static_cast<std::uint16_t>(next);
    if (next == 1u << width) ++width;  // the reader, one code behind, makes this entry before it reads the next code
    if (++next == full) {
      stream.put(clear, width);
      restart();
    }
    code = pixels[i];
  }
  stream.put(code, width);
  // That code makes the reader enter one more string, which may lengthen the codes just before the last.
  if (next == 1u << width && width < 12) ++width;
  stream.put(end, width);
  stream.finish();
}

/// Frames as positions in one palette.
struct IndexedFrames {
  std::vector<Colour> palette;
  std::vector<std::vector<std::uint8_t>> frames;
};

/// RGB frames: their own colours where there are at most 256, else six even levels of each channel.
inline IndexedFrames index_colours(const std::vector<Image8>& frames) {
  const auto for_each_colour = [&](const auto& visit) {
    for (std::size_t f = 0; f < frames.size(); ++f)
      for (auto p = frames[f].pixels.begin(); p != frames[f].pixels.end(); p += 3)
        if (!visit(f, Colour{p[0], p[1], p[2]})) return;
  };
  std::set<Colour> colours;
  for_each_colour([&](std::size_t, const Colour& colour) {
    colours.insert(colour);
    return colours.size() <= 256;
  });
  IndexedFrames out{{colours.begin(), colours.end()}, std::vector<std::vector<std::uint8_t>>(frames.size())};
  const bool exact = colours.size() <= 256;
  const auto level = [](int i) { return static_cast<std::uint8_t>(51 * i); };
  if (!exact) {
    out.palette.clear();
    for (int r = 0; r < 6; ++r)
      for (int g = 0; g < 6; ++g)
        for (int b = 0; b < 6; ++b) out.palette.push_back({level(r), level(g), level(b)});
  }
  const auto nearest = [](std::uint8_t value) { return (value + 25) / 51; };
  for_each_colour([&](std::size_t f, const Colour& c) {
    const auto position = exact ? std::lower_bound(out.palette.begin(), out.palette.end(), c) - out.palette.begin()
                                : 36 * nearest(c[0]) + 6 * nearest(c[1]) + nearest(c[2]);
    out.frames[f].push_back(static_cast<std::uint8_t>(position));
    return true;
  });
  return out;
}

inline IndexedFrames index_greys(const std::vector<Image8>& frames, const std::vector<Colour>& palette) {
  IndexedFrames out{palette, {}};
  if (palette.empty())
    for (int i = 0; i < 256; ++i) {
      const auto grey = static_cast<std::uint8_t>(i);
      out.palette.push_back({grey, grey, grey});
    }
  for (const Image8& frame : frames) {
    const int most = *std::max_element(frame.pixels.begin(), frame.pixels.end());
    require(most < static_cast<int>(out.palette.size()), "write_gif", "expected positions in a palette of ",
            out.palette.size(), " colours, got ", most);
    out.frames.push_back(frame.pixels);
  }
  return out;
}

inline std::string little_endian_16(Index value) {
  return {static_cast<char>(value & 255), static_cast<char>(value >> 8 & 255)};
}

}  // namespace detail

/// Writes an animated GIF (GIF89a) that repeats for ever. Frames are all of one size, grey (or positions in
/// options.palette) or RGB; RGB frames keep their colours where all together have at most 256, and else are rounded to
/// six levels per channel. The file appears complete or not at all. Throws Error for no frames, frames that differ in
/// size or channels, a side above 65535, a palette of more than 256 colours, and when the file cannot be written.
inline void write_gif(const std::filesystem::path& path, const std::vector<Image8>& frames,
                      const GifOptions& options = {}) {
  require(!frames.empty(), "write_gif", "expected at least one frame");
  const Image8& first = frames.front();
  for (const Image8& frame : frames) {
    require_image(frame, "write_gif");
    require(frame.height == first.height && frame.width == first.width && frame.channels == first.channels, "write_gif",
            "expected frames of ", first.height, " x ", first.width, " x ", first.channels, ", got one of ",
            frame.height, " x ", frame.width, " x ", frame.channels);
  }
  require(std::max(first.height, first.width) <= 65535, "write_gif", "expected sides of at most 65535, got ",
          first.height, " x ", first.width);
  require(options.delays.size() == 1 || options.delays.size() == frames.size(), "write_gif", "expected 1 or ",
          frames.size(), " delays, got ", options.delays.size());
  for (Index delay : options.delays)
    require(delay >= 0 && delay <= 65535, "write_gif", "expected delays of 0 to 65535, got ", delay);
  require(options.palette.size() <= 256, "write_gif", "expected at most 256 colours, got ", options.palette.size());
  require(options.palette.empty() || first.channels == 1, "write_gif", "a palette goes with one-channel frames, got ",
          first.channels, " channels");

  const auto indexed =
      first.channels == 1 ? detail::index_greys(frames, options.palette) : detail::index_colours(frames);
  unsigned bits = 2;  // of a position in the palette, whose stored size is a power of 2
  while (std::size_t{1} << bits < indexed.palette.size()) ++bits;
  const std::string size = detail::little_endian_16(first.width) + detail::little_endian_16(first.height);
  using namespace std::string_view_literals;

  std::string out = "GIF89a" + size;
  out += static_cast<char>(0x80 | 7 << 4 | (bits - 1));  // one palette for all frames, of 8-bit colours
  out += "\0\0"sv;                                       // background colour; square pixels
  for (const Colour& colour : indexed.palette) out.append(colour.begin(), colour.end());
  out.append(3 * ((std::size_t{1} << bits) - indexed.palette.size()), '\0');
  out += "\x21\xFF\x0BNETSCAPE2.0\x03\x01\0\0\0"sv;  // repeat for ever
  for (std::size_t f = 0; f < frames.size(); ++f) {
    out += "\x21\xF9\x04\x04"sv;  // graphic control: a frame stays until the next is drawn over it
    out += detail::little_endian_16(options.delays[options.delays.size() == 1 ? 0 : f]);
    out += "\0\0"sv;
    out += std::string("\x2C\0\0\0\0"sv) + size + '\0';  // a frame, from the top left corner
    detail::lzw(out, indexed.frames[f], bits);
  }
  out += '\x3B';
  AtomicFile file(path);
  file.write(out);
  file.commit();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
