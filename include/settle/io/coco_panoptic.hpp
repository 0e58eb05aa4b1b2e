#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "settle/core/threads.hpp"
#include "settle/io/coco.hpp"
#include "settle/vision/panoptic_quality.hpp"

// COCO's format of panoptic segments: a JSON file with a list of segments for each image, and for each a PNG in which a
// segment's pixels have its id as colour, red + 256 green + 65536 blue; 0 is void.
namespace settle::inline v0_2 {

/// The segments of one image.
struct PanopticAnnotation {
  Index image = 0;        ///< its id
  std::string file_name;  ///< of the PNG
  std::vector<Segment> segments;
};

/// A data set of panoptic segments; at most one annotation for an image.
struct CocoPanoptic : CocoLists {
  std::vector<PanopticAnnotation> annotations;
};

namespace detail {

inline PanopticAnnotation panoptic_annotation(const JsonFields& fields, bool truth) {
  PanopticAnnotation out{fields.whole("image_id"), fields.text("file_name"), {}};
  const std::string place = fields.where() + ": image " + std::to_string(out.image);
  const auto& list = fields.value("segments_info");
  require(list.is_array(), "read_json", place, ": 'segments_info': expected a list, found ", Shown{list});
  out.segments.reserve(list.size());
  std::set<Index> ids;
  for (const auto& element : list) {
    const JsonFields segment(element, place + ": segments_info[" + std::to_string(out.segments.size()) + "]");
    Segment s{.id = segment.whole("id", 1), .category = segment.whole("category_id")};
    const JsonFields named(element, place + ": segment " + std::to_string(s.id));
    named.expect(s.id < 1 << 24, "expected an id below 2^24, which a colour can tell");
    named.expect(ids.insert(s.id).second, "is there twice");
    if (truth) {
      s.area = named.whole("area", 1);
      if (named.has("iscrowd")) s.crowd = named.flag("iscrowd");
      if (named.has("bbox")) s.box = coco_box(named);
    }
    out.segments.push_back(s);
  }
  return out;
}

/// Throws Error for a segment of a category that is not in the lists, or a box outside the image.
inline void check_annotation(const std::string& path, const CocoLists& lists, const PanopticAnnotation& annotation) {
  const CocoImage& image = lists.image(annotation.image);
  for (const Segment& segment : annotation.segments) {
    const std::string place = path + ": image " + std::to_string(image.id) + " (" + image.file_name + "): segment " +
                              std::to_string(segment.id);
    require(lists.has_category(segment.category), "coco", place, ": expected a category of the list, found ",
            segment.category);
    require_box_in(segment.box, image, place);
  }
}

}  // namespace detail

/// Reads the JSON of a data set: images, categories, and the segments of each image, in the file's order. Throws Error
/// naming file, image and segment for whatever is missing, of another type, comes twice, or does not fit: an image or
/// category that is not in its list, an area of 0, a box outside its image.
inline CocoPanoptic read_coco_panoptic(const std::filesystem::path& path) {
  CocoPanoptic out;
  std::set<Index> images;
  detail::read_coco_lists(path, out, [&](const JsonFields& fields) {
    out.annotations.push_back(detail::panoptic_annotation(fields, true));
    fields.expect(images.insert(out.annotations.back().image).second, "image ", out.annotations.back().image,
                  " has an annotation before this one");
  });
  for (const auto& annotation : out.annotations) detail::check_annotation(out.path, out, annotation);
  return out;
}

/// Reads the JSON of predictions for a data set: an annotation for each of the truth's, in its order. Of a segment only
/// id and category are read. Throws Error as read_coco_panoptic does, and for an image without a prediction;
/// predictions for images that the truth has no annotation of are passed over.
inline std::vector<PanopticAnnotation> read_coco_predictions(const std::filesystem::path& path,
                                                             const CocoPanoptic& truth) {
  std::map<Index, std::size_t> positions;
  for (std::size_t k = 0; k < truth.annotations.size(); ++k) positions[truth.annotations[k].image] = k;
  std::vector<PanopticAnnotation> out(truth.annotations.size());
  std::set<std::size_t> there;
  const auto found =
      read_json_lists(path, {{"annotations", [&](const JsonFields& fields) {
                                const auto position = positions.find(fields.whole("image_id"));
                                if (position == positions.end()) return;
                                const bool fresh = there.insert(position->second).second;
                                fields.expect(fresh, "image ", position->first, " has an annotation before this one");
                                auto& annotation = out[position->second];
                                annotation = detail::panoptic_annotation(fields, false);
                                detail::check_annotation(path.string(), truth, annotation);
                              }}});
  require(found.contains("annotations"), "coco", path.string(), ": expected a list 'annotations', found none");
  for (const auto& [image, position] : positions)
    require(there.contains(position), "coco", path.string(), ": image ", image, " (", truth.image(image).file_name,
            "): expected a prediction, found none");
  return out;
}

/// The segments' ids in a PNG file. Throws Error naming the file unless it is a whole RGB PNG.
inline SegmentMap read_segment_map(const std::filesystem::path& path) {
  const Image8 image = read_png(path, 0);
  require(image.channels == 3, "read_segment_map", path.string(),
          ": expected RGB colours, which tell ids (red + 256 green + 65536 blue), found grey");
  SegmentMap out = void_map(image.height, image.width);
  for (std::size_t k = 0; k < out.ids.size(); ++k) {
    const auto* rgb = image.pixels.data() + 3 * k;
    out.ids[k] = rgb[0] + 256u * rgb[1] + 65536u * rgb[2];
  }
  return out;
}

/// Writes segments' ids, below 2^24, as colours of a PNG.
inline void write_segment_map(const std::filesystem::path& path, const SegmentMap& map) {
  require_segment_map(map, "write_segment_map");
  Image8 image = blank_image(map.height, map.width, 3);
  for (std::size_t k = 0; k < map.ids.size(); ++k) {
    require(map.ids[k] < 1 << 24, "write_segment_map", path.string(), ": expected ids below 2^24, got ", map.ids[k]);
    for (std::size_t c = 0; c < 3; ++c) image.pixels[3 * k + c] = static_cast<std::uint8_t>(map.ids[k] >> 8 * c);
  }
  write_png(path, std::move(image));
}

/// The map of an annotation, and its segments with the areas and boxes that they have there. Throws Error naming the
/// image, and the segment where it is one, when the PNG is missing or damaged, not of the image's size, has other ids
/// than the annotation, or another area than it says.
inline std::pair<SegmentMap, std::vector<Segment>> read_segments(const std::filesystem::path& folder,
                                                                 const CocoLists& lists,
                                                                 const PanopticAnnotation& annotation) {
  const CocoImage& image = lists.image(annotation.image);
  const std::string file = (folder / annotation.file_name).string();
  const std::string place = "image " + std::to_string(image.id) + " (" + image.file_name + ")";
  SegmentMap map;
  try {
    map = read_segment_map(file);
  } catch (const Error& error) {
    fail("coco", place, ": ", error.what());
  }
  require(map.height == image.height && map.width == image.width, "coco", file, ": ", place, ": expected ",
          image.height, " x ", image.width, " pixels, found ", map.height, " x ", map.width);
  auto segments = measured_segments(map, annotation.segments, file + ": " + place, "coco");
  return {std::move(map), std::move(segments)};
}

/// What panoptic quality counts, for each annotation of the truth; images are compared in parallel. `progress(done)` is
/// called now and then, by one thread at a time. Throws Error as read_segments does.
inline std::vector<PanopticCounts> compare_panoptic(const CocoPanoptic& truth,
                                                    const std::filesystem::path& truth_folder,
                                                    const std::vector<PanopticAnnotation>& predictions,
                                                    const std::filesystem::path& folder,
                                                    const std::function<void(Index)>& progress = {}) {
  require(predictions.size() == truth.annotations.size(), "coco", "expected ", truth.annotations.size(),
          " predictions, got ", predictions.size());
  std::vector<PanopticCounts> out(predictions.size());
  std::mutex mutex;
  Index done = 0;
  ThreadPool::instance().parallel_for(std::ssize(out), 1, [&](Index begin, Index end) {
    for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
      const auto [true_map, true_segments] = read_segments(truth_folder, truth, truth.annotations[k]);
      const auto [map, segments] = read_segments(folder, truth, predictions[k]);
      out[k] = match_segments(true_map, true_segments, map, segments);
      const std::lock_guard lock(mutex);
      ++done;
      if (progress) progress(done);
    }
  });
  return out;
}

