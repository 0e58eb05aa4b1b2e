#pragma once
#include "settle/core/macros_off.hpp"
#include <png.h>

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "settle/data/image.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/file_bytes.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// What libpng's callbacks share with us. libpng reports failure by longjmp, which skips destructors: so the functions
/// that call setjmp below own nothing, and this object, which outlives them, owns everything.
struct PngSession {
  png_structp png = nullptr;
  png_infop info = nullptr;
  bool writing = false;
  std::vector<std::uint8_t> bytes;  // of the file
  std::size_t position = 0;         // of the next byte to read
  char message[256] = "";           // libpng's complaints, joined

  explicit PngSession(bool write) : writing(write) {
    png = write ? png_create_write_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning)
                : png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
  }
  ~PngSession() {
    if (writing)
      png_destroy_write_struct(&png, &info);
    else
      png_destroy_read_struct(&png, &info, nullptr);
  }
  PngSession(const PngSession&) = delete;
  PngSession& operator=(const PngSession&) = delete;

  static void note(png_structp png, const char* text) {
    auto* message = static_cast<PngSession*>(png_get_error_ptr(png))->message;
    const std::size_t used = std::strlen(message);
    std::snprintf(message + used, sizeof(PngSession::message) - used, "%s%s", used ? "; " : "", text);
  }
  [[noreturn]] static void on_error(png_structp png, const char* text) {
    note(png, text);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp png, const char* text) { note(png, text); }

  static void on_read(png_structp png, png_bytep to, std::size_t count) {
    auto* session = static_cast<PngSession*>(png_get_io_ptr(png));
    if (count > session->bytes.size() - session->position) png_error(png, "the file ends too early");
    std::memcpy(to, session->bytes.data() + session->position, count);
    session->position += count;
  }
  static void on_write(png_structp png, png_bytep from, std::size_t count) {
    auto& bytes = static_cast<PngSession*>(png_get_io_ptr(png))->bytes;
    bool stored = true;
    try {
      bytes.insert(bytes.end(), from, from + count);
    } catch (...) {  // C++ exceptions must not pass through libpng
      stored = false;
    }
    if (!stored) png_error(png, "out of memory");
  }
  static void on_flush(png_structp) {}
};

