#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "settle/nn/linear.hpp"
#include "settle/nn/losses.hpp"
#include "settle/vision/matching.hpp"
#include "settle/vision/nms.hpp"
#include "settle/vision/panoptic_options.hpp"
#include "settle/vision/panoptic_truth.hpp"
#include "settle/vision/regions.hpp"

namespace settle::inline v0_2 {

/// Regions of a batch of images, those of one image after the other.
template <Scalar T>
struct Regions {
  Tensor<T> boxes{Shape{0, 4}};
  std::vector<Index> images{};   ///< the image of each
  std::vector<Index> classes{};  ///< in training: the thing that it is, or `things` for background
  std::vector<Index> objects{};  ///< in training: which object of its image's truth it is most like; 0 for background

  Index size() const { return boxes.shape(0); }

  /// Some of them.
  Regions rows(const std::vector<Index>& which) const {
    const auto select = [&](const std::vector<Index>& list) {
      std::vector<Index> out;
      if (!list.empty())
        for (const Index k : which) out.push_back(list[static_cast<std::size_t>(k)]);
      return out;
    };
    return {box_rows<T>(boxes, which), select(images), select(classes), select(objects)};
  }

  /// Those that are things.
  std::vector<Index> foreground(Index things) const {
    std::vector<Index> out;
    for (std::size_t k = 0; k < classes.size(); ++k)
      if (classes[k] < things) out.push_back(static_cast<Index>(k));
    return out;
  }
};

/// The regions that the heads are trained on: of each image's proposals and true boxes a random choice, with what they
/// are by their intersection over union with the truth.
template <Scalar T>
Regions<T> sample_regions(const std::vector<Tensor<T>>& proposals, const std::vector<PanopticTruth>& truths,
                          Index things, const BoxHeadOptions& options, Random& random) {
  require(proposals.size() == truths.size(), "sample_regions", "expected the truth of ", proposals.size(),
          " images, got ", truths.size());
  Regions<T> out;
  std::vector<T> corners;
  for (std::size_t n = 0; n < truths.size(); ++n) {
    const std::vector<std::size_t> objects = trained_objects(truths[n]);
    const Tensor<T> truth = box_rows<T>(truths[n].boxes, objects);
    std::vector<T> all(proposals[n].data(), proposals[n].data() + proposals[n].size());
    all.insert(all.end(), truth.data(), truth.data() + truth.size());
    const Tensor<T> boxes(Shape{std::ssize(all) / 4, 4}, all);
    const Matches matches = match_objects(box_ious(truth, boxes), MatchOptions{{options.object_from}, {0, 1}, false});
    std::vector<int> labels;
    for (std::size_t k = 0; k < matches.label.size(); ++k) {
      Index label = things;
      if (matches.label[k] == 1) label = truths[n].classes[objects[static_cast<std::size_t>(matches.object[k])]];
      require(label >= 0 && label <= things, "sample_regions", "expected classes 0 ... ", things - 1, ", got ", label);
      labels.push_back(static_cast<int>(label));
    }
    const Sampled chosen =
        sample_labels(labels, options.batch, options.positive_share, random, static_cast<int>(things));
    for (const auto* list : {&chosen.positive, &chosen.negative})
      for (const Index k : *list) {
        const auto at = static_cast<std::size_t>(k);
        corners.insert(corners.end(), boxes.data() + 4 * k, boxes.data() + 4 * k + 4);
        out.images.push_back(static_cast<Index>(n)), out.classes.push_back(labels[at]);
        out.objects.push_back(
            objects.empty() ? 0 : static_cast<Index>(objects[static_cast<std::size_t>(matches.object[at])]));
      }
  }
  out.boxes = Tensor<T>(Shape{std::ssize(corners) / 4, 4}, corners);
  return out;
}

/// A thing that was found, in the pixels of the image that the net saw.
template <Scalar T>
struct Detections {
  Tensor<T> boxes{Shape{0, 4}};
  std::vector<double> scores{};
  std::vector<Index> classes{};
};

/// The head that tells the classes of regions and mends their boxes: two fully connected layers with ReLU. Parameters
/// are named as detectron2's: box_head.fc1, box_head.fc2, box_predictor.cls_score, box_predictor.bbox_pred.
template <Scalar T, class Device = Cpu>
struct BoxHead {
  using V = Var<T, Device>;
  BoxHeadOptions options;
  LevelOptions levels;
  Index things = 0;
  Linear<T, Device> fc1, fc2, cls_score, bbox_pred;

  struct Output {
    V scores;  ///< logits (R, things + 1), the background last
    V deltas;  ///< (R, 4 things), by class
  };

