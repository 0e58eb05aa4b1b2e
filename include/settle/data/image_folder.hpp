#pragma once
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "settle/data/data_set.hpp"
#include "settle/io/image_file.hpp"

namespace settle::inline v0_2 {

/// What is done about a file that cannot be read.
enum class OnCorrupt {
  error,  ///< it ends the loading with its name
  skip    ///< the image is left out, and counted: every file is read once when the folder is opened
};

/// A folder of images with a folder of masks.
struct ImageFolderOptions {
  std::string images = "images", masks = "labels";  ///< folders within the folder; equal stems belong together
  Index channels = 1;                               ///< of the images: 1 (grey) or 3 (red, green, blue)
  /// The k-th is the mask's value for class k: a grey value ("255") or a colour ("#ff0000"). None: two classes, of
  /// grey values up to 127 and above.
  std::vector<std::string> classes = {};
  std::string ignore = "";  ///< the mask's value where nothing is known
  OnCorrupt on_corrupt = OnCorrupt::error;
};

namespace detail {

/// Whether a file's name comes before another's, with runs of digits compared as numbers: "9.png" before "10.png".
inline bool natural_less(const std::string& a, const std::string& b) {
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const auto number = [&](const std::string& text, std::size_t& at) {
        while (at < text.size() && text[at] == '0') ++at;
        const std::size_t begin = at;
        while (at < text.size() && is_digit(text[at])) ++at;
        return text.substr(begin, at - begin);
      };
      const std::string first = number(a, i), second = number(b, j);
      if (first.size() != second.size()) return first.size() < second.size();
      if (first != second) return first < second;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  if (a.size() - i != b.size() - j) return a.size() - i < b.size() - j;
  return a < b;
}

struct NaturalLess {
  bool operator()(const std::string& a, const std::string& b) const { return natural_less(a, b); }
};

/// A folder's images by their stems, in the order of natural_less. Throws DataError "[where] ..." where it cannot be
/// opened, has none, or two of one stem.
inline std::map<std::string, std::filesystem::path, NaturalLess> image_files(const std::filesystem::path& folder,
                                                                             const char* where) {
  std::error_code error;
  std::map<std::string, std::filesystem::path, NaturalLess> out;
  std::filesystem::directory_iterator entries(folder, error);
  if (error) fail_data(where, folder.string(), ": cannot be opened: ", error.message());
  for (const auto& entry : entries) {
    const std::filesystem::path& path = entry.path();
    if (path.filename().string().starts_with('.') || !is_image_file(path)) continue;
    const auto [found, is_new] = out.emplace(path.stem().string(), path);
    if (!is_new) fail_data(where, path.string(), ": ", found->second.filename().string(), " has the same name");
  }
  if (out.empty()) fail_data(where, folder.string(), ": expected images (.png, .jpg), found none");
  return out;
}

/// A mask's value by its name: 0 ... 255 for grey, 256 + the colour for "#rrggbb".
inline std::uint32_t mask_value(const std::string& name) {
  std::uint32_t value = 0;
  const bool colour = name.size() == 7 && name[0] == '#';
  const char *begin = name.data() + colour, *end = name.data() + name.size();
  const auto [last, error] = std::from_chars(begin, end, value, colour ? 16 : 10);
  if (error != std::errc{} || last != end || (!colour && value > 255))
    fail_data("image_folder", "expected a mask's value as a grey value, 0 to 255, or a colour, #rrggbb, got '", name,
              "'");
  return colour ? 256 + value : value;
}

}  // namespace detail

/// The picture's values divided by 255, as (C, H, W).
inline Tensor<float> to_tensor(const Image8& picture) {
  Tensor<float> out({picture.channels, picture.height, picture.width});
  const Index area = picture.height * picture.width;
  float* to = out.mutable_data();
  for (Index c = 0; c < picture.channels; ++c)
    for (Index k = 0; k < area; ++k)
      *to++ = static_cast<float>(picture.pixels[static_cast<std::size_t>(k * picture.channels + c)]) / 255.f;
  return out;
}

/// A data set of two folders: images, and masks of the same stems that give each pixel's class. In the order of the
/// names, numbers in them compared as numbers.
class ImageFolder {
 public:
  /// Throws DataError where a folder is missing or has no images, an image has no mask or a mask no image, and,
  /// where that is asked for, leaves out what cannot be read.
  explicit ImageFolder(const std::filesystem::path& folder, ImageFolderOptions options = {})
      : options_(std::move(options)) {
    if (options_.channels != 1 && options_.channels != 3)
      fail_data("image_folder", "expected images of 1 or 3 channels, got ", options_.channels);
    for (const std::string& name : options_.classes)
      if (!values_.emplace(detail::mask_value(name), static_cast<float>(values_.size())).second)
        fail_data("image_folder", "the mask's value ", name, " is given for two classes");
    if (values_.size() == 1) fail_data("image_folder", "expected at least 2 classes, got 1");
    if (!options_.ignore.empty() && !values_.emplace(detail::mask_value(options_.ignore), ignored).second)
      fail_data("image_folder", "the mask's value ", options_.ignore, " is ignored and given for a class");
    for (const auto& [value, unused] : values_) colours_ = colours_ || value >= 256;
    for (const auto& [value, unused] : values_)
      if (colours_ && value < 256) fail_data("image_folder", "expected colours, #rrggbb, for all classes, or for none");

    const auto images = detail::image_files(folder / options_.images, "image_folder");
    const auto masks = detail::image_files(folder / options_.masks, "image_folder");
    for (const auto& [stem, path] : images) {
      const auto mask = masks.find(stem);
      if (mask == masks.end())
        fail_data("image_folder", path.string(), ": there is no mask of this name in ",
                  (folder / options_.masks).string());
      pairs_.emplace_back(path, mask->second);
    }
    for (const auto& [stem, path] : masks)
      if (!images.contains(stem))
        fail_data("image_folder", path.string(), ": there is no image of this name in ",
                  (folder / options_.images).string());
    if (options_.on_corrupt == OnCorrupt::skip) leave_out_corrupt();
    if (pairs_.empty()) fail_data("image_folder", folder.string(), ": no image can be read");
  }

