#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "settle/vision/panoptic.hpp"

namespace settle::inline v0_2 {

/// A thing that was found, with its pixels in the image.
struct FoundInstance {
  Index category = 0;
  double score = 0;
  Mask mask;
};

struct MergeOptions {
  double least_score = 0.5;       ///< things of lower scores are left out
  double largest_overlap = 0.5;   ///< the share of a thing's pixels that may be taken already
  Index least_stuff_area = 4096;  ///< pixels; smaller regions of stuff are left void. For images of 640 x 480
};

/// A map of segments, and what they are.
struct PanopticSegments {
  SegmentMap map;
  std::vector<Segment> segments;
};

/// Makes one segmentation of the things found and of the kind of stuff at each pixel: things from the largest score
/// down (of equal scores the first first) take the pixels that are free, or are left out where more of theirs are taken
/// than options.largest_overlap; then each kind of stuff takes the free pixels that have its label, if they are enough.
/// Ids are 1, 2, ... in that order; what is left is void. `stuff` has the size of the image; its labels are 0 for no
/// stuff, and k for the category stuff_categories[k - 1]. Throws Error for masks of another size, labels beyond the
/// list, and scores that are no numbers.
inline PanopticSegments merge_panoptic(const std::vector<FoundInstance>& instances, const SegmentMap& stuff,
                                       const std::vector<Index>& stuff_categories, const MergeOptions& options = {}) {
  const char* where = "merge_panoptic";
  require_segment_map(stuff, where);
  for (const FoundInstance& instance : instances) {
    require(instance.mask.height == stuff.height && instance.mask.width == stuff.width &&
                instance.mask.values.size() == stuff.ids.size(),
            where, "expected masks of the image's size, ", stuff.height, " x ", stuff.width, ", got ",
            instance.mask.height, " x ", instance.mask.width);
    require(!std::isnan(instance.score), where, "expected scores that are numbers");
  }
  PanopticSegments out{void_map(stuff.height, stuff.width), {}};
  auto& ids = out.map.ids;
  const auto add = [&](Index category, Index area) {
    out.segments.push_back({.id = std::ssize(out.segments) + 1, .category = category, .area = area});
    return static_cast<std::uint32_t>(out.segments.size());
  };

  std::vector<std::size_t> order(instances.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return instances[a].score > instances[b].score; });
  for (const std::size_t k : order) {
    const FoundInstance& instance = instances[k];
    if (instance.score < options.least_score) break;
    Index area = 0, taken = 0;
    for (std::size_t at = 0; at < ids.size(); ++at)
      if (instance.mask.values[at]) ++area, taken += ids[at] != 0;
    if (area == taken || static_cast<double>(taken) / static_cast<double>(area) > options.largest_overlap) continue;
    const std::uint32_t id = add(instance.category, area - taken);
    for (std::size_t at = 0; at < ids.size(); ++at)
      if (instance.mask.values[at] && ids[at] == 0) ids[at] = id;
  }

  std::map<std::uint32_t, Index> areas;  // by label
  for (std::size_t at = 0; at < ids.size(); ++at) {
    require(stuff.ids[at] <= stuff_categories.size(), where, "expected labels up to ", stuff_categories.size(),
            ", got ", stuff.ids[at]);
    if (ids[at] == 0 && stuff.ids[at] != 0) ++areas[stuff.ids[at]];
  }
  std::map<std::uint32_t, std::uint32_t> id_of;  // by label
  for (const auto& [label, area] : areas)
    if (area >= options.least_stuff_area) id_of[label] = add(stuff_categories[label - 1], area);
  for (std::size_t at = 0; at < ids.size(); ++at)
    if (ids[at] == 0)
      if (const auto found = id_of.find(stuff.ids[at]); found != id_of.end()) ids[at] = found->second;
  out.segments = measured_segments(out.map, std::move(out.segments));
  return out;
}

}  // namespace settle