/// Writes a data set, or predictions: add() each image's map, then finish().
class CocoPanopticWriter {
 public:
  /// PNG files go to `folder`, which is made where it is missing.
  CocoPanopticWriter(std::filesystem::path json, std::filesystem::path folder, std::vector<Category> categories)
      : json_(std::move(json)), folder_(std::move(folder)), categories_(std::move(categories)) {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    require(!error, "coco", folder_.string(), ": cannot be created: ", error.message());
    for (const Category& category : categories_) known_.insert(category.id);
    require(known_.size() == categories_.size(), "coco", "expected categories of distinct ids");
  }

  /// Writes the map as a PNG named as the image's file, and keeps the segments, with areas and boxes measured, for the
  /// JSON; the annotations there are in the images' order of ids. Several threads may add images. Throws Error where
  /// map and segments do not agree, a category is unknown, an id or a name is used twice, and when the file cannot be
  /// written.
  void add(const CocoImage& image, const SegmentMap& map, const std::vector<Segment>& segments) {
    const std::string place = "image " + std::to_string(image.id) + " (" + image.file_name + ")";
    require(map.height == image.height && map.width == image.width, "coco", place, ": expected a map of ", image.height,
            " x ", image.width, ", got ", map.height, " x ", map.width);
    for (const Segment& s : segments)
      require(known_.contains(s.category), "coco", place, ": segment ", s.id, ": expected a category of the list, got ",
              s.category);
    const auto name = std::filesystem::path(image.file_name).filename().replace_extension(".png");
    PanopticAnnotation annotation{image.id, name.string(), measured_segments(map, segments, place, "coco")};
    {
      const std::lock_guard lock(mutex_);
      require(names_.insert(name.string()).second, "coco", place, ": another image's PNG is named ", name.string());
      require(entries_.try_emplace(image.id, image, std::move(annotation)).second, "coco", place,
              ": expected a new image's id");
    }
    write_segment_map(folder_ / name, map);
  }

