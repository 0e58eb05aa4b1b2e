#pragma once
#include "settle/core/macros_off.hpp"
// libjpeg's header needs what comes before it.
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>
// After jpeglib.h, of which it is a part.
#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "settle/data/image.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/file_bytes.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// What libjpeg's callbacks share with us, for reading (jpeg_decompress_struct) or writing (jpeg_compress_struct).
/// libjpeg reports failure by longjmp, which skips destructors: so the functions that call setjmp below own nothing,
/// and this object, which outlives them, owns everything.
template <class Struct>
struct JpegSession {
  Struct jpeg = {};
  jpeg_error_mgr errors = {};
  jpeg_destination_mgr destination = {};
  jpeg_progress_mgr progress = {};
  std::jmp_buf on_failure;
  std::vector<std::uint8_t> bytes;  // of the file
  char message[JMSG_LENGTH_MAX] = "";

  static constexpr std::size_t block = 1 << 14;  // the file that is written grows by so many bytes at a time

  JpegSession() {
    jpeg.err = jpeg_std_error(&errors);
    errors.error_exit = on_error;
    errors.emit_message = on_message;
    jpeg.client_data = this;
  }
  ~JpegSession() { jpeg_destroy(reinterpret_cast<j_common_ptr>(&jpeg)); }
  JpegSession(const JpegSession&) = delete;
  JpegSession& operator=(const JpegSession&) = delete;

  static JpegSession& of(void* jpeg) {
    return *static_cast<JpegSession*>(static_cast<j_common_ptr>(jpeg)->client_data);
  }

  [[noreturn]] static void on_error(j_common_ptr jpeg) {
    jpeg->err->format_message(jpeg, of(jpeg).message);
    std::longjmp(of(jpeg).on_failure, 1);
  }
  /// libjpeg goes on after a warning, with grey where data is missing. Of its warnings only these leave the picture
  /// whole; cameras' files have them.
  static void on_message(j_common_ptr jpeg, int level) {
    const int code = jpeg->err->msg_code;
    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_JFIF_MAJOR && code != JWRN_ADOBE_XFORM &&
        code != JWRN_BOGUS_ICC)
      on_error(jpeg);
  }
  /// A small file can declare a large picture and go over it as often as it likes.
  static void on_progress(j_common_ptr jpeg) {
    if constexpr (std::is_same_v<Struct, jpeg_decompress_struct>)
      if (of(jpeg).jpeg.input_scan_number > 500) {
        std::snprintf(of(jpeg).message, sizeof message, "more than 500 scans");
        std::longjmp(of(jpeg).on_failure, 1);
      }
  }

  static void on_start(j_compress_ptr jpeg) { offer_block(of(jpeg), 0); }
  static boolean on_full(j_compress_ptr jpeg) {
    offer_block(of(jpeg), of(jpeg).bytes.size());
    return TRUE;
  }
  static void on_end(j_compress_ptr jpeg) {
    of(jpeg).bytes.resize(of(jpeg).bytes.size() - of(jpeg).destination.free_in_buffer);
  }
  static void offer_block(JpegSession& session, std::size_t used) {
    bool stored = true;
    try {
      session.bytes.resize(used + block);
    } catch (...) {  // C++ exceptions must not pass through libjpeg
      stored = false;
    }
    if (!stored) {
      std::snprintf(session.message, sizeof message, "out of memory");
      std::longjmp(session.on_failure, 1);
    }
    session.destination.next_output_byte = session.bytes.data() + used;
    session.destination.free_in_buffer = block;
  }
};

using JpegReading = JpegSession<jpeg_decompress_struct>;
using JpegWriting = JpegSession<jpeg_compress_struct>;

/// Reads up to the pixels and asks for grey where the file is grey, else RGB.
inline bool read_jpeg_header(JpegReading& session) {
  if (setjmp(session.on_failure)) return false;
  jpeg_create_decompress(&session.jpeg);
  jpeg_mem_src(&session.jpeg, session.bytes.data(), static_cast<unsigned long>(session.bytes.size()));
  jpeg_read_header(&session.jpeg, TRUE);
  session.progress.progress_monitor = JpegReading::on_progress;
  session.jpeg.progress = &session.progress;
  session.jpeg.out_color_space = session.jpeg.jpeg_color_space == JCS_GRAYSCALE ? JCS_GRAYSCALE : JCS_RGB;
  return true;
}