/// Reads up to the pixels. Asks for 8 bits, no palette, no alpha: then rows are grey or RGB; or, `as_they_stand`, for
/// values that are not stretched.
inline bool read_png_header(PngSession& session, bool as_they_stand = false) {
  if (setjmp(png_jmpbuf(session.png))) return false;
  png_set_read_fn(session.png, &session, PngSession::on_read);
  png_set_crc_action(session.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_read_info(session.png, session.info);
  if (as_they_stand) {
    png_set_packing(session.png);
  } else {
    png_set_expand(session.png);
    png_set_scale_16(session.png);
    png_set_strip_alpha(session.png);
  }
  png_set_interlace_handling(session.png);
  png_read_update_info(session.png, session.info);
  return true;
}

inline bool read_png_rows(PngSession& session, png_bytepp rows) {
  if (setjmp(png_jmpbuf(session.png))) return false;
  png_read_image(session.png, rows);
  png_read_end(session.png, nullptr);
  return true;
}

inline bool write_png_rows(PngSession& session, png_bytepp rows, png_uint_32 height, png_uint_32 width,
                           int colour_type, int bits = 8) {
  if (setjmp(png_jmpbuf(session.png))) return false;
  png_set_write_fn(session.png, &session, PngSession::on_write, PngSession::on_flush);
  png_set_IHDR(session.png, session.info, width, height, bits, colour_type, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(session.png, session.info);
  png_write_image(session.png, rows);
  png_write_end(session.png, nullptr);
  return true;
}

inline std::vector<png_bytep> row_pointers(std::uint8_t* pixels, Index height, Index row_bytes) {
  std::vector<png_bytep> rows;
  for (Index y = 0; y < height; ++y) rows.push_back(pixels + y * row_bytes);
  return rows;
}

}  // namespace detail

/// The picture in a PNG file, as grey (channels = 1), RGB (3) or as the file has it (0). Palettes are looked up, 16-bit
/// values are rounded to 8 bits, alpha is dropped. Throws Error naming the file when it is missing, no PNG, cut short,
/// damaged (every chunk's check sum is verified) or larger than 2^28 values.
inline Image8 read_png(const std::filesystem::path& path, Index channels = 1) {
  const std::string name = path.string();
  detail::PngSession session(false);
  require(session.info != nullptr, "read_png", name, ": libpng could not start");
  session.bytes = detail::file_bytes(path, "read_png");
  require(session.bytes.size() >= 8 && png_sig_cmp(session.bytes.data(), 0, 8) == 0, "read_png", name,
          ": expected a PNG file, found ", session.bytes.size(), " bytes that do not start with PNG's signature");
  const auto damaged = [&] {
    fail("read_png", name, ": damaged PNG at byte ", session.position, " of ", session.bytes.size(), ": ",
         session.message);
  };
  if (!detail::read_png_header(session)) damaged();
  Image8 image = detail::image_of_file("read_png", name, session.bytes.size(),
                                       png_get_image_height(session.png, session.info),
                                       png_get_image_width(session.png, session.info),
                                       png_get_channels(session.png, session.info));
  auto rows = detail::row_pointers(image.pixels.data(), image.height, image.width * image.channels);
  if (!detail::read_png_rows(session, rows.data())) damaged();
  return with_channels(image, channels);
}

/// The values of a grey PNG file of 1 to 16 bits as they stand, 0 ... 65535. Throws Error as read_png does, and for a
/// file that is not grey.
inline Image16 read_png_values(const std::filesystem::path& path) {
  const std::string name = path.string();
  detail::PngSession session(false);
  require(session.info != nullptr, "read_png", name, ": libpng could not start");
  session.bytes = detail::file_bytes(path, "read_png");
  const auto damaged = [&] {
    fail("read_png", name, ": damaged PNG at byte ", session.position, " of ", session.bytes.size(), ": ",
         session.message);
  };
  if (!detail::read_png_header(session, true)) damaged();
  require(png_get_color_type(session.png, session.info) == PNG_COLOR_TYPE_GRAY, "read_png", name,
          ": expected a grey PNG file");
  const Index value_bytes = png_get_bit_depth(session.png, session.info) == 16 ? 2 : 1;
  Image8 bytes = detail::image_of_file("read_png", name, session.bytes.size(),
                                       png_get_image_height(session.png, session.info),
                                       png_get_image_width(session.png, session.info), value_bytes);
  auto rows = detail::row_pointers(bytes.pixels.data(), bytes.height, bytes.width * value_bytes);
  if (!detail::read_png_rows(session, rows.data())) damaged();
  Image16 out{bytes.height, bytes.width, {bytes.pixels.begin(), bytes.pixels.begin() + bytes.height * bytes.width}};
  for (std::size_t k = 0; k < out.values.size() && value_bytes == 2; ++k)  // PNG's larger byte comes first
    out.values[k] = static_cast<std::uint16_t>(bytes.pixels[2 * k] << 8 | bytes.pixels[2 * k + 1]);
  return out;
}

/// Writes a grey picture of 16 bits; the file appears complete or not at all. Throws Error as the other does.
inline void write_png(const std::filesystem::path& path, const Image16& image) {
  require(image.height > 0 && image.width > 0 &&
              static_cast<Index>(image.values.size()) == Shape{image.height, image.width}.size(),
          "write_png", "expected ", image.height, " x ", image.width, " values, got ", image.values.size());
  std::vector<std::uint8_t> bytes;
  for (const std::uint16_t value : image.values)
    for (const int part : {value >> 8, value & 0xff}) bytes.push_back(static_cast<std::uint8_t>(part));
  detail::PngSession session(true);
  require(session.info != nullptr, "write_png", path.string(), ": libpng could not start");
  auto rows = detail::row_pointers(bytes.data(), image.height, 2 * image.width);
  if (!detail::write_png_rows(session, rows.data(), static_cast<png_uint_32>(image.height),
                              static_cast<png_uint_32>(image.width), PNG_COLOR_TYPE_GRAY, 16))
    fail("write_png", path.string(), ": ", session.message);
  AtomicFile file(path);
  file.write(session.bytes.data(), session.bytes.size());
  file.commit();
}

/// Writes a grey or RGB picture; the file appears complete or not at all. Throws Error for an inconsistent picture and
/// when the file cannot be written.
inline void write_png(const std::filesystem::path& path, Image8 image) {
  require_image(image, "write_png");
  detail::PngSession session(true);
  require(session.info != nullptr, "write_png", path.string(), ": libpng could not start");
  auto rows = detail::row_pointers(image.pixels.data(), image.height, image.width * image.channels);
  if (!detail::write_png_rows(session, rows.data(), static_cast<png_uint_32>(image.height),
                              static_cast<png_uint_32>(image.width),
                              image.channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB))
    fail("write_png", path.string(), ": ", session.message);
  AtomicFile file(path);
  file.write(session.bytes.data(), session.bytes.size());
  file.commit();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
