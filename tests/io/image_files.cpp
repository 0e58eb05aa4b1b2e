#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/core/random.hpp"
#include "settle/data/resize.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/png.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

const fs::path pictures = fs::path(SETTLE_DATA_DIR) / "fixtures" / "pictures";

Image8 noise(Index height, Index width, Index channels, Index levels = 256) {
  Random random(7, static_cast<std::uint64_t>(height * 1000 + width));
  Image8 image = blank_image(height, width, channels);
  for (auto& value : image.pixels) value = static_cast<std::uint8_t>(random.below(levels) * (255 / (levels - 1)));
  return image;
}

bool same(const Image8& a, const Image8& b) {
  return a.height == b.height && a.width == b.width && a.channels == b.channels && a.pixels == b.pixels;
}

/// Bytes in PNG's order: the highest first.
std::string big_endian(std::uint32_t number) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(number >> shift);
  return out;
}

/// A PNG chunk with its right check sum (CRC-32, bit by bit).
std::string chunk(const std::string& kind, const std::string& data) {
  std::uint32_t sum = 0xFFFFFFFFu;
  for (const char c : kind + data) {
    sum ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0u);
  }
  return big_endian(static_cast<std::uint32_t>(data.size())) + kind + data + big_endian(~sum);
}

const std::string signature = "\x89PNG\r\n\x1a\n";

std::string header_chunk(std::uint32_t width, std::uint32_t height, char depth, char colour_type) {
  return chunk("IHDR", big_endian(width) + big_endian(height) + depth + colour_type + std::string(3, '\0'));
}

/// What a GIF reader sees, written from the format's description: frames of RGB pixels, their delays, the repeat count.
struct Gif {
  Index height = 0, width = 0, repeats = -1;
  std::vector<Index> delays;
  std::vector<std::vector<std::uint8_t>> frames;
};

std::vector<std::uint8_t> unpack_lzw(const std::string& packed, unsigned bits) {
  struct Entry {
    int before;
    std::uint8_t pixel;
  };
  const int clear = 1 << bits, end = clear + 1;
  std::vector<Entry> table;
  std::vector<std::uint8_t> out;
  unsigned width = bits + 1;
  int previous = -1;
  std::size_t bit = 0;
  const auto pixels_of = [&](int code) {
    std::vector<std::uint8_t> reversed;
    for (; code >= 0; code = table[static_cast<std::size_t>(code)].before)
      reversed.push_back(table[static_cast<std::size_t>(code)].pixel);
    return std::vector<std::uint8_t>(reversed.rbegin(), reversed.rend());
  };
  for (;;) {
    int code = 0;
    for (unsigned i = 0; i < width; ++i, ++bit)
      code |= (static_cast<std::uint8_t>(packed.at(bit / 8)) >> (bit % 8) & 1) << i;
    if (code == end) return out;
    if (code == clear) {
      table.clear();
      for (int i = 0; i <= end; ++i) table.push_back({-1, static_cast<std::uint8_t>(i)});
      width = bits + 1;
      previous = -1;
      continue;
    }
    if (previous >= 0 && table.size() < 4096) {
      const int source = code < static_cast<int>(table.size()) ? code : previous;
      table.push_back({previous, pixels_of(source).front()});
      if (table.size() == std::size_t{1} << width && width < 12) ++width;
    }
    REQUIRE(code < static_cast<int>(table.size()));
    const auto pixels = pixels_of(code);
    out.insert(out.end(), pixels.begin(), pixels.end());
    previous = code;
  }
}

