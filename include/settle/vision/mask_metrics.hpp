#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

/// Intersection over union of each predicted mask with the true one; 0 where they do not meet. `predicted` (N, H, W)
/// has numbers, of which those at least `threshold` count as inside (probabilities: 0.5, logits: 0); `truth` (N, H, W)
/// has 0 and 1. A mask head is measured by it on true boxes, apart from the finding of boxes.
template <Scalar T>
std::vector<double> mask_ious(const Tensor<T>& predicted, const Tensor<T>& truth, T threshold) {
  require(predicted.rank() == 3 && predicted.shape() == truth.shape(), "mask_ious",
          "expected two tensors (N, H, W) of one shape, got ", predicted.shape(), " and ", truth.shape());
  std::vector<double> out;
  const Index pixels = predicted.shape(1) * predicted.shape(2);
  for (Index n = 0; n < predicted.shape(0); ++n) {
    Index common = 0, united = 0;
    for (Index k = n * pixels; k < (n + 1) * pixels; ++k) {
      const bool p = predicted.data()[k] >= threshold, t = truth.data()[k] > T(0.5);
      common += p && t, united += p || t;
    }
    out.push_back(common > 0 ? static_cast<double>(common) / static_cast<double>(united) : 0);
  }
  return out;
}

/// The pixels of a mask that have a neighbour above, below, left or right that is not in it.
inline Mask inner_boundary(const Mask& mask) {
  Mask out = empty_mask(mask.height, mask.width);
  for (Index y = 0; y < mask.height; ++y)
    for (Index x = 0; x < mask.width; ++x)
      out(y, x) = mask(y, x) && ((y > 0 && !mask(y - 1, x)) || (y + 1 < mask.height && !mask(y + 1, x)) ||
                                 (x > 0 && !mask(y, x - 1)) || (x + 1 < mask.width && !mask(y, x + 1)));
  return out;
}

/// How well boundaries are found, each from 0 to 1.
struct BoundaryScore {
  double precision = 0, recall = 0, f = 0;

  /// f = 2 P R / (P + R), 0 where both are 0.
  static BoundaryScore of(double precision, double recall) {
    const double sum = precision + recall;
    return {precision, recall, sum > 0 ? 2 * precision * recall / sum : 0};
  }
};

namespace detail {

/// Throws Error "[where] ..." for maps of different sizes.
inline void require_one_size(const Mask& a, const Mask& b, const char* where) {
  require(a.height == b.height && a.width == b.width, where, "expected maps of one size, got ", a.height, " x ",
          a.width, " and ", b.height, " x ", b.width);
}

/// The share of `all` that `some` is; 0 of none.
inline double share_of(Index some, Index all) {
  return all > 0 ? static_cast<double>(some) / static_cast<double>(all) : 0;
}

}  // namespace detail

/// Compares two maps of boundary pixels: precision is the share of predicted ones within `tolerance` pixels (Euclidean)
/// of a true one, recall the share of true ones within it of a predicted one, f = 2 P R / (P + R); 0 where there are
/// none. Several pixels may lean on one of the other map: match_boundaries gives them to each other one to one.
/// Throws Error for maps of different sizes and a tolerance below 0.
inline BoundaryScore boundary_score(const Mask& predicted, const Mask& truth, double tolerance) {
  detail::require_one_size(predicted, truth, "boundary_score");
  require(tolerance >= 0 && tolerance <= 1000, "boundary_score", "expected a tolerance from 0 to 1000, got ",
          tolerance);
  const auto reach = static_cast<Index>(tolerance);
  const auto share_near = [&](const Mask& of, const Mask& to) {
    const auto near = [&](Index y, Index x) {
      for (Index dy = -reach; dy <= reach; ++dy) {
        if (y + dy < 0 || y + dy >= to.height) continue;
        const auto side = static_cast<Index>(std::sqrt(tolerance * tolerance - static_cast<double>(dy * dy)));
        for (Index at = std::max<Index>(x - side, 0); at <= std::min(x + side, to.width - 1); ++at)
          if (to(y + dy, at)) return true;
      }
      return false;
    };
    Index all = 0, found = 0;
    for (Index y = 0; y < of.height; ++y)
      for (Index x = 0; x < of.width; ++x)
        if (of(y, x)) ++all, found += near(y, x);
    return detail::share_of(found, all);
  };
  return BoundaryScore::of(share_near(predicted, truth), share_near(truth, predicted));
}

}  // namespace settle