  static BoxHead initial(const BoxHeadOptions& o, const LevelOptions& levels, Index channels, Index things,
                         ParameterStreams& streams) {
    require(things >= 1 && o.pool >= 1, "box_head", "expected at least one class of things and one bin, got ", things,
            " and ", o.pool);
    const auto layer = [&](Index out, Index in, const WeightFilling& filling) {
      return Linear<T, Device>{fill_weight<T, Device>({out, in}, filling, streams),
                               Tensor<T, Device>(Shape{out}, T{0})};
    };
    const WeightFilling xavier{WeightFilling::caffe2_xavier};
    BoxHead head{o, levels, things, {}, {}, {}, {}};
    head.fc1 = layer(o.hidden, channels * o.pool * o.pool, xavier), head.fc2 = layer(o.hidden, o.hidden, xavier);
    head.cls_score = layer(things + 1, o.hidden, {WeightFilling::normal, 0.01});
    head.bbox_pred = layer(4 * things, o.hidden, {WeightFilling::normal, 0.001});
    return head;
  }

  /// What the head says of regions of a pyramid p2 ... (p5).
  Output forward(const std::vector<V>& pyramid, const Regions<T>& regions) const {
    const V pooled =
        pool_regions(pyramid, regions.boxes, regions.images, {.size = {options.pool, options.pool}}, levels);
    const auto activated = [](auto v, auto b) { return relu(v + b); };
    V x = reshape(pooled, {regions.size(), fc1.weight.shape(1)});
    x = map(activated, fc1.linear(x), fc1.bias);
    x = map(activated, fc2.linear(x), fc2.bias);
    return {cls_score(x), bbox_pred(x)};
  }

  /// The two losses: the mean cross-entropy, and the boxes' smooth L1 distance of things, both over all regions.
  std::pair<V, V> losses(const Output& output, const Regions<T>& regions,
                         const std::vector<PanopticTruth>& truths) const {
    std::vector<T> labels, sources, targets;
    for (const Index label : regions.classes) labels.push_back(static_cast<T>(label));
    std::vector<Index> places;
    const std::vector<Index> things_found = regions.foreground(things);
    for (const Index k : things_found) {
      const auto at = static_cast<std::size_t>(k);
      const Tensor<T> target = box_rows<T>(truths[static_cast<std::size_t>(regions.images[at])].boxes,
                                           std::vector<Index>{regions.objects[at]});
      const T* source = regions.boxes.data() + 4 * k;
      places.push_back(k * things + regions.classes[at]);
      sources.insert(sources.end(), source, source + 4),
          targets.insert(targets.end(), target.data(), target.data() + 4);
    }
    const Shape boxes{std::ssize(places), 4};
    const Tensor<T> codes = encode_boxes(Tensor<T>(boxes, sources), Tensor<T>(boxes, targets), coding);
    const V found = gather(reshape(output.deltas, {regions.size() * things, 4}), 0, places);
    const V distance = smooth_l1_loss(found, to<Device>(codes), options.smooth_l1_beta, LossReduction::sum);
    return {cross_entropy(output.scores, Tensor<T, Device>(Shape{regions.size()}, labels), CrossEntropyOptions{}),
            (1 / static_cast<double>(std::max<Index>(regions.size(), 1))) * distance};
  }

  /// The things found among the regions of one image, from the highest score down; no gradient.
  Detections<T> detect(const Output& output, const Regions<T>& regions, std::array<Index, 2> size) const {
    const Tensor<T> scores = to<Cpu>(softmax(stop_gradient(output.scores), 1).value());
    const Tensor<T> boxes =
        decode_boxes(regions.boxes, to<Cpu>(output.deltas.value()), coding).reshape({regions.size() * things, 4});
    const Tensor<T> cut = clip_boxes(boxes, size[0], size[1]);
    std::vector<Index> rows, classes;
    std::vector<T> values;
    for (const Index k : usable_boxes(boxes, -std::numeric_limits<T>::infinity())) {
      const T score = scores.data()[k / things * (things + 1) + k % things];
      if (!(score > static_cast<T>(options.least_score))) continue;
      rows.push_back(k), classes.push_back(k % things), values.push_back(score);
    }
    const Tensor<T> candidates = box_rows<T>(cut, rows);
    std::vector<Index> kept = nms<T>(candidates, values, options.nms_threshold, classes);
    kept.resize(std::min(kept.size(), static_cast<std::size_t>(options.detections)));
    Detections<T> out{box_rows<T>(candidates, kept), {}, {}};
    for (const Index k : kept) {
      out.scores.push_back(static_cast<double>(values[static_cast<std::size_t>(k)]));
      out.classes.push_back(classes[static_cast<std::size_t>(k)]);
    }
    return out;
  }

  void parameters(auto&& visit) {
    visit_part("box_head.fc1", fc1, visit), visit_part("box_head.fc2", fc2, visit);
    visit_part("box_predictor.cls_score", cls_score, visit), visit_part("box_predictor.bbox_pred", bbox_pred, visit);
  }

 private:
  static constexpr BoxCoding coding{{10, 10, 5, 5}};
};

}  // namespace settle
