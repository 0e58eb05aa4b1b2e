#pragma once
#include "settle/core/macros_off.hpp"
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "settle/io/atomic_file.hpp"
#include "settle/io/image_file.hpp"
#include "settle/io/json_stream.hpp"
#include "settle/vision/panoptic.hpp"

// What COCO's files of panoptic segments and of instances share. Their JSON is {"images": [...], "categories": [...],
// "annotations": [...]}: https://cocodataset.org/#format-data
namespace settle::inline v0_2 {

/// An image of a data set in COCO's format.
struct CocoImage {
  Index id = 0;
  std::string file_name;
  Index height = 0, width = 0;
  std::string kind;  ///< what sort of image it is, where the data set tells; not COCO's
};

/// The images and categories of a file, each list in the file's order.
struct CocoLists {
  std::string path;  ///< where they were read, for complaints
  std::vector<CocoImage> images;
  std::vector<Category> categories;

  /// The image of an id. Throws Error when there is none.
  const CocoImage& image(Index id) const {
    const auto found = image_positions.find(id);
    require(found != image_positions.end(), "coco", path, ": image ", id, ": is not in the list of images");
    return images[found->second];
  }
  bool has_category(Index id) const { return category_ids.contains(id); }

  /// How complaints begin that concern an image.
  std::string place(const CocoImage& image) const {
    return path + ": image " + std::to_string(image.id) + " (" + image.file_name + ")";
  }

  std::map<Index, std::size_t> image_positions;  ///< by id
  std::set<Index> category_ids;
};

namespace detail {

inline CocoImage coco_image(const JsonFields& fields) {
  CocoImage out{fields.whole("id"), fields.text("file_name"), fields.whole("height", 1), fields.whole("width", 1), ""};
  fields.expect(!out.file_name.empty(), "'file_name': expected a name, found none");
  fields.expect(out.width <= (Index{1} << 28) / out.height, "expected at most 2^28 pixels, found ", out.height, " x ",
                out.width);
  if (fields.has("kind") && fields.value("kind").is_string()) out.kind = fields.text("kind");
  return out;
}

inline Category coco_category(const JsonFields& fields) {
  Category out{fields.whole("id"), fields.text("name"), "", !fields.has("isthing") || fields.flag("isthing"), {}};
  if (fields.has("supercategory")) out.supercategory = fields.text("supercategory");
  if (fields.has("color")) {
    const auto colour = fields.numbers("color");
    fields.expect(colour.size() == 3, "'color': expected red, green and blue, found ", colour.size(), " numbers");
    for (std::size_t k = 0; k < 3; ++k) {
      fields.expect(colour[k] >= 0 && colour[k] <= 255, "'color': expected values from 0 to 255, found ", colour[k]);
      out.colour[k] = static_cast<std::uint8_t>(colour[k]);
    }
  }
  return out;
}

/// Reads a file's images and categories into `lists`, and hands its annotations on where they are wanted. Throws Error
/// when one of the lists is missing, or an image or category is not as it should be or comes twice.
inline void read_coco_lists(const std::filesystem::path& path, CocoLists& lists,
                            const std::function<void(const JsonFields&)>& annotation) {
  lists.path = path.string();
  std::map<std::string, std::function<void(const JsonFields&)>> readers;
  readers["images"] = [&](const JsonFields& fields) {
    lists.images.push_back(coco_image(fields));
    const Index id = lists.images.back().id;
    const bool fresh = lists.image_positions.emplace(id, lists.images.size() - 1).second;
    fields.expect(fresh, "image ", id, " is there twice");
  };
  readers["categories"] = [&](const JsonFields& fields) {
    lists.categories.push_back(coco_category(fields));
    const Index id = lists.categories.back().id;
    fields.expect(lists.category_ids.insert(id).second, "category ", id, " is there twice");
  };
  if (annotation) readers["annotations"] = annotation;
  const auto found = read_json_lists(path, readers);
  for (const char* name : {"images", "categories", "annotations"})
    require(found.contains(name) || !readers.contains(name), "coco", lists.path, ": expected a list '", name,
            "', found none");
}

/// A box [x, y, width, height].
inline CocoBox coco_box(const JsonFields& fields) {
  const auto numbers = fields.numbers("bbox");
  fields.expect(numbers.size() == 4 && numbers[2] >= 0 && numbers[3] >= 0,
                "'bbox': expected x, y, width and height, found ", Shown{fields.value("bbox")});
  return {numbers[0], numbers[1], numbers[2], numbers[3]};
}

/// Throws Error unless the box is in the image, up to the roundings of a file's digits.
inline void require_box_in(const CocoBox& box, const CocoImage& image, const std::string& place) {
  constexpr double slack = 1.01;  // COCO's own boxes of instances pass the border by less than a pixel
  const bool inside = box[0] >= -slack && box[1] >= -slack &&
                      box[0] + box[2] <= static_cast<double>(image.width) + slack &&
                      box[1] + box[3] <= static_cast<double>(image.height) + slack;
  require(inside, "coco", place, ": expected a box in the image of ", image.width, " x ", image.height,
          " (width x height), found x ", box[0], ", y ", box[1], ", width ", box[2], ", height ", box[3]);
}

/// Writes an object of lists one element at a time, so that a large file is never in memory as a whole.
class CocoWriter {
 public:
  explicit CocoWriter(const std::filesystem::path& path) : path_(path), file_(path) {}