  Index size() const { return static_cast<Index>(pairs_.size()); }
  Index classes() const { return options_.classes.empty() ? 2 : static_cast<Index>(options_.classes.size()); }
  /// What was left out, each with its reason.
  const std::vector<std::string>& skipped() const { return skipped_; }
  /// The i-th image's file.
  const std::filesystem::path& path(Index i) const { return pairs_[static_cast<std::size_t>(i)].first; }

  /// The i-th image with its classes. Throws DataError naming the file that is missing or damaged, whose size is not
  /// the image's, or that has a value of no class.
  Sample sample(Index i) const {
    const auto& [image_path, mask_path] = pairs_[static_cast<std::size_t>(i)];
    try {
      const Image8 image = read_image(image_path, options_.channels);
      const Image8 mask = read_image(mask_path, colours_ ? 3 : 1);
      if (image.height != mask.height || image.width != mask.width)
        fail_data("image_folder", mask_path.string(), ": expected the image's size, ", image.height, " x ", image.width,
                  ", found ", mask.height, " x ", mask.width);
      Sample out{to_tensor(image), Tensor<float>({mask.height, mask.width}), Tensor<float>()};
      read_classes(mask, mask_path, out);
      return out;
    } catch (const DataError&) {
      throw;
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }

 private:
  static constexpr float ignored = -1;

  void read_classes(const Image8& mask, const std::filesystem::path& path, Sample& out) const {
    float* classes = out.target.mutable_data();
    const auto area = static_cast<std::size_t>(mask.height * mask.width);
    for (std::size_t k = 0; k < area; ++k) {
      const std::uint8_t* at = mask.pixels.data() + k * static_cast<std::size_t>(mask.channels);
      std::uint32_t value = at[0];
      if (colours_) value = 256 + (std::uint32_t{at[0]} << 16) + (std::uint32_t{at[1]} << 8) + at[2];
      const auto found = values_.find(value);
      if (found != values_.end())
        classes[k] = found->second;
      else if (options_.classes.empty())
        classes[k] = value > 127 ? 1.f : 0.f;
      else
        fail_data("image_folder", path.string(), ": row ", k / static_cast<std::size_t>(mask.width), ", column ",
                  k % static_cast<std::size_t>(mask.width), ": the value ", colours_ ? value - 256 : value,
                  colours_ ? " (red 65536 + green 256 + blue)" : "", " belongs to no class");
      if (classes[k] != ignored) continue;
      if (out.ignore.size() == 0) out.ignore = Tensor<float>(out.target.shape(), 0.f);
      out.ignore.mutable_data()[k] = 1, classes[k] = 0;
    }
  }

  void leave_out_corrupt() {
    std::vector<std::pair<std::filesystem::path, std::filesystem::path>> good;
    for (Index i = 0; i < size(); ++i) {
      try {
        sample(i);
        good.push_back(pairs_[static_cast<std::size_t>(i)]);
      } catch (const DataError& error) {
        skipped_.emplace_back(error.what());
      }
    }
    pairs_ = std::move(good);
  }

  ImageFolderOptions options_;
  std::map<std::uint32_t, float> values_;
  bool colours_ = false;
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pairs_;  ///< image, mask
  std::vector<std::string> skipped_;
};

}  // namespace settle
