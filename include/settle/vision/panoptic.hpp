#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"
#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

/// A kind of thing (countable: person, nucleus) or of stuff (not: sky, background).
struct Category {
  Index id = 0;
  std::string name{}, supercategory{};
  bool thing = true;
  std::array<std::uint8_t, 3> colour{};  ///< red, green, blue
};

/// A segment of an image: all pixels of one thing, of one kind of stuff, or of a crowd of things that nobody counted.
struct Segment {
  Index id = 0, category = 0;
  Index area = 0;  ///< pixels; 0: not told
  bool crowd = false;
  CocoBox box{};
};

/// The segment of each pixel, by its id, rows from the top; 0 is void: nobody knows.
struct SegmentMap {
  Index height = 0, width = 0;
  std::vector<std::uint32_t> ids;

  std::uint32_t& operator()(Index y, Index x) { return ids[static_cast<std::size_t>(y * width + x)]; }
  std::uint32_t operator()(Index y, Index x) const { return ids[static_cast<std::size_t>(y * width + x)]; }
};

/// A map of void.
inline SegmentMap void_map(Index height, Index width) {
  return {height, width, std::vector<std::uint32_t>(static_cast<std::size_t>(height * width))};
}

/// Throws Error "[where] ..." unless the map has as many ids as its size says.
inline void require_segment_map(const SegmentMap& map, const char* where) {
  require(map.height >= 0 && map.width >= 0 && std::ssize(map.ids) == map.height * map.width, where, "expected ",
          map.height, " x ", map.width, " ids, got ", map.ids.size());
}

/// The segments with the areas and boxes that they have in the map. Throws Error "[where] place: segment ..." for an id
/// that is 0 or comes twice, one that the map has and the list has not or the reverse, and for an area that was told
/// and is not the map's.
inline std::vector<Segment> measured_segments(const SegmentMap& map, std::vector<Segment> segments,
                                              const std::string& place = "", const char* where = "segments") {
  require_segment_map(map, where);
  const std::string prefix = place.empty() ? "segment " : place + ": segment ";
  struct Extent {
    Segment* segment = nullptr;
    Index area = 0, left = 0, right = -1, top = 0, bottom = -1;
  };
  std::map<Index, Extent> extents;
  for (Segment& segment : segments) {
    require(segment.id > 0, where, prefix, segment.id, ": expected an id above 0, which is void");
    require(extents.try_emplace(segment.id, Extent{&segment, 0, map.width, -1, map.height, -1}).second, where, prefix,
            segment.id, ": is there twice");
  }
  for (Index y = 0; y < map.height; ++y)
    for (Index x = 0; x < map.width;) {
      const std::uint32_t id = map(y, x);
      Index end = x + 1;
      while (end < map.width && map(y, end) == id) ++end;
      if (id != 0) {
        const auto found = extents.find(id);
        require(found != extents.end(), where, prefix, id, ": has pixels, the first at row ", y, ", column ", x,
                ", and is not in the list of segments");
        Extent& e = found->second;
        e.area += end - x;
        e.left = std::min(e.left, x), e.right = std::max(e.right, end - 1);
        e.top = std::min(e.top, y), e.bottom = y;
      }
      x = end;
    }
  for (auto& [id, e] : extents) {
    require(e.area > 0, where, prefix, id, ": is in the list of segments and has no pixel");
    require(e.segment->area == 0 || e.segment->area == e.area, where, prefix, id, ": expected an area of ",
            e.segment->area, " pixels as the list says, found ", e.area);
    e.segment->area = e.area;
    e.segment->box = {static_cast<double>(e.left), static_cast<double>(e.top),
                      static_cast<double>(e.right - e.left + 1), static_cast<double>(e.bottom - e.top + 1)};
  }
  return segments;
}

}  // namespace settle
