#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "settle/ops/concat.hpp"
#include "settle/ops/gather.hpp"
#include "settle/ops/roi_align.hpp"
#include "settle/vision/boxes.hpp"
#include "settle/vision/polygon.hpp"

// What networks take from images and from truth within boxes.
namespace settle::inline v0_2 {

/// The features within boxes, each pooled from the level of a pyramid that goes with its size (box_levels):
/// pyramid[l] (N, C, H / 2^level, W / 2^level) for level = levels.first + l; y (R, C, size). pooling.scale is not used.
/// Throws Error as roi_align does, and where the pyramid has another number of levels.
template <class T, class D, class B>
Var<T, D> pool_regions(const std::vector<Var<T, D>>& pyramid, const Tensor<B>& boxes, const std::vector<Index>& images,
                       RoiAlignOptions pooling = {}, const LevelOptions& levels = {}) {
  require(std::ssize(pyramid) == levels.last - levels.first + 1, "pool_regions", "expected ",
          levels.last - levels.first + 1, " levels, got ", pyramid.size());
  const std::vector<Index> level = box_levels(boxes, levels);
  require(images.size() == level.size(), "pool_regions", "expected an image for each of ", level.size(), " boxes, got ",
          images.size());
  std::vector<Var<T, D>> parts;
  std::vector<Index> place(level.size());  // of each box in the parts, one behind the other
  Index next = 0;
  for (Index l = levels.first; l <= levels.last; ++l) {
    std::vector<B> corners;
    std::vector<Index> images_here;
    for (std::size_t r = 0; r < level.size(); ++r)
      if (level[r] == l) {
        corners.insert(corners.end(), boxes.data() + 4 * r, boxes.data() + 4 * r + 4);
        images_here.push_back(images[r]);
        place[r] = next++;
      }
    if (images_here.empty() && !(l == levels.last && parts.empty())) continue;  // the last gives the shape of nothing
    pooling.scale = std::ldexp(1., static_cast<int>(-l));
    parts.push_back(roi_align(pyramid[static_cast<std::size_t>(l - levels.first)],
                              Tensor<B>(Shape{std::ssize(images_here), 4}, corners), images_here, pooling));
  }
  return gather(parts.size() == 1 ? parts[0] : concat(parts, 0), 0, place);
}

/// The polygons within a box (left, top, right, bottom) stretched to size x size pixels, as COCO's API rasterises them:
/// what a mask head shall find there. Sides shorter than 0.1 count as 0.1, as in detectron2.
inline Mask polygons_in_box(const std::vector<Polygon>& polygons, const std::array<double, 4>& box, Index size) {
  const double ratio_x = static_cast<double>(size) / std::max(box[2] - box[0], 0.1);
  const double ratio_y = static_cast<double>(size) / std::max(box[3] - box[1], 0.1);
  std::vector<Polygon> moved = polygons;
  for (Polygon& polygon : moved)
    for (std::size_t k = 0; k < polygon.size(); ++k)
      polygon[k] = k % 2 == 0 ? (polygon[k] - box[0]) * ratio_x : (polygon[k] - box[1]) * ratio_y;
  return decode_rle(rle_of_polygons(moved, size, size));
}

/// The same of a mask: the share of ones in each of size x size bins of the box (RoIAlign), 1 where it is at least
/// half.
inline Mask mask_in_box(const Mask& mask, const std::array<double, 4>& box, Index size) {
  const RoiAlignOptions options{.size = {size, size}};
  detail::require_regions("mask_in_box", Tensor<double>(Shape{1, 4}, {box.begin(), box.end()}), options);
  Mask out = empty_mask(size, size);
  if (mask.values.empty()) return out;
  const auto down = detail::bin_weights(box[1], box[3], size, mask.height, options),
             across = detail::bin_weights(box[0], box[2], size, mask.width, options);
  for (Index y = 0; y < size; ++y)
    for (Index x = 0; x < size; ++x) {
      const auto &rows = down[static_cast<std::size_t>(y)], &columns = across[static_cast<std::size_t>(x)];
      double sum = 0;
      for (std::size_t i = 0; i < rows.weights.size(); ++i)
        for (std::size_t j = 0; j < columns.weights.size(); ++j)
          if (mask(rows.first + static_cast<Index>(i), columns.first + static_cast<Index>(j)))
            sum += rows.weights[i] * columns.weights[j];
      out(y, x) = sum >= 0.5;
    }
  return out;
}

}  // namespace settle
