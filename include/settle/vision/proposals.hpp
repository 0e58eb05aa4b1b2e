#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "settle/nn/losses.hpp"
#include "settle/ops/concat.hpp"
#include "settle/ops/gather.hpp"
#include "settle/ops/transpose.hpp"
#include "settle/vision/anchors.hpp"
#include "settle/vision/matching.hpp"
#include "settle/vision/nms.hpp"
#include "settle/vision/panoptic_options.hpp"
#include "settle/vision/panoptic_truth.hpp"

namespace settle::inline v0_2 {

/// Height and width.
using ImageSize = std::array<Index, 2>;

/// A region proposal network (Ren et al. 2015) on p2 ... p6, its head shared by the levels: which anchors are objects,
/// and how their boxes differ from them. Parameters are named as detectron2's: rpn_head.conv,
/// rpn_head.objectness_logits, rpn_head.anchor_deltas.
template <Scalar T, class Device = Cpu>
struct ProposalNet {
  using V = Var<T, Device>;
  ProposalOptions options;
  ConvNorm<T, Device> conv, objectness_logits, anchor_deltas;

  /// What the head says of the anchors of all levels, those of a level by rows, columns and ratios.
  struct Output {
    V logits, deltas;                ///< (N, A), (N, A, 4)
    std::vector<Tensor<T>> anchors;  ///< of each level (A_l, 4)
  };

  /// Kernels normal with a deviation of 0.01, biases 0. Throws Error unless there is a size of anchors for each of five
  /// levels.
  static ProposalNet initial(const ProposalOptions& o, Index channels, ParameterStreams& streams) {
    require(o.anchor_sizes.size() == 5 && !o.anchor_ratios.empty(), "proposals",
            "expected five sizes of anchors, those of p2 ... p6, and some ratios, got ", o.anchor_sizes.size(),
            " sizes and ", o.anchor_ratios.size(), " ratios");
    const Index ratios = std::ssize(o.anchor_ratios);
    const auto layer = [&](Index out, Index kernel) {
      return ConvNorm<T, Device>::initial({channels, out, kernel, 1, true, {}, {WeightFilling::normal, 0.01}}, streams);
    };
    return {o, layer(channels, 3), layer(ratios, 1), layer(4 * ratios, 1)};
  }

  /// The head on each of p2 ... p6.
  Output forward(const std::vector<V>& pyramid, Mode mode) {
    require(pyramid.size() == options.anchor_sizes.size(), "proposals", "expected ", options.anchor_sizes.size(),
            " levels, got ", pyramid.size());
    Output out;
    std::vector<V> logits, deltas;
    const Index ratios = std::ssize(options.anchor_ratios);
    for (std::size_t l = 0; l < pyramid.size(); ++l) {
      const Index n = pyramid[l].shape(0), rows = pyramid[l].shape(2), columns = pyramid[l].shape(3);
      const Index count = rows * columns * ratios;
      const V hidden = conv.forward(pyramid[l], mode, true);
      logits.push_back(reshape(transpose(objectness_logits.forward(hidden, mode), {0, 2, 3, 1}), {n, count}));
      deltas.push_back(reshape(transpose(anchor_deltas.forward(hidden, mode), {0, 2, 3, 1}), {n, count, 4}));
      out.anchors.push_back(make_anchors<T>(rows, columns, Index{4} << l,
                                            {{options.anchor_sizes[l]}, options.anchor_ratios, options.anchor_offset}));
    }
    out.logits = concat(logits, 1), out.deltas = concat(deltas, 1);
    return out;
  }

