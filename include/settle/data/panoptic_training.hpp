#pragma once
#include "settle/core/macros_off.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "settle/data/panoptic_batches.hpp"
#include "settle/vision/panoptic_truth.hpp"

// What a net is given of the samples of a panoptic data set.
namespace settle::inline v0_2 {

/// A picture of three channels as a net takes it: (3, H, W), from 0 to 255.
template <Scalar T>
Tensor<T> picture_tensor(const Image8& picture) {
  require_image(picture, "picture_tensor");
  require(picture.channels == 3, "picture_tensor", "expected a picture of 3 channels, got ", picture.channels);
  Tensor<T> out(Shape{3, picture.height, picture.width});
  T* to = out.mutable_data();
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t k = c; k < picture.pixels.size(); k += 3) *to++ = static_cast<T>(picture.pixels[k]);
  return out;
}

/// What a net is told of a sample: its things one by one, and the stuff at each pixel (0 at things, crowds among them).
inline PanopticTruth truth_of(const PanopticSample& sample, const PanopticClasses& classes) {
  const SegmentMap& map = sample.map;
  PanopticTruth out;
  out.semantic = Tensor<float>(Shape{map.height, map.width}, ignored_label);
  std::map<std::uint32_t, std::pair<float, Mask*>> by_id;  // the label, and the mask of things
  std::vector<double> corners;
  std::size_t things = 0;
  for (const Segment& segment : sample.segments) things += classes.is_thing(segment.category);
  out.masks.reserve(things);
  for (const Segment& segment : sample.segments) {
    auto& [label, mask] = by_id[static_cast<std::uint32_t>(segment.id)];
    label = 0, mask = nullptr;
    if (!classes.is_thing(segment.category)) {
      label = static_cast<float>(classes.number(segment.category));
      continue;
    }
    const CocoBox& box = segment.box;
    corners.insert(corners.end(), {box[0], box[1], box[0] + box[2], box[1] + box[3]});
    out.classes.push_back(classes.number(segment.category));
    out.crowd.push_back(segment.crowd);
    out.masks.push_back(empty_mask(map.height, map.width));
    mask = &out.masks.back();
  }
  out.boxes = Tensor<double>(Shape{std::ssize(out.classes), 4}, corners);
  float* label = out.semantic.mutable_data();
  for (std::size_t k = 0; k < map.ids.size(); ++k)
    if (map.ids[k] != 0) {
      const auto found = by_id.find(map.ids[k]);
      require(found != by_id.end(), "truth", "segment ", map.ids[k],
              ": has pixels, and is not in the list of segments");
      label[k] = found->second.first;
      if (found->second.second) found->second.second->values[k] = 1;
    }
  return out;
}

/// A batch as a Panoptic FPN is trained on it.
struct PanopticTrainingBatch {
  Index number = 0;
  std::vector<Tensor<float>> images;
  std::vector<PanopticTruth> truths;
};

inline PanopticTrainingBatch training_batch(const PanopticBatch& batch, const PanopticClasses& classes) {
  PanopticTrainingBatch out{batch.number, {}, {}};
  for (const PanopticSample& sample : batch.samples) {
    out.images.push_back(picture_tensor<float>(sample.image));
    out.truths.push_back(truth_of(sample, classes));
  }
  return out;
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
