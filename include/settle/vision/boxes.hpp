#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "settle/core/tensor.hpp"

// Boxes are rows of a tensor (N, 4): left, top, right, bottom, in pixels; the right and bottom edges are not a pixel's
// number but where it ends, so that a width is right - left.
namespace settle::inline v0_2 {

/// Throws Error "[where] ..." unless the tensor has shape (N, 4).
template <Scalar T>
void require_boxes(const Tensor<T>& boxes, const char* where) {
  require(boxes.rank() == 2 && boxes.shape(1) == 4, where, "expected boxes (N, 4), got ", boxes.shape());
}

/// The area of each box (N).
template <Scalar T>
Tensor<T> box_areas(const Tensor<T>& boxes) {
  require_boxes(boxes, "box_areas");
  Tensor<T> out(Shape{boxes.shape(0)});
  for (Index n = 0; n < out.size(); ++n) {
    const T* b = boxes.data() + 4 * n;
    out.mutable_data()[n] = (b[2] - b[0]) * (b[3] - b[1]);
  }
  return out;
}

/// Intersection over union of each of M boxes with each of N: (M, N). 0 where they do not meet, also for boxes without
/// area; the union is summed as (area + area - intersection).
template <Scalar T>
Tensor<T> box_ious(const Tensor<T>& a, const Tensor<T>& b) {
  require_boxes(a, "box_ious"), require_boxes(b, "box_ious");
  Tensor<T> out(Shape{a.shape(0), b.shape(0)});
  const Tensor<T> areas_a = box_areas(a), areas_b = box_areas(b);
  T* iou = out.mutable_data();
  for (Index m = 0; m < a.shape(0); ++m)
    for (Index n = 0; n < b.shape(0); ++n, ++iou) {
      const T *p = a.data() + 4 * m, *q = b.data() + 4 * n;
      const T width = std::max(std::min(p[2], q[2]) - std::max(p[0], q[0]), T(0));
      const T height = std::max(std::min(p[3], q[3]) - std::max(p[1], q[1]), T(0));
      const T common = width * height;
      *iou = common > 0 ? common / (areas_a.data()[m] + areas_b.data()[n] - common) : T(0);
    }
  return out;
}

/// The boxes cut at the borders of an image.
template <Scalar T>
Tensor<T> clip_boxes(Tensor<T> boxes, Index height, Index width) {
  require_boxes(boxes, "clip_boxes");
  T* value = boxes.mutable_data();
  for (Index k = 0; k < boxes.size(); ++k)
    value[k] = std::clamp(value[k], T(0), static_cast<T>(k % 2 == 0 ? width : height));
  return boxes;
}

/// The numbers of the boxes whose coordinates are all finite and whose sides are both longer than `side`.
template <Scalar T>
std::vector<Index> usable_boxes(const Tensor<T>& boxes, T side = 0) {
  require_boxes(boxes, "usable_boxes");
  std::vector<Index> out;
  for (Index n = 0; n < boxes.shape(0); ++n) {
    const T* b = boxes.data() + 4 * n;
    const bool finite = std::all_of(b, b + 4, [](T value) { return std::isfinite(value); });
    if (finite && b[2] - b[0] > side && b[3] - b[1] > side) out.push_back(n);
  }
  return out;
}

/// How the difference between two boxes is coded as four numbers: shifts of the centre in units of the source's sides,
/// and logarithms of the ratios of sides, each times its weight (R-CNN, Girshick et al. 2014).
struct BoxCoding {
  std::array<double, 4> weights{1, 1, 1, 1};  ///< x, y, width, height; (10, 10, 5, 5) in box heads
  double largest_log = 4.135166556742356;     ///< of a ratio of sides when decoding: log(1000 / 16)
};

/// The code of each target box as seen from its source box (N, 4): (wx (tx - sx) / sw, wy (ty - sy) / sh,
/// ww log(tw / sw), wh log(th / sh)) for centres x, y and sides w, h.
/// Throws Error for a box without width or height.
template <Scalar T>
Tensor<T> encode_boxes(const Tensor<T>& sources, const Tensor<T>& targets, const BoxCoding& coding = {}) {
  require_boxes(sources, "encode_boxes"), require_boxes(targets, "encode_boxes");
  require(sources.shape() == targets.shape(), "encode_boxes", "expected as many sources as targets, got ",
          sources.shape(), " and ", targets.shape());
  Tensor<T> out(sources.shape());
  T* code = out.mutable_data();
  for (Index n = 0; n < sources.shape(0); ++n) {
    const T *s = sources.data() + 4 * n, *t = targets.data() + 4 * n;
    for (int a = 0; a < 2; ++a) {
      const T side = s[a + 2] - s[a], target_side = t[a + 2] - t[a];
      require(side > 0 && target_side > 0, "encode_boxes", "expected boxes with width and height, got sides ", side,
              " and ", target_side, " in row ", n);
      const T centre = s[a] + side / 2, target_centre = t[a] + target_side / 2;
      const auto axis = static_cast<std::size_t>(a);
      code[4 * n + a] = static_cast<T>(coding.weights[axis]) * (target_centre - centre) / side;
      code[4 * n + a + 2] = static_cast<T>(coding.weights[axis + 2]) * std::log(target_side / side);
    }
  }
  return out;
}

/// The inverse: boxes (N, 4 K) of K codes for each of N sources. Logarithms of ratios are cut at coding.largest_log, so
/// that no box grows beyond measure.
template <Scalar T>
Tensor<T> decode_boxes(const Tensor<T>& sources, const Tensor<T>& codes, const BoxCoding& coding = {}) {
  require_boxes(sources, "decode_boxes");
  require(codes.rank() == 2 && codes.shape(0) == sources.shape(0) && codes.shape(1) % 4 == 0, "decode_boxes",
          "expected codes (N, 4 K) for boxes ", sources.shape(), ", got ", codes.shape());
  Tensor<T> out(codes.shape());
  T* box = out.mutable_data();
  const T* code = codes.data();
  const Index per_source = codes.shape(1) / 4;
  for (Index k = 0; k < sources.shape(0) * per_source; ++k, box += 4, code += 4) {
    const T* s = sources.data() + 4 * (k / per_source);
    for (int a = 0; a < 2; ++a) {
      const auto axis = static_cast<std::size_t>(a);
      const T side = s[a + 2] - s[a], centre = s[a] + side / 2;
      const T log_ratio =
          std::min(code[a + 2] / static_cast<T>(coding.weights[axis + 2]), static_cast<T>(coding.largest_log));
      const T new_centre = code[a] / static_cast<T>(coding.weights[axis]) * side + centre;
      const T new_side = std::exp(log_ratio) * side;
      box[a] = new_centre - new_side / 2;
      box[a + 2] = new_centre + new_side / 2;
    }
  }
  return out;
}

/// Which level of a feature pyramid each box is pooled from: floor(canonical_level + log2(sqrt(area) /
/// canonical_size)), kept within the levels that there are (Lin et al. 2017).
struct LevelOptions {
  Index first = 2, last = 5;  ///< level l has stride 2^l
  Index canonical_level = 4;
  double canonical_size = 224;
};

template <Scalar T>
std::vector<Index> box_levels(const Tensor<T>& boxes, const LevelOptions& options = {}) {
  require(options.first <= options.last && options.canonical_size > 0, "box_levels",
          "expected levels in order and a canonical size above 0, got ", options.first, " to ", options.last, " and ",
          options.canonical_size);
  const Tensor<T> areas = box_areas(boxes);
  std::vector<Index> out;
  for (const T area : areas.values()) {
    const double ratio = std::sqrt(static_cast<double>(area)) / options.canonical_size;
    const double level = std::floor(static_cast<double>(options.canonical_level) +
                                    std::log2(ratio + std::numeric_limits<double>::epsilon()));
    require(!std::isnan(level), "box_levels", "expected boxes of an area of at least 0, got ", area);
    out.push_back(
        static_cast<Index>(std::clamp(level, static_cast<double>(options.first), static_cast<double>(options.last))));
  }
  return out;
}

}  // namespace settle
