#pragma once
#include "settle/core/macros_off.hpp"
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "settle/io/coco.hpp"
#include "settle/vision/polygon.hpp"

// COCO's format of instances: a JSON file with a list of things, each with its outline as polygons or its pixels as
// runs.
namespace settle::inline v0_2 {

/// One thing of an image, or a crowd.
struct Instance {
  Index id = 0, image = 0, category = 0;
  double area = 0;
  CocoBox box{};
  bool crowd = false;
  std::variant<std::vector<Polygon>, Rle> segmentation;
};

/// A data set of instances.
struct CocoInstances : CocoLists {
  std::vector<Instance> annotations;
};

/// The pixels of an instance in its image of height x width, as COCO's API gives them.
inline Rle instance_mask(const Instance& instance, Index height, Index width) {
  if (const auto* polygons = std::get_if<std::vector<Polygon>>(&instance.segmentation))
    return rle_of_polygons(*polygons, height, width);
  const Rle& rle = std::get<Rle>(instance.segmentation);
  require(rle.height == height && rle.width == width, "instance_mask", "expected a mask of ", height, " x ", width,
          ", got ", rle.height, " x ", rle.width);
  return rle;
}

namespace detail {

/// Runs {"size": [height, width], "counts": text or list}.
inline Rle coco_rle(const JsonFields& fields) {
  const auto size = fields.numbers("size");
  fields.expect(size.size() == 2 && size[0] >= 1 && size[1] >= 1 && size[0] <= 1 << 28 && size[1] <= 1 << 28 &&
                    size[0] == std::floor(size[0]) && size[1] == std::floor(size[1]),
                "'size': expected height and width, found ", Shown{fields.value("size")});
  const auto height = static_cast<Index>(size[0]), width = static_cast<Index>(size[1]);
  const auto& counts = fields.value("counts");
  if (counts.is_string()) return rle_of_text(counts.get_ref<const std::string&>(), height, width);
  fields.expect(counts.is_array(), "'counts': expected a text or a list, found ", Shown{counts});
  Rle out{height, width, {}};
  out.counts.reserve(counts.size());
  for (const auto& count : counts) {
    fields.expect(count.is_number_unsigned() && count.get<std::uint64_t>() < std::uint64_t{1} << 32,
                  "'counts': expected whole numbers of at least 0, found ", Shown{count});
    out.counts.push_back(count.get<std::uint32_t>());
  }
  require_rle(out, "rle");
  return out;
}

inline Instance coco_instance(const JsonFields& fields) {
  Instance out;
  out.id = fields.whole("id"), out.image = fields.whole("image_id"), out.category = fields.whole("category_id");
  const auto& segmentation = fields.value("segmentation");
  const JsonFields named(
      fields.object(), fields.where() + ": image " + std::to_string(out.image) + ": segment " + std::to_string(out.id));
  if (named.has("iscrowd")) out.crowd = named.flag("iscrowd");
  out.area = named.number("area");
  named.expect(out.area >= 0, "'area': expected at least 0, found ", out.area);
  out.box = coco_box(named);
  try {
    if (segmentation.is_array()) {
      std::vector<Polygon> polygons;
      for (const auto& polygon : segmentation) {
        polygons.push_back(named.numbers(polygon, "segmentation"));
        require_polygon(polygons.back(), "polygon");
      }
      named.expect(!polygons.empty(), "'segmentation': expected at least one polygon, found none");
      out.segmentation = std::move(polygons);
    } else {
      out.segmentation = coco_rle(JsonFields(segmentation, named.where() + ": segmentation"));
    }
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with("[read_json]")) throw;
    named.expect(false, error.what());
  }
  return out;
}

/// Whether an area may be that of the polygons: COCO tells the sum of what they enclose, others count pixels, which may
/// differ by those on the outline.
inline bool may_be_area(double area, const std::vector<Polygon>& polygons, Index height, Index width) {
  double enclosed = 0, slack = 1;
  for (const Polygon& polygon : polygons) {
    enclosed += polygon_area(polygon);
    slack += polygon_perimeter(polygon) / 2;
  }
  return std::abs(area - enclosed) <= slack ||
         std::abs(area - static_cast<double>(rle_area(rle_of_polygons(polygons, height, width)))) <= slack;
}

/// Throws Error where an instance does not fit its image: category, box, the runs' size and number of pixels, or the
/// area within the polygons.
inline void check_instance(const CocoInstances& all, const Instance& instance) {
  const CocoImage& image = all.image(instance.image);
  const std::string place = all.place(image) + ": segment " + std::to_string(instance.id);
  require(all.has_category(instance.category), "coco", place, ": expected a category of the list, found ",
          instance.category);
  require_box_in(instance.box, image, place);
  if (const auto* rle = std::get_if<Rle>(&instance.segmentation)) {
    require(rle->height == image.height && rle->width == image.width, "coco", place, ": expected a mask of ",
            image.height, " x ", image.width, ", found ", rle->height, " x ", rle->width);
    require(std::abs(static_cast<double>(rle_area(*rle)) - instance.area) < 0.5, "coco", place,
            ": expected an area of ", rle_area(*rle), " pixels, as its runs have, found ", instance.area);
  } else {
    const auto& polygons = std::get<std::vector<Polygon>>(instance.segmentation);
    require(may_be_area(instance.area, polygons, image.height, image.width), "coco", place,
            ": expected an area of about ", rle_area(rle_of_polygons(polygons, image.height, image.width)),
            " pixels, as its polygons have, found ", instance.area);
  }
}

}  // namespace detail

/// Reads the JSON of instances, in the file's order; all is checked. Throws Error naming file, image and segment for
/// whatever is missing, of another type, comes twice, or does not fit. `keep(instance)` tells which to keep, the memory
/// being theirs; none: all.
inline CocoInstances read_coco_instances(const std::filesystem::path& path,
                                         const std::function<bool(const Instance&)>& keep = {}) {
  CocoInstances out;
  std::set<Index> ids;
  detail::read_coco_lists(path, out, [&](const JsonFields& fields) {
    Instance instance = detail::coco_instance(fields);
    fields.expect(ids.insert(instance.id).second, "segment ", instance.id, " is there twice");
    if (!keep || keep(instance)) out.annotations.push_back(std::move(instance));
  });
  for (const Instance& instance : out.annotations) detail::check_instance(out, instance);
  return out;
}

/// Writes the JSON of instances, complete or not at all; runs are written as texts.
inline void write_coco_instances(const std::filesystem::path& path, const CocoInstances& instances) {
  detail::CocoWriter writer(path);
  writer.lists(instances.images, instances.categories);
  writer.list("annotations", instances.annotations, [](const Instance& instance) {
    nlohmann::ordered_json out{
        {"id", instance.id},     {"image_id", instance.image}, {"category_id", instance.category},
        {"area", instance.area}, {"bbox", instance.box},       {"iscrowd", instance.crowd ? 1 : 0}};
    if (const auto* polygons = std::get_if<std::vector<Polygon>>(&instance.segmentation)) {
      out["segmentation"] = *polygons;
    } else {
      const Rle& rle = std::get<Rle>(instance.segmentation);
      out["segmentation"] = {{"size", {rle.height, rle.width}}, {"counts", rle_text(rle)}};
    }
    return out;
  });
  writer.commit();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