Gif read_gif(const std::string& bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes.at(i)); };
  const auto word = [&](std::size_t i) { return Index{byte(i)} + 256 * byte(i + 1); };
  REQUIRE(bytes.substr(0, 6) == "GIF89a");
  Gif gif;
  gif.width = word(6);
  gif.height = word(8);
  REQUIRE((byte(10) & 0x80) != 0);
  const std::size_t colours = std::size_t{2} << (byte(10) & 7);
  const std::string palette = bytes.substr(13, 3 * colours);
  std::size_t at = 13 + 3 * colours;
  const auto blocks = [&] {
    std::string data;
    for (; byte(at) != 0; at += std::size_t{byte(at)} + 1) data += bytes.substr(at + 1, byte(at));
    ++at;
    return data;
  };
  while (byte(at) != 0x3B) {
    if (byte(at) == 0x21) {
      const int kind = byte(at + 1);
      at += 2;
      const std::string data = blocks();
      const auto value = [&](std::size_t i) {
        return Index{static_cast<std::uint8_t>(data.at(i))} + 256 * static_cast<std::uint8_t>(data.at(i + 1));
      };
      if (kind == 0xF9) gif.delays.push_back(value(1));
      if (kind == 0xFF && contains(data, "NETSCAPE2.0")) gif.repeats = value(12);
    } else {
      REQUIRE(byte(at) == 0x2C);
      REQUIRE(word(at + 5) == gif.width);
      REQUIRE(word(at + 7) == gif.height);
      const unsigned bits = byte(at + 10);
      at += 11;
      std::vector<std::uint8_t> frame;
      for (const std::uint8_t position : unpack_lzw(blocks(), bits))
        for (std::size_t c = 0; c < 3; ++c) frame.push_back(static_cast<std::uint8_t>(palette.at(3 * position + c)));
      gif.frames.push_back(frame);
    }
  }
  REQUIRE(at + 1 == bytes.size());
  return gif;
}

}  // namespace

TEST_CASE("the bicubic resize gives Pillow's values") {
  const struct {
    const char* name;
    Index channels;
    std::vector<std::array<Index, 2>> sizes;
  } cases[] = {{"grey", 1, {{19, 15}, {37, 12}, {11, 29}, {60, 41}, {1, 1}, {36, 28}}},
               {"strokes", 1, {{30, 30}, {26, 26}, {50, 50}}},
               {"colour", 3, {{18, 14}, {50, 60}}}};
  for (const auto& c : cases)
    for (const auto& [height, width] : c.sizes) {
      const std::string expected = std::string(c.name) + "_" + std::to_string(height) + "x" + std::to_string(width);
      CAPTURE(expected);
      const Image8 resized =
          resize_image(read_png(pictures / (std::string(c.name) + ".png"), c.channels), height, width);
      CHECK(same(resized, read_png(pictures / (expected + ".png"), c.channels)));
    }
}

TEST_CASE("resizing keeps a constant picture, and to its own size keeps any") {
  for (const Filter filter : {Filter::bilinear, Filter::bicubic, Filter::lanczos}) {
    CHECK(same(resize_image(blank_image(40, 30, 3, 201), 17, 77, filter), blank_image(17, 77, 3, 201)));
    const Image8 image = noise(9, 12, 1);
    CHECK(same(resize_image(image, 9, 12, filter), image));
  }
}

TEST_CASE("resize names what is wrong with its arguments") {
  CHECK(contains(error_of([] { resize_image(blank_image(4, 4), 0, 3); }), "at least 1 x 1, got 0 x 3"));
  CHECK(contains(error_of([] { resize_image(Image8{}, 2, 2); }), "at least one pixel, got 0 x 0"));
  CHECK(contains(error_of([] { resize_image(Image8{2, 2, 1, {1, 2, 3}}, 2, 2); }), "2 x 2 x 1 values, got 3"));
  CHECK(contains(error_of([] { resize_image(blank_image(2, 2, 2), 3, 3); }), "1 or 3 channels, got 2"));
}

TEST_CASE("PNG files of every kind become 8-bit grey as Pillow makes it") {
  for (const std::string name : {"colour", "palette", "alpha", "bilevel"}) {
    CAPTURE(name);
    CHECK(same(read_png(pictures / (name + ".png")), read_png(pictures / ("as_grey_" + name + ".png"))));
  }
  const Image8 grey16 = read_png(pictures / "grey16.png");
  for (int i = 0; i < 256; ++i)
    CHECK(grey16.pixels[static_cast<std::size_t>(i)] == static_cast<int>((i * 200 + 77) / 257. + 0.5));
}

TEST_CASE("a PNG file read as colour has the colours, or grey three times") {
  const Image8 colour = read_png(pictures / "colour.png", 3);
  CHECK(colour.channels == 3);
  CHECK(same(read_png(pictures / "alpha.png", 3), colour));
  const Image8 grey = read_png(pictures / "grey.png", 3);
  for (std::size_t i = 0; i < grey.pixels.size(); i += 3) {
    CHECK(grey.pixels[i] == grey.pixels[i + 1]);
    CHECK(grey.pixels[i] == grey.pixels[i + 2]);
  }
  CHECK(same(with_channels(grey, 1), read_png(pictures / "grey.png")));
}

