#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "settle/data/image_folder.hpp"
#include "settle/data/panoptic_data.hpp"
#include "settle/io/coco_panoptic.hpp"

namespace settle::inline v0_2 {

/// A data set in COCO's panoptic format: a JSON file, the folder of its images and that of its PNG files.
class CocoPanopticFolder {
 public:
  /// Reads the JSON. With `things_only`, images without a thing that is no crowd are left out, as detectron2 does in
  /// training. Throws DataError for what read_coco_panoptic refuses, and where no image is left.
  CocoPanopticFolder(const std::filesystem::path& json, std::filesystem::path images, std::filesystem::path maps,
                     bool things_only = false)
      : images_(std::move(images)), maps_(std::move(maps)) {
    try {
      set_ = read_coco_panoptic(json);
    } catch (const Error& error) {
      throw DataError(error.what());
    }
    if (things_only) {
      const PanopticClasses classes(set_.categories);
      std::erase_if(set_.annotations, [&](const PanopticAnnotation& annotation) {
        return std::none_of(annotation.segments.begin(), annotation.segments.end(),
                            [&](const Segment& s) { return !s.crowd && classes.is_thing(s.category); });
      });
    }
    if (set_.annotations.empty())
      fail_data("coco", json.string(), ": expected images with segments", things_only ? " of things" : "",
                ", found none");
  }

  Index size() const { return std::ssize(set_.annotations); }
  const std::vector<Category>& categories() const { return set_.categories; }
  Extent extent(Index i) const {
    const CocoImage& image = set_.image(annotation(i).image);
    return {image.height, image.width};
  }

  /// Throws DataError where image or PNG are missing, damaged, or not as the JSON says.
  PanopticSample sample(Index i) const {
    try {
      const CocoImage& image = set_.image(annotation(i).image);
      auto [map, segments] = read_segments(maps_, set_, annotation(i));
      return {image.id, read_coco_image(images_, set_, image), std::move(map), std::move(segments)};
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }

 private:
  const PanopticAnnotation& annotation(Index i) const { return set_.annotations[static_cast<std::size_t>(i)]; }

  std::filesystem::path images_, maps_;
  CocoPanoptic set_;
};

/// A data set of images with a PNG for each object, whose pixels are above 127 where the object is:
///
///     FOLDER/images/NAME.png  FOLDER/masks/NAME/*.png      or, as the Data Science Bowl of 2018 has them,
///     FOLDER/NAME/images/NAME.png  FOLDER/NAME/masks/*.png
///
/// Objects are things of category 1; all else is stuff of category 2, background. A pixel that several masks have
/// belongs to the last of them, in the order of the names.
class ObjectMaskFolder {
 public:
  /// Throws DataError where the folder is missing, holds no image, or an image has no folder of masks.
  explicit ObjectMaskFolder(const std::filesystem::path& folder, std::string thing = "object")
      : thing_(std::move(thing)) {
    const bool together = std::filesystem::is_directory(folder / "images");
    for (const std::filesystem::path& path : entries(together ? folder / "images" : folder)) {
      if (together ? !is_image_file(path) : !std::filesystem::is_directory(path / "images")) continue;
      const std::vector<std::filesystem::path> images = together ? std::vector{path} : entries(path / "images");
      const std::filesystem::path masks = together ? folder / "masks" / path.stem() : path / "masks";
      if (images.size() != 1) fail_data("object_masks", path.string(), ": expected 1 image, found ", images.size());
      if (!std::filesystem::is_directory(masks))
        fail_data("object_masks", images[0].string(), ": there is no folder of masks ", masks.string());
      pairs_.emplace_back(images[0], masks);
    }
    if (pairs_.empty()) fail_data("object_masks", folder.string(), ": expected images with masks, found none");
  }

  Index size() const { return std::ssize(pairs_); }
  std::vector<Category> categories() const {
    return {{1, thing_, thing_, true, {220, 20, 60}}, {2, "background", "background", false, {70, 130, 180}}};
  }
  /// The i-th image's file.
  const std::filesystem::path& path(Index i) const { return pairs_[static_cast<std::size_t>(i)].first; }

  /// Throws DataError naming the file that is missing or damaged, or is not of the image's size.
  PanopticSample sample(Index i) const {
    const auto& [path, masks] = pairs_[static_cast<std::size_t>(i)];
    try {
      PanopticSample out{i + 1, read_image(path, 3), {}, {}};
      const Index height = out.image.height, width = out.image.width;
      out.map = void_map(height, width);
      std::fill(out.map.ids.begin(), out.map.ids.end(), 1);
      std::uint32_t id = 1;
      for (const std::filesystem::path& file : entries(masks)) {
        if (!is_image_file(file)) continue;
        const Image8 mask = read_image(file, 1);
        if (mask.height != height || mask.width != width)
          fail_data("object_masks", file.string(), ": expected the image's size, ", height, " x ", width, ", found ",
                    mask.height, " x ", mask.width);
        ++id;
        for (std::size_t k = 0; k < mask.pixels.size(); ++k)
          if (mask.pixels[k] > 127) out.map.ids[k] = id;
      }
      std::vector<bool> seen(id + 1);
      for (const std::uint32_t at : out.map.ids) seen[at] = true;
      for (Index k = 1; k <= id; ++k)
        if (seen[static_cast<std::size_t>(k)]) out.segments.push_back({.id = k, .category = k == 1 ? 2 : 1});
      out.segments = measured_segments(out.map, std::move(out.segments), path.string(), "object_masks");
      return out;
    } catch (const DataError&) {
      throw;
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }

 private:
  /// A folder's entries in the order of their names, numbers in them compared as numbers.
  static std::vector<std::filesystem::path> entries(const std::filesystem::path& folder) {
    std::error_code error;
    std::vector<std::filesystem::path> out;
    std::filesystem::directory_iterator entry(folder, error);
    if (error) fail_data("object_masks", folder.string(), ": cannot be opened: ", error.message());
    for (; entry != std::filesystem::directory_iterator(); ++entry)
      if (!entry->path().filename().string().starts_with('.')) out.push_back(entry->path());
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
      return detail::natural_less(a.filename().string(), b.filename().string());
    });
    return out;
  }

  std::string thing_;
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> pairs_;  ///< image, folder of masks
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