  /// The two losses, of objectness and of boxes: sums over the sampled anchors, and over those of them that are
  /// objects, divided by options.batch and the number of images.
  std::pair<V, V> losses(const Output& output, const std::vector<PanopticTruth>& truths, Random& random) const {
    const Index images = output.logits.shape(0), count = output.logits.shape(1);
    require(std::ssize(truths) == images, "proposals", "expected the truth of ", images, " images, got ",
            truths.size());
    const Tensor<T> anchors = all_anchors(output);
    std::vector<Index> sampled, positive;
    std::vector<T> labels, sources, targets;
    for (Index n = 0; n < images; ++n) {
      const PanopticTruth& truth = truths[static_cast<std::size_t>(n)];
      const Tensor<T> objects = box_rows<T>(truth.boxes, trained_objects(truth));
      const MatchOptions rule{{options.background_below, options.object_from}, {0, -1, 1}, true};
      const Matches matches = match_objects(box_ious(objects, anchors), rule);
      const Sampled chosen = sample_labels(matches.label, options.batch, options.positive_share, random);
      for (const Index k : chosen.positive) {
        sampled.push_back(n * count + k), positive.push_back(n * count + k), labels.push_back(T{1});
        const T *source = anchors.data() + 4 * k,
                *target = objects.data() + 4 * matches.object[static_cast<std::size_t>(k)];
        sources.insert(sources.end(), source, source + 4), targets.insert(targets.end(), target, target + 4);
      }
      for (const Index k : chosen.negative) sampled.push_back(n * count + k), labels.push_back(T{0});
    }
    const double share = 1 / static_cast<double>(options.batch * images);
    const Shape some{std::ssize(sampled)}, boxes{std::ssize(positive), 4};
    const V objectness = binary_cross_entropy_with_logits(gather(reshape(output.logits, {images * count}), 0, sampled),
                                                          Tensor<T, Device>(some, labels), LossReduction::sum);
    const Tensor<T> codes = encode_boxes(Tensor<T>(boxes, sources), Tensor<T>(boxes, targets));
    const V location = smooth_l1_loss(gather(reshape(output.deltas, {images * count, 4}), 0, positive),
                                      to<Device>(codes), options.smooth_l1_beta, LossReduction::sum);
    return {share * objectness, share * location};
  }

  /// The proposals of each image (R, 4), from the highest score down; no gradient. Of each level the anchors of the
  /// highest scores, cut at the image's borders, those without area left out, then suppressed by one another. `sizes`
  /// are the images' own, without padding.
  std::vector<Tensor<T>> propose(const Output& output, const std::vector<ImageSize>& sizes, Mode mode) const {
    const Tensor<T> logits = to<Cpu>(output.logits.value()), deltas = to<Cpu>(output.deltas.value());
    const Index before = mode == Mode::train ? options.before_nms_train : options.before_nms_test;
    const Index after = mode == Mode::train ? options.after_nms_train : options.after_nms_test;
    require(std::ssize(sizes) == logits.shape(0), "proposals", "expected the sizes of ", logits.shape(0),
            " images, got ", sizes.size());
    std::vector<Tensor<T>> out;
    for (std::size_t n = 0; n < sizes.size(); ++n) {
      std::vector<T> corners, scores;
      std::vector<Index> groups;
      Index at = static_cast<Index>(n) * logits.shape(1);
      for (std::size_t l = 0; l < output.anchors.size(); ++l) {
        const Tensor<T>& anchors = output.anchors[l];
        const std::span<const T> all(logits.data() + at, static_cast<std::size_t>(anchors.shape(0)));
        const std::vector<Index> best = top_scores(all, before);
        std::vector<Index> rows;
        for (const Index k : best) rows.push_back(at + k);
        const Tensor<T> codes = box_rows<T>(deltas.reshape({deltas.size() / 4, 4}), rows);
        const Tensor<T> decoded = decode_boxes(box_rows<T>(anchors, best), codes);
        const Tensor<T> cut = clip_boxes(decoded, sizes[n][0], sizes[n][1]);
        for (const Index k : usable_boxes(decoded, -std::numeric_limits<T>::infinity())) {
          const T* box = cut.data() + 4 * k;
          const T score = all[static_cast<std::size_t>(best[static_cast<std::size_t>(k)])];
          if (!(box[2] > box[0] && box[3] > box[1]) || !std::isfinite(score)) continue;
          corners.insert(corners.end(), box, box + 4), scores.push_back(score);
          groups.push_back(static_cast<Index>(l));
        }
        at += anchors.shape(0);
      }
      const Tensor<T> boxes(Shape{std::ssize(scores), 4}, corners);
      std::vector<Index> kept = nms<T>(boxes, scores, options.nms_threshold, groups);
      kept.resize(std::min(kept.size(), static_cast<std::size_t>(after)));
      out.push_back(box_rows<T>(boxes, kept));
    }
    return out;
  }

  void parameters(auto&& visit) {
    visit_part("rpn_head.conv", conv, visit), visit_part("rpn_head.objectness_logits", objectness_logits, visit);
    visit_part("rpn_head.anchor_deltas", anchor_deltas, visit);
  }

 private:
  static Tensor<T> all_anchors(const Output& output) {
    std::vector<T> corners;
    for (const Tensor<T>& level : output.anchors)
      corners.insert(corners.end(), level.data(), level.data() + level.size());
    return Tensor<T>(Shape{std::ssize(corners) / 4, 4}, corners);
  }
};

}  // namespace settle
