#pragma once
#include <array>
#include <cstddef>
#include <vector>

#include "settle/vision/boxes.hpp"
#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

/// The label of pixels that do not count in a semantic map.
inline constexpr float ignored_label = 255;

/// What is true of an image: its things one by one, and the kind of stuff at each pixel.
struct PanopticTruth {
  Tensor<double> boxes{Shape{0, 4}};  ///< (N, 4): left, top, right, bottom, in the image's pixels
  std::vector<Index> classes;         ///< N numbers of things, 0 ... things - 1
  std::vector<bool> crowd;            ///< whether it is a crowd, which is not trained on; N or none
  std::vector<Mask> masks;            ///< N, of the image's size
  Tensor<float> semantic;  ///< (H, W): 0 where a thing is, k for the kind of stuff number k - 1, 255 where nobody knows
};

/// Throws Error "[where] ..." unless the truth is of an image of that size, and all lists are as long as there are
/// boxes.
inline void require_truth(const PanopticTruth& truth, Index height, Index width, const char* where) {
  require_boxes(truth.boxes, where);
  const auto count = static_cast<std::size_t>(truth.boxes.shape(0));
  require(truth.classes.size() == count && truth.masks.size() == count &&
              (truth.crowd.empty() || truth.crowd.size() == count),
          where, "expected as many classes, masks and crowds as boxes, ", count, ", got ", truth.classes.size(), ", ",
          truth.masks.size(), " and ", truth.crowd.size());
  const Shape size{height, width};
  require(truth.semantic.shape() == size, where, "expected a semantic map ", size, " as the image, got ",
          truth.semantic.shape());
  for (const Mask& mask : truth.masks)
    require(mask.height == height && mask.width == width && std::ssize(mask.values) == height * width, where,
            "expected masks of the image's size, ", height, " x ", width, ", got ", mask.height, " x ", mask.width);
}

/// The objects that are trained on: no crowds, and none whose box has no width or height.
inline std::vector<std::size_t> trained_objects(const PanopticTruth& truth) {
  std::vector<std::size_t> out;
  for (const Index k : usable_boxes(truth.boxes))
    if (truth.crowd.empty() || !truth.crowd[static_cast<std::size_t>(k)]) out.push_back(static_cast<std::size_t>(k));
  return out;
}

/// Some rows of boxes, in the scalar type that a net computes with.
template <Scalar T, Scalar B, class List>
Tensor<T> box_rows(const Tensor<B>& boxes, const List& rows) {
  Tensor<T> out(Shape{static_cast<Index>(rows.size()), 4});
  T* to = out.mutable_data();
  for (const auto row : rows)
    for (Index a = 0; a < 4; ++a) *to++ = static_cast<T>(boxes.data()[4 * static_cast<Index>(row) + a]);
  return out;
}

}  // namespace settle
