#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string>

#include "settle/io/jpeg.hpp"
#include "settle/io/png.hpp"

namespace settle::inline v0_2 {

/// A file name's extension in lower case, ".png".
inline std::string lower_extension(const std::filesystem::path& path) {
  std::string out = path.extension().string();
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// Whether a name is that of a kind of file that read_image reads.
inline bool is_image_file(const std::filesystem::path& path) {
  const std::string extension = lower_extension(path);
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

/// The picture in a PNG or JPEG file, whichever its first bytes say, as grey (channels = 1), RGB (3) or as the file has
/// it (0). Throws Error as read_png and read_jpeg do, and for files of other kinds.
inline Image8 read_image(const std::filesystem::path& path, Index channels = 1) {
  std::array<char, 2> first{};
  detail::InputFile(path, "read_image").read_some(first.data(), first.size());
  if (first == std::array{'\x89', 'P'}) return read_png(path, channels);
  if (first == std::array{'\xFF', '\xD8'}) return read_jpeg(path, channels);
  fail("read_image", path.string(), ": expected a PNG or JPEG file, found one that starts like neither");
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
