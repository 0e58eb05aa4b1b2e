#pragma once
#include "settle/core/macros_off.hpp"
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "settle/data/pathfinder.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/file_bytes.hpp"
#include "settle/io/png.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// "a/imgs/1/sample_2.png" -> "a/seg/1/sample_2.png"; nothing for a path without a folder imgs.
inline std::string label_path(const std::string& image_path) {
  const std::string folder = "imgs/";
  const std::size_t at = image_path.rfind(folder);
  if (at == std::string::npos || (at > 0 && image_path[at - 1] != '/')) return {};
  return std::string(image_path).replace(at, folder.size(), "seg/");
}

}  // namespace detail

/// Writes images first_index ... first_index + count - 1 in the published layout: under `root`,
/// curv_contour_length_L/imgs/{shard}/sample_{i}.png with the label at the same path with seg for imgs, both at the
/// window's size (image i of the data set is sample i mod shard_size of shard i / shard_size + 1), and the list file,
/// one line "path 0" each. Files are written in parallel, the list last. Throws Error when a file cannot be written.
inline void write_pathfinder_folder(const std::filesystem::path& root, const std::filesystem::path& list_file,
                                    const Pathfinder& generator, std::uint64_t seed, std::uint64_t first_index,
                                    Index count, Index shard_size = 25000) {
  require(count >= 1, "pathfinder_folder", "expected at least 1 image, got ", count);
  require(shard_size >= 1, "pathfinder_folder", "expected shards of at least 1 image, got ", shard_size);
  const auto path_of = [&](std::uint64_t index) {
    const auto size = static_cast<std::uint64_t>(shard_size);
    return "curv_contour_length_" + std::to_string(generator.options().contour_length) + "/imgs/" +
           std::to_string(index / size + 1) + "/sample_" + std::to_string(index % size) + ".png";
  };
  std::string list;
  for (Index i = 0; i < count; ++i) {
    const std::string path = path_of(first_index + static_cast<std::uint64_t>(i));
    for (const auto& file : {root / path, root / detail::label_path(path)}) {
      std::error_code error;
      std::filesystem::create_directories(file.parent_path(), error);
      require(!error, "pathfinder_folder", file.parent_path().string(), ": cannot be created: ", error.message());
    }
    list += path + " 0\n";
  }
  ThreadPool::instance().parallel_for(count, 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const std::uint64_t index = first_index + static_cast<std::uint64_t>(i);
      PathfinderPictures pictures = generator.draw(generator.scene(seed, index));
      write_png(root / path_of(index), std::move(pictures.image));
      write_png(root / detail::label_path(path_of(index)), std::move(pictures.target));
    }
  });
  AtomicFile file(list_file);
  file.write(list);
  file.commit();
}

/// A data set in the published layout, read as the released training code does: 8-bit grey PNG files, resized to size x
/// size by Pillow's bicubic filter, divided by 255, labels 1 above 0.2. A folder that write_pathfinder_folder wrote
/// gives the very samples of its generator.
class PathfinderFolder {
 public:
  /// Reads the list: one line "path class" per image, the path relative to `root`, the class unused. Throws Error when
  /// the file is missing or empty, or a line is not of that form.
  PathfinderFolder(const std::filesystem::path& root, const std::filesystem::path& list_file, Index size)
      : root_(root), image_size_(size) {
    require(size >= 1, "pathfinder_folder", "expected an image size of at least 1, got ", size);
    const auto bytes = detail::file_bytes(list_file, "pathfinder_folder");
    std::istringstream file(std::string(bytes.begin(), bytes.end()));
    std::string line;
    for (Index number = 1; std::getline(file, line); ++number) {
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
      if (line.empty()) continue;
      const std::size_t space = line.rfind(' ');
      require(space != std::string::npos && space > 0, "pathfinder_folder", list_file.string(), ", line ", number,
              ": expected 'path class', found '", line, "'");
      images_.push_back(line.substr(0, space));
      labels_.push_back(detail::label_path(images_.back()));
      require(!labels_.back().empty(), "pathfinder_folder", list_file.string(), ", line ", number,
              ": expected a path with a folder imgs/, got '", images_.back(), "'");
    }
    require(!images_.empty(), "pathfinder_folder", list_file.string(), ": expected at least one image, found none");
  }

  Index size() const { return static_cast<Index>(images_.size()); }

  /// The i-th image of the list. Throws Error when a file is missing or damaged, or image and label differ in size.
  PathfinderSample sample(Index i) const {
    require(i >= 0 && i < size(), "pathfinder_folder", "expected an image number below ", size(), ", got ", i);
    const auto image = root_ / images_[static_cast<std::size_t>(i)],
               label = root_ / labels_[static_cast<std::size_t>(i)];
    const PathfinderPictures pictures{read_png(image), read_png(label)};
    require(pictures.image.height == pictures.target.height && pictures.image.width == pictures.target.width,
            "pathfinder_folder", label.string(), ": expected the image's size, ", pictures.image.height, " x ",
            pictures.image.width, ", found ", pictures.target.height, " x ", pictures.target.width);
    return to_sample(pictures, image_size_);
  }

  /// Images first ... first + count - 1 of the list, read in parallel.
  PathfinderBatch batch(Index first, Index count) const {
    return stack_samples(count, image_size_, [&](Index i) { return sample(first + i); });
  }

 private:
  std::filesystem::path root_;
  Index image_size_;
  std::vector<std::string> images_, labels_;
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
