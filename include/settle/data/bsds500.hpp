#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/threads.hpp"
#include "settle/data/image_folder.hpp"
#include "settle/io/image_file.hpp"
#include "settle/vision/boundary_benchmark.hpp"

namespace settle::inline v0_2 {

/// The boundaries that each annotator marked, from a grey PNG of 8 or 16 bits in which bit k is annotator k's. Throws
/// Error as read_png_values does.
inline std::vector<Mask> read_annotators(const std::filesystem::path& path) {
  const Image16 bits = read_png_values(path);
  std::uint16_t any = 0;
  for (const std::uint16_t value : bits.values) any = static_cast<std::uint16_t>(any | value);
  std::vector<Mask> out;
  for (int k = 0; k < std::bit_width(any); ++k) {
    Mask mask = empty_mask(bits.height, bits.width);
    for (std::size_t at = 0; at < mask.values.size(); ++at)
      mask.values[at] = static_cast<std::uint8_t>(bits.values[at] >> k & 1);
    out.push_back(std::move(mask));
  }
  return out;
}

/// How annotators who disagree become one class for each pixel.
struct Bsds500Options {
  Index channels = 3;      ///< of the images: 1 (grey) or 3 (red, green, blue)
  double consensus = 0.5;  ///< the share of annotators, above 0, that makes a pixel a boundary
  Index radius = 0;        ///< an annotator's boundary is all within so many pixels of what was marked
};

/// The Berkeley segmentation data set (Arbeláez, Maire, Fowlkes and Malik 2011), or what is laid out like it: images in
/// FOLDER/images/PART/, annotators' boundaries in FOLDER/annotators/PART/ (read_annotators), of the same stems. A pixel
/// is class 1 where at least a share `consensus` of the annotators has a boundary, class 0 where none has, and ignored
/// between (as Xie and Tu 2015 do). Part after part, each in the order of the names.
class Bsds500 {
 public:
  /// Throws DataError where a folder is missing or empty, and for an image without annotators or the other way round.
  Bsds500(const std::filesystem::path& folder, const std::vector<std::string>& parts, Bsds500Options options = {})
      : options_(options) {
    require(options_.channels == 1 || options_.channels == 3, "bsds500", "expected images of 1 or 3 channels, got ",
            options_.channels);
    require(options_.consensus > 0 && options_.consensus <= 1 && options_.radius >= 0, "bsds500",
            "expected a consensus above 0, up to 1, and a radius of at least 0, got ", options_.consensus, " and ",
            options_.radius);
    for (const std::string& part : parts) {
      const auto images = detail::image_files(folder / "images" / part, "bsds500");
      const auto annotators = detail::image_files(folder / "annotators" / part, "bsds500");
      for (const auto& file : annotators)
        if (!images.contains(file.first))
          fail_data("bsds500", file.second.string(), ": there is no image of this name in ",
                    (folder / "images" / part).string());
      for (const auto& file : images) {
        const auto found = annotators.find(file.first);
        if (found == annotators.end())
          fail_data("bsds500", file.second.string(), ": there are no annotators of this name in ",
                    (folder / "annotators" / part).string());
        images_.push_back(file.second), annotators_.push_back(found->second);
      }
    }
  }

  Index size() const { return std::ssize(images_); }
  const std::filesystem::path& image(Index i) const { return images_[static_cast<std::size_t>(i)]; }
  const std::filesystem::path& annotators(Index i) const { return annotators_[static_cast<std::size_t>(i)]; }

  /// The i-th image with its classes. Throws DataError naming the file that is missing or damaged, or whose size is not
  /// the image's.
  Sample sample(Index i) const {
    try {
      const Image8 picture = read_image(image(i), options_.channels);
      const std::vector<Mask> masks = read_annotators(annotators(i));
      const Shape shape{picture.height, picture.width};
      Sample out{to_tensor(picture), Tensor<float>(shape, 0.f), {}};
      float* const marks = out.target.mutable_data();
      for (const Mask& mask : masks) {
        if (Shape{mask.height, mask.width} != shape)
          fail_data("bsds500", annotators(i).string(), ": expected the image's size, ", picture.height, " x ",
                    picture.width, ", found ", mask.height, " x ", mask.width);
        const Mask wide = widened(mask);
        for (Index k = 0; k < out.target.size(); ++k) marks[k] += wide.values[static_cast<std::size_t>(k)];
      }
      const double enough = options_.consensus * static_cast<double>(masks.size()) - 1e-9;
      for (Index k = 0; k < out.target.size(); ++k) {
        const bool some = marks[k] > 0;
        marks[k] = some && marks[k] >= enough ? 1.f : 0.f;
        if (!some || marks[k] > 0) continue;
        if (out.ignore.size() == 0) out.ignore = Tensor<float>(shape, 0.f);
        out.ignore.mutable_data()[k] = 1;
      }
      return out;
    } catch (const DataError&) {
      throw;
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }

 private:
  /// The pixels within `radius` of the mask's.
  Mask widened(const Mask& mask) const {
    const Index r = options_.radius;
    if (r == 0) return mask;
    Mask out = empty_mask(mask.height, mask.width);
    for (Index y = 0; y < mask.height; ++y)
      for (Index x = 0; x < mask.width; ++x)
        for (Index dy = mask(y, x) ? -r : r + 1; dy <= r; ++dy)
          for (Index dx = -r; dx <= r; ++dx)
            if (dy * dy + dx * dx <= r * r && y + dy >= 0 && y + dy < mask.height && x + dx >= 0 && x + dx < mask.width)
              out(y + dy, x + dx) = 1;
    return out;
  }

  Bsds500Options options_;
  std::vector<std::filesystem::path> images_, annotators_;
};

/// Counts soft maps of boundaries, grey, from 0 (none) to 255, against annotators' files: the k-th with the k-th file,
/// images in parallel. `progress` is called with the number of images that are done. Throws DataError where sizes
/// differ.
inline std::vector<std::vector<BoundaryCounts>> count_boundaries(const std::vector<Image8>& maps,
                                                                 const std::vector<std::filesystem::path>& annotators,
                                                                 const BoundaryBenchmark& benchmark = {},
                                                                 const std::function<void(Index)>& progress = {}) {
  require(maps.size() == annotators.size(), "count_boundaries", "expected a file of annotators for each of ",
          maps.size(), " maps, got ", annotators.size());
  std::vector<std::vector<BoundaryCounts>> out(maps.size());
  std::mutex mutex;
  Index done = 0;
  ThreadPool::instance().parallel_for(std::ssize(maps), 1, [&](Index begin, Index end) {
    for (Index k = begin; k < end; ++k) {
      const auto i = static_cast<std::size_t>(k);
      const Image8& map = maps[i];
      const auto masks = read_annotators(annotators[i]);
      if (!masks.empty() && (masks.front().height != map.height || masks.front().width != map.width))
        fail_data("count_boundaries", annotators[i].string(), ": expected the map's size, ", map.height, " x ",
                  map.width, ", found ", masks.front().height, " x ", masks.front().width);
      Tensor<double> values({map.height, map.width});
      for (Index p = 0; p < values.size(); ++p)
        values.mutable_data()[p] = map.pixels[static_cast<std::size_t>(p)] / 255.0;
      out[i] = count_boundaries(values, masks, benchmark);
      const std::lock_guard lock(mutex);
      if (++done; progress) progress(done);
    }
  });
  return out;
}

}  // namespace settle