  void lists(const std::vector<CocoImage>& images, const std::vector<Category>& categories) {
    list("images", images, [](const CocoImage& image) {
      nlohmann::ordered_json out{
          {"id", image.id}, {"file_name", image.file_name}, {"height", image.height}, {"width", image.width}};
      if (!image.kind.empty()) out["kind"] = image.kind;
      return out;
    });
    list("categories", categories, [](const Category& category) {
      return nlohmann::ordered_json{{"id", category.id},
                                    {"name", category.name},
                                    {"supercategory", category.supercategory},
                                    {"isthing", category.thing ? 1 : 0},
                                    {"color", category.colour}};
    });
  }

  template <class Element, class ToJson>
  void list(const char* name, const std::vector<Element>& elements, const ToJson& to_json) {
    text_ += (lists_++ == 0 ? "{\"" : ",\n\"") + std::string(name) + "\": [";
    for (std::size_t k = 0; k < elements.size(); ++k) {
      text_ += k == 0 ? "\n" : ",\n";
      try {
        text_ += to_json(elements[k]).dump();
      } catch (const nlohmann::json::exception& error) {
        fail("coco", path_.string(), ": names must be UTF-8: ", error.what());
      }
      if (text_.size() > 1 << 20) flush();
    }
    text_ += "]";
  }

  void commit() {
    text_ += "}\n";
    flush();
    file_.commit();
  }

 private:
  void flush() {
    file_.write(text_);
    text_.clear();
  }

  std::filesystem::path path_;
  AtomicFile file_;
  std::string text_;
  int lists_ = 0;
};

}  // namespace detail

/// The images and categories of a file in COCO's format; nothing else in it is looked at. Throws Error when one of the
/// two lists is missing, or an image or category is not as it should be or comes twice.
inline CocoLists read_coco_images(const std::filesystem::path& path) {
  CocoLists out;
  detail::read_coco_lists(path, out, {});
  return out;
}

/// The image's picture, as RGB (channels = 3), grey (1) or as the file has it (0). Throws Error naming the image where
/// the file is missing or damaged, or is not of the size that the list says.
inline Image8 read_coco_image(const std::filesystem::path& folder, const CocoLists& lists, const CocoImage& image,
                              Index channels = 3) {
  try {
    Image8 out = read_image(folder / image.file_name, channels);
    require(out.height == image.height && out.width == image.width, "read_image", (folder / image.file_name).string(),
            ": expected ", image.height, " x ", image.width, " pixels, found ", out.height, " x ", out.width);
    return out;
  } catch (const Error& error) {
    fail("coco", lists.place(image), ": ", error.what());
  }
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