inline bool read_jpeg_rows(JpegReading& session, JSAMPLE* pixels, std::size_t row_bytes) {
  if (setjmp(session.on_failure)) return false;
  jpeg_start_decompress(&session.jpeg);
  while (session.jpeg.output_scanline < session.jpeg.output_height) {
    JSAMPROW row = pixels + session.jpeg.output_scanline * row_bytes;
    jpeg_read_scanlines(&session.jpeg, &row, 1);
  }
  jpeg_finish_decompress(&session.jpeg);
  return true;
}

inline bool write_jpeg_rows(JpegWriting& session, const Image8& image, int quality) {
  if (setjmp(session.on_failure)) return false;
  jpeg_create_compress(&session.jpeg);
  session.destination.init_destination = JpegWriting::on_start;
  session.destination.empty_output_buffer = JpegWriting::on_full;
  session.destination.term_destination = JpegWriting::on_end;
  session.jpeg.dest = &session.destination;
  session.jpeg.image_width = static_cast<JDIMENSION>(image.width);
  session.jpeg.image_height = static_cast<JDIMENSION>(image.height);
  session.jpeg.input_components = static_cast<int>(image.channels);
  session.jpeg.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&session.jpeg);
  jpeg_set_quality(&session.jpeg, quality, TRUE);
  jpeg_start_compress(&session.jpeg, TRUE);
  while (session.jpeg.next_scanline < session.jpeg.image_height) {
    JSAMPROW row = const_cast<JSAMPLE*>(image.pixels.data()) +
                   session.jpeg.next_scanline * static_cast<std::size_t>(image.width * image.channels);
    jpeg_write_scanlines(&session.jpeg, &row, 1);
  }
  jpeg_finish_compress(&session.jpeg);
  return true;
}

}  // namespace detail

/// The picture in a JPEG file, baseline or progressive, as grey (channels = 1), RGB (3) or as the file has it (0), with
/// the values that Pillow gives; it is not turned as a camera's note may ask. Throws Error naming the file when it is
/// missing, no JPEG, cut short, damaged as far as the format lets that be seen, CMYK, or larger than 2^28 values.
inline Image8 read_jpeg(const std::filesystem::path& path, Index channels = 1) {
  const std::string name = path.string();
  detail::JpegReading session;
  session.bytes = detail::file_bytes(path, "read_jpeg");
  require(session.bytes.size() >= 3 && session.bytes[0] == 0xFF && session.bytes[1] == 0xD8 && session.bytes[2] == 0xFF,
          "read_jpeg", name, ": expected a JPEG file, found ", session.bytes.size(),
          " bytes that do not start with JPEG's signature");
  const auto damaged = [&] {
    const jpeg_source_mgr* source = session.jpeg.src;
    fail("read_jpeg", name, ": damaged JPEG at byte ",
         source ? session.bytes.size() - std::min(source->bytes_in_buffer, session.bytes.size()) : 0, " of ",
         session.bytes.size(), ": ", session.message);
  };
  if (!detail::read_jpeg_header(session)) damaged();
  const J_COLOR_SPACE space = session.jpeg.jpeg_color_space;
  require(space == JCS_GRAYSCALE || space == JCS_YCbCr || space == JCS_RGB, "read_jpeg", name,
          ": expected a grey or RGB picture, found ",
          space == JCS_CMYK || space == JCS_YCCK ? "CMYK" : "unknown colours", " of ", session.jpeg.num_components,
          " channels");
  Image8 image = detail::image_of_file("read_jpeg", name, session.bytes.size(), session.jpeg.image_height,
                                       session.jpeg.image_width, space == JCS_GRAYSCALE ? 1 : 3);
  if (!detail::read_jpeg_rows(session, image.pixels.data(), static_cast<std::size_t>(image.width * image.channels)))
    damaged();
  return with_channels(image, channels);
}

/// Writes a grey or RGB picture at a quality from 1 to 100; the file appears complete or not at all. Throws Error for
/// an inconsistent picture, one with a side above 65500, and when the file cannot be written.
inline void write_jpeg(const std::filesystem::path& path, const Image8& image, int quality = 90) {
  require_image(image, "write_jpeg");
  require(quality >= 1 && quality <= 100, "write_jpeg", "expected a quality from 1 to 100, got ", quality);
  require(std::max(image.height, image.width) <= JPEG_MAX_DIMENSION, "write_jpeg", "expected sides of at most ",
          JPEG_MAX_DIMENSION, ", got ", image.height, " x ", image.width);
  detail::JpegWriting session;
  if (!detail::write_jpeg_rows(session, image, quality)) fail("write_jpeg", path.string(), ": ", session.message);
  AtomicFile file(path);
  file.write(session.bytes.data(), session.bytes.size());
  file.commit();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