  /// Writes the JSON; it appears complete or not at all.
  void finish() {
    std::vector<CocoImage> images;
    std::vector<PanopticAnnotation> annotations;
    for (const auto& [id, entry] : entries_) images.push_back(entry.first), annotations.push_back(entry.second);
    detail::CocoWriter writer(json_);
    writer.lists(images, categories_);
    writer.list("annotations", annotations, [](const PanopticAnnotation& annotation) {
      auto segments = nlohmann::ordered_json::array();
      for (const Segment& s : annotation.segments) {
        std::array<Index, 4> box{};
        for (std::size_t k = 0; k < 4; ++k) box[k] = static_cast<Index>(s.box[k]);
        segments.push_back(
            {{"id", s.id}, {"category_id", s.category}, {"area", s.area}, {"bbox", box}, {"iscrowd", s.crowd ? 1 : 0}});
      }
      return nlohmann::ordered_json{
          {"image_id", annotation.image}, {"file_name", annotation.file_name}, {"segments_info", std::move(segments)}};
    });
    writer.commit();
  }

 private:
  std::filesystem::path json_, folder_;
  std::vector<Category> categories_;
  std::set<Index> known_;
  std::mutex mutex_;
  std::set<std::string> names_;
  std::map<Index, std::pair<CocoImage, PanopticAnnotation>> entries_;  ///< by the image's id
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