TEST_CASE("what write_png writes, read_png reads") {
  const TemporaryFolder folder;
  for (const Index channels : {1, 3})
    for (const auto& [height, width] : {std::array<Index, 2>{1, 1}, {5, 300}, {64, 48}}) {
      const Image8 image = noise(height, width, channels);
      write_png(folder.path() / "a.png", image);
      CHECK(same(read_png(folder.path() / "a.png", channels), image));
    }
  CHECK(folder.files() == 1);
}

TEST_CASE("a malformed PNG file is an error that names the file and what was found") {
  const TemporaryFolder folder;
  write_png(folder.path() / "good.png", noise(12, 9, 1));
  const std::string good = bytes_of(folder.path() / "good.png");
  std::string bad_header_sum = good, bad_data = good, bad_data_sum = good;
  bad_header_sum[30] ^= 1;  // signature 8, length 4, name 4, header 13: the sum begins at 29
  bad_data[good.size() - 30] ^= 1;
  bad_data_sum[good.size() - 14] ^= 1;  // the last chunk takes 12 bytes
  const std::string end = chunk("IEND", "");
  const struct {
    std::string what, bytes, found;
  } cases[] = {
      {"empty", "", "found 0 bytes"},
      {"text", "not a picture at all", "expected a PNG file, found 20 bytes"},
      {"gif", "GIF89a..........", "expected a PNG file"},
      {"signature alone", signature, "ends too early"},
      {"header's sum", bad_header_sum, "CRC error"},
      {"data", bad_data, "incorrect data check"},
      {"data's sum", bad_data_sum, "CRC error"},
      {"no end", good.substr(0, good.size() - 12), "ends too early"},
      {"no data", signature + header_chunk(4, 4, 8, 0) + end, "damaged PNG"},
      {"too little data", signature + header_chunk(9, 120, 8, 0) + good.substr(33), "damaged PNG"},
      {"width 0", signature + header_chunk(0, 4, 8, 0) + end, "Invalid IHDR"},
      {"height 2^31 + 1", signature + header_chunk(4, 0x80000001u, 8, 0) + end, "out of range"},
      {"width above libpng's limit", signature + header_chunk(50000000, 4, 8, 0) + end, "Invalid IHDR"},
      {"10^12 pixels", signature + header_chunk(1000000, 1000000, 8, 0) + chunk("IDAT", "x") + end,
       "expected at most 2^28 values, found 1000000 x 1000000 pixels"},
      {"more pixels than its bytes can hold",
       signature + header_chunk(10000, 10000, 1, 0) + chunk("IDAT", "x") + end,
       "damaged: 10000 x 10000 pixels cannot be in"},
      {"depth 7", signature + header_chunk(4, 4, 7, 0) + end, "Invalid IHDR"},
      {"colour type 5", signature + header_chunk(4, 4, 8, 5) + end, "Invalid IHDR"},
      {"no palette", signature + header_chunk(4, 4, 8, 3) + chunk("IDAT", "x") + end, "PLTE"},
      {"not compressed data", signature + header_chunk(4, 4, 8, 0) + chunk("IDAT", "hello there") + end, "damaged PNG"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    write_bytes(folder.path() / "bad.png", c.bytes);
    const std::string error = error_of([&] { read_png(folder.path() / "bad.png"); });
    CAPTURE(error);
    CHECK(contains(error, "[read_png]"));
    CHECK(contains(error, "bad.png"));
    CHECK(contains(error, c.found));
  }
}

TEST_CASE("a PNG file cut anywhere is an error") {
  const TemporaryFolder folder;
  write_png(folder.path() / "good.png", noise(6, 5, 3));
  const std::string good = bytes_of(folder.path() / "good.png");
  for (std::size_t length = 0; length < good.size(); ++length) {
    CAPTURE(length);
    write_bytes(folder.path() / "cut.png", good.substr(0, length));
    CHECK(contains(error_of([&] { read_png(folder.path() / "cut.png", 3); }), "cut.png"));
  }
}

TEST_CASE("a PNG file with any one bit changed is an error") {
  const TemporaryFolder folder;
  write_png(folder.path() / "good.png", noise(3, 4, 1));
  const std::string good = bytes_of(folder.path() / "good.png");
  for (std::size_t i = 0; i < 8 * good.size(); ++i) {
    CAPTURE(i);
    std::string bad = good;
    bad[i / 8] = static_cast<char>(bad[i / 8] ^ 1 << (i % 8));
    write_bytes(folder.path() / "changed.png", bad);
    CHECK(contains(error_of([&] { read_png(folder.path() / "changed.png"); }), "changed.png"));
  }
}

TEST_CASE("PNG files that are not there, and places that cannot be written, are errors that leave nothing behind") {
  const TemporaryFolder folder;
  CHECK(contains(error_of([&] { read_png(folder.path() / "none.png"); }), "cannot be opened: No such file"));
  CHECK(contains(error_of([&] { read_png(folder.path()); }), "found a folder"));
  CHECK(contains(error_of([&] { read_png(pictures / "grey.png", 4); }), "1 or 3 channels to be asked for, got 4"));
  CHECK(contains(error_of([&] { write_png(folder.path() / "no" / "a.png", noise(3, 3, 1)); }), "a.png"));
  CHECK(contains(error_of([&] { write_png(folder.path(), noise(3, 3, 1)); }), folder.path().string()));
  CHECK(contains(error_of([&] { write_png(folder.path() / "a.png", blank_image(3, 3, 2)); }), "channels, got 2"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a GIF reader finds the frames, their delays and endless repetition") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.gif";
  const auto grey_as_colours = [](const Image8& image) { return with_channels(image, 3).pixels; };

  std::vector<Image8> frames{noise(70, 90, 1), blank_image(70, 90, 1, 9), blank_image(70, 90, 1, 255)};
  write_gif(path, frames, {{7, 300, 0}, {}});
  Gif gif = read_gif(bytes_of(path));
  CHECK(gif.height == 70);
  CHECK(gif.width == 90);
  CHECK(gif.repeats == 0);
  CHECK(gif.delays == std::vector<Index>{7, 300, 0});
  REQUIRE(gif.frames.size() == 3);
  for (std::size_t f = 0; f < 3; ++f) CHECK(gif.frames[f] == grey_as_colours(frames[f]));

  // Every length, so that codes grow and tables end at every place.
  const std::vector<Colour> black_white{{0, 0, 0}, {255, 255, 255}};
  for (Index width = 1; width < 600; width += 7) {
    CAPTURE(width);
    Image8 bits = noise(1, width, 1, 2);
    const auto expected = grey_as_colours(bits);
    for (auto& value : bits.pixels) value = value > 0;
    write_gif(path, {bits}, {{10}, black_white});
    CHECK(read_gif(bytes_of(path)).frames.at(0) == expected);
  }
}

TEST_CASE("GIF frames keep up to 256 colours, and take the nearest of 216 above") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.gif";
  const Image8 few = noise(20, 30, 3, 6), many = noise(20, 30, 3);
  write_gif(path, {few});
  CHECK(read_gif(bytes_of(path)).frames.at(0) == few.pixels);
  write_gif(path, {many, many});
  const Gif gif = read_gif(bytes_of(path));
  REQUIRE(gif.frames.size() == 2);
  CHECK(gif.delays == std::vector<Index>{10, 10});
  for (std::size_t i = 0; i < many.pixels.size(); ++i) CHECK(std::abs(gif.frames[1][i] - many.pixels[i]) <= 25);
}

TEST_CASE("write_gif names what is wrong with its arguments, and leaves nothing behind") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.gif";
  const std::vector<Image8> two{noise(3, 4, 1), noise(3, 4, 1)};
  CHECK(contains(error_of([&] { write_gif(path, {}); }), "at least one frame"));
  CHECK(contains(error_of([&] {
                   write_gif(path, {noise(3, 4, 1), noise(3, 5, 1)});
                 }),
                 "frames of 3 x 4 x 1, got one of 3"));
  CHECK(contains(error_of([&] { write_gif(path, two, {{1, 2, 3}, {}}); }), "1 or 2 delays, got 3"));
  CHECK(contains(error_of([&] { write_gif(path, two, {{-1}, {}}); }), "delays of 0 to 65535, got -1"));
  CHECK(contains(error_of([&] { write_gif(path, two, {{1}, {{0, 0, 0}}}); }), "a palette of 1 colours, got"));
  CHECK(contains(error_of([&] {
                   write_gif(path, {noise(3, 4, 3)}, {{1}, {{0, 0, 0}}});
                 }),
                 "one-channel frames, got 3"));
  CHECK(contains(error_of([&] { write_gif(path, {blank_image(1, 70000)}); }), "at most 65535, got 1 x 70000"));
  CHECK(folder.files() == 0);
}
