#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

/// The corners of a polygon in turn, x then y, in pixels; pixel (0, 0) covers [0, 1] x [0, 1]. It is closed by itself.
using Polygon = std::vector<double>;

/// Throws Error "[where] ..." unless the polygon has at least three corners and coordinates of at most 2^20.
inline void require_polygon(const Polygon& polygon, const char* where) {
  require(polygon.size() >= 6 && polygon.size() % 2 == 0, where,
          "expected a polygon of at least 3 corners, x and y of each, got ", polygon.size(), " numbers");
  for (const double value : polygon)
    require(std::abs(value) <= 1 << 20, where, "expected a polygon's coordinates within 2^20, got ", value);
}

/// The area within a polygon that does not cross itself (the shoelace formula).
inline double polygon_area(const Polygon& polygon) {
  double twice = 0;
  const std::size_t size = polygon.size();
  for (std::size_t k = 0; k + 1 < size; k += 2)
    twice += polygon[k] * polygon[(k + 3) % size] - polygon[k + 1] * polygon[(k + 2) % size];
  return std::abs(twice) / 2;
}

/// The length of a polygon's outline.
inline double polygon_perimeter(const Polygon& polygon) {
  double length = 0;
  const std::size_t size = polygon.size();
  for (std::size_t k = 0; k + 1 < size; k += 2)
    length += std::hypot(polygon[(k + 2) % size] - polygon[k], polygon[(k + 3) % size] - polygon[k + 1]);
  return length;
}

namespace detail {

/// Calls f(x, y) for the points of a polygon's outline on a grid five times as fine as the pixels, in turn. Numbers are
/// rounded as in COCO's code, where halves and negative numbers go towards zero after 0.5 is added.
template <class F>
void walk_outline(const Polygon& polygon, const F& f) {
  const auto rounded = [](double value) { return static_cast<int>(value + .5); };
  const auto corner = [&](std::size_t k) { return rounded(5 * polygon[k % polygon.size()]); };
  for (std::size_t k = 0; k < polygon.size(); k += 2) {
    int x0 = corner(k), y0 = corner(k + 1), x1 = corner(k + 2), y1 = corner(k + 3);
    const int dx = std::abs(x1 - x0), dy = std::abs(y1 - y0), steps = std::max(dx, dy);
    const bool backwards = (dx >= dy && x0 > x1) || (dx < dy && y0 > y1);
    if (backwards) std::swap(x0, x1), std::swap(y0, y1);
    const double slope = steps == 0 ? 0 : static_cast<double>(dx >= dy ? y1 - y0 : x1 - x0) / steps;
    for (int d = 0; d <= steps; ++d) {
      const int t = backwards ? steps - d : d;
      if (dx >= dy)
        f(x0 + t, rounded(y0 + slope * t));
      else
        f(rounded(x0 + slope * t), y0 + t);
    }
  }
}

}  // namespace detail

/// The pixels within a polygon, to the bit those of COCO's API: the outline is walked on a grid five times as fine;
/// where it crosses a column's centre line, the column changes between outside and inside, at the row above. Throws
/// Error for less than three corners and coordinates beyond 2^20.
inline Rle rle_of_polygon(const Polygon& polygon, Index height, Index width) {
  require_polygon(polygon, "rle_of_polygon");
  require_rle({height, width, {static_cast<std::uint32_t>(height * width)}}, "rle_of_polygon");
  std::vector<Index> changes;  // positions down the columns
  int before_x = 0, before_y = 0;
  bool first = true;
  detail::walk_outline(polygon, [&](int x, int y) {
    if (!first && x != before_x) {
      const double column = ((x < before_x ? x : x - 1) + .5) / 5 - .5;
      if (column == std::floor(column) && column >= 0 && column <= static_cast<double>(width - 1)) {
        const double row = std::clamp((std::min(y, before_y) + .5) / 5 - .5, 0., static_cast<double>(height));
        changes.push_back(static_cast<Index>(column) * height + static_cast<Index>(std::ceil(row)));
      }
    }
    before_x = x, before_y = y, first = false;
  });
  changes.push_back(height * width);
  std::sort(changes.begin(), changes.end());
  Rle out{height, width, {}};
  Index position = 0;
  for (std::size_t k = 0; k < changes.size(); ++k) {
    const auto count = static_cast<std::uint32_t>(changes[k] - position);
    position = changes[k];
    if (k == 0 || count > 0)
      out.counts.push_back(count);
    else if (++k < changes.size())  // two changes in one place are none: the run before goes on
      out.counts.back() += static_cast<std::uint32_t>(changes[k] - position), position = changes[k];
  }
  return out;
}

/// The pixels within any of the polygons.
inline Rle rle_of_polygons(const std::vector<Polygon>& polygons, Index height, Index width) {
  require(!polygons.empty(), "rle_of_polygons", "expected at least one polygon");
  Rle out = rle_of_polygon(polygons[0], height, width);
  for (std::size_t k = 1; k < polygons.size(); ++k) out = merge_rle(out, rle_of_polygon(polygons[k], height, width));
  return out;
}

/// The pixels within a box, as those of the polygon of its corners.
inline Rle rle_of_box(const CocoBox& box, Index height, Index width) {
  const double left = box[0], top = box[1], right = left + box[2], bottom = top + box[3];
  return rle_of_polygon({left, top, left, bottom, right, bottom, right, top}, height, width);
}

}  // namespace settle
