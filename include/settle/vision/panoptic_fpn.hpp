#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "settle/vision/box_head.hpp"
#include "settle/vision/fpn.hpp"
#include "settle/vision/mask_head.hpp"
#include "settle/vision/panoptic_merge.hpp"
#include "settle/vision/panoptic_options.hpp"
#include "settle/vision/panoptic_truth.hpp"
#include "settle/vision/paste.hpp"
#include "settle/vision/proposals.hpp"
#include "settle/vision/semantic_head.hpp"

namespace settle::inline v0_2 {

/// The losses of a Panoptic FPN, scalars, each weighted as it counts.
template <class V>
struct PanopticLosses {
  V rpn_cls, rpn_loc, cls, box_reg, mask, sem_seg;
  V penalty;  ///< of what is recurrent; 0 without

  /// The sum of all: what is trained.
  V total() const { return rpn_cls + rpn_loc + cls + box_reg + mask + sem_seg + penalty; }

  /// By detectron2's names, and the released code's for the penalty.
  std::vector<std::pair<std::string, V>> named() const {
    return {{"loss_rpn_cls", rpn_cls}, {"loss_rpn_loc", rpn_loc}, {"loss_cls", cls},      {"loss_box_reg", box_reg},
            {"loss_mask", mask},       {"loss_sem_seg", sem_seg}, {"vj_penalty", penalty}};
  }
};

/// What a Panoptic FPN finds in an image, in pixels of the size that was asked for.
template <Scalar T>
struct PanopticPrediction {
  Detections<T> things;       ///< from the highest score down
  Tensor<T> probabilities;    ///< (R, 2 pool, 2 pool): of their masks, within their boxes
  std::vector<Mask> masks;    ///< the same, pasted into the image
  Tensor<T> semantic_logits;  ///< (stuff + 1, H, W)
  SegmentMap stuff;           ///< the class of the largest: 0 things, k for the kind of stuff number k - 1

  /// One segmentation of things and stuff (merge_panoptic), with the categories' ids for the classes' numbers.
  PanopticSegments merged(const std::vector<Index>& thing_categories, const std::vector<Index>& stuff_categories,
                          const MergeOptions& merge = {}) const {
    std::vector<FoundInstance> found;
    for (std::size_t k = 0; k < masks.size(); ++k) {
      const auto number = static_cast<std::size_t>(things.classes[k]);
      require(number < thing_categories.size(), "panoptic_fpn", "expected categories for ", number + 1,
              " things at least, got ", thing_categories.size());
      found.push_back({thing_categories[number], things.scores[k], masks[k]});
    }
    return merge_panoptic(found, stuff, stuff_categories, merge);
  }
};

/// The size that images of these sizes are padded to, below and to the right: the largest of each side, rounded up to a
/// multiple of `divisor`. Throws Error for a divisor below 1.
inline ImageSize padded_size(const std::vector<ImageSize>& sizes, Index divisor = 32) {
  require(divisor >= 1, "padded_size", "expected a divisor of at least 1, got ", divisor);
  ImageSize out{0, 0};
  for (const ImageSize& size : sizes)
    for (std::size_t a = 0; a < 2; ++a) out[a] = std::max(out[a], (size[a] + divisor - 1) / divisor * divisor);
  return out;
}

/// How an image is looked at.
struct PredictOptions {
  std::optional<std::array<Index, 2>> size{};  ///< height and width of the result; none: the image's
  std::optional<int> steps{};                  ///< of the recurrent mask head; none: as the net's options say
};

/// Panoptic FPN (Kirillov et al. 2019), with a mask head that may be recurrent (C-RBP): instances by Mask R-CNN and
/// stuff by a semantic head, on one feature pyramid. Images are tensors (3, H, W) of red, green and blue from 0 to 255,
/// of any sizes; they are normalised, and padded to a common size that 32 divides. Parameters are named as
/// detectron2's.
template <Scalar T, class Device = Cpu>
struct PanopticFpn {
  using V = Var<T, Device>;
  PanopticFpnOptions options;
  Fpn<T, Device> backbone;
  ProposalNet<T, Device> proposal_generator;
  BoxHead<T, Device> box_head;
  MaskHead<T, Device> mask_head;
  SemanticHead<T, Device> sem_seg_head;

  /// Initial values as detectron2's without pretrained weights. Throws Error for options that do not fit.
  static PanopticFpn initial(const PanopticFpnOptions& o, ParameterStreams& streams) {
    LevelOptions levels;
    levels.canonical_size = static_cast<double>(o.canonical_size);
    const Index c = o.fpn.channels;
    PanopticFpn net;
    net.options = o;
    net.backbone = Fpn<T, Device>::initial(o.resnet, o.fpn, streams);
    net.proposal_generator = ProposalNet<T, Device>::initial(o.proposals, c, streams);
    net.box_head = BoxHead<T, Device>::initial(o.box, levels, c, o.things, streams);
    net.mask_head = MaskHead<T, Device>::initial(o.mask, levels, c, o.things, streams);
    net.sem_seg_head = SemanticHead<T, Device>::initial(o.semantic, c, o.stuff + 1, streams);
    return net;
  }

  /// The losses of a batch of images with their truth, in the images' pixels. What is sampled is drawn from `random`.
  /// Running statistics of this net are updated. An image may have no things, and a batch no things at all.
  PanopticLosses<V> losses(const std::vector<Tensor<T>>& images, const std::vector<PanopticTruth>& truths,
                           Random& random) {
    require(images.size() == truths.size(), "panoptic_fpn", "expected the truth of ", images.size(), " images, got ",
            truths.size());
    const std::vector<ImageSize> sizes = sizes_of(images);
    for (std::size_t n = 0; n < images.size(); ++n) require_truth(truths[n], sizes[n][0], sizes[n][1], "panoptic_fpn");
    PanopticLosses<V> out;
    out.penalty = Tensor<T, Device>(Shape{}, T{0});
    const std::vector<V> pyramid = backbone.forward(batch(images), Mode::train, &out.penalty);

    const auto anchors = proposal_generator.forward(pyramid, Mode::train);
    std::tie(out.rpn_cls, out.rpn_loc) = proposal_generator.losses(anchors, truths, random);
    const auto proposals = proposal_generator.propose(anchors, sizes, Mode::train);

    const std::vector<V> levels = region_levels(pyramid);
    const Regions<T> regions = sample_regions(proposals, truths, options.things, options.box, random);
    std::tie(out.cls, out.box_reg) = box_head.losses(box_head.forward(levels, regions), regions, truths);

    const Regions<T> objects = regions.rows(regions.foreground(options.things));
    const auto masks = mask_head.forward(mask_head.pool(levels, objects), Mode::train);
    out.mask = mask_head.loss(masks, objects, truths), out.penalty = out.penalty + masks.penalty;

    out.sem_seg = sem_seg_head.loss(sem_seg_head.forward(pyramid, Mode::train, &out.penalty), truths);
    return out;
  }

  /// What is found in an image (3, H, W); nothing is recorded.
  PanopticPrediction<T> predict(const Tensor<T>& image, const PredictOptions& how = {}) const {
    PanopticFpn net = as_constants(*this);
    const ImageSize size = sizes_of({image}).front(), to_size = how.size.value_or(size);
    const std::vector<V> pyramid = net.backbone.forward(batch({image}), Mode::evaluate);
    const std::vector<V> levels = region_levels(pyramid);
    const auto anchors = net.proposal_generator.forward(pyramid, Mode::evaluate);
    const Tensor<T> proposals = proposal_generator.propose(anchors, {size}, Mode::evaluate).front();
    const Regions<T> regions = of_one_image(proposals);
    const Detections<T> seen = box_head.detect(box_head.forward(levels, regions), regions, size);

    PanopticPrediction<T> out;
    const V logits = net.mask_logits(levels, seen.boxes, seen.classes, how.steps);
    const Tensor<T> probabilities = to<Cpu>(sigmoid(logits).value());
    Tensor<T> boxes = seen.boxes;
    T* corner = boxes.mutable_data();
    for (Index k = 0; k < boxes.size(); ++k) {
      const auto axis = static_cast<std::size_t>(1 - k % 2);
      corner[k] = corner[k] * static_cast<T>(to_size[axis]) / static_cast<T>(size[axis]);
    }
    boxes = clip_boxes(boxes, to_size[0], to_size[1]);
    const std::vector<Index> kept = usable_boxes(boxes);
    out.things.boxes = box_rows<T>(boxes, kept);
    out.probabilities = gather(Var<T>(probabilities), 0, kept).value();
    const Index side = 2 * mask_head.options.pool;
    for (const Index k : kept) {
      out.things.scores.push_back(seen.scores[static_cast<std::size_t>(k)]);
      out.things.classes.push_back(seen.classes[static_cast<std::size_t>(k)]);
      const T *box = boxes.data() + 4 * k, *values = probabilities.data() + k * side * side;
      const Tensor<T> mask(Shape{side, side}, std::vector<T>(values, values + side * side));
      out.masks.push_back(mask_above(paste_mask<T>(mask, {box[0], box[1], box[2], box[3]}, to_size[0], to_size[1])));
    }

    const V semantic = net.sem_seg_head.forward(pyramid, Mode::evaluate);
    const Window own{{0, 0, 0, 0}, {1, semantic.shape(1), size[0], size[1]}, {}};
    const V resized = resize(slice(semantic, own), to_size, Interpolation::bilinear);
    out.semantic_logits = to<Cpu>(resized.value()).reshape({semantic.shape(1), to_size[0], to_size[1]});
    out.stuff = largest_class(out.semantic_logits);
    return out;
  }

  /// The probabilities (R, 2 pool, 2 pool) of the masks of things whose boxes (R, 4) and classes are known: what the
  /// mask head is worth apart from the finding of boxes. Nothing is recorded.
  Tensor<T> masks_of(const Tensor<T>& image, const Tensor<T>& boxes, const std::vector<Index>& classes,
                     std::optional<int> steps = {}) const {
    PanopticFpn net = as_constants(*this);
    const std::vector<V> levels = region_levels(net.backbone.forward(batch({image}), Mode::evaluate));
    return to<Cpu>(sigmoid(net.mask_logits(levels, boxes, classes, steps)).value());
  }

  /// The same after every step: on_step(k, probabilities), k = 1 ... steps.
  void masks_over_steps(const Tensor<T>& image, const Tensor<T>& boxes, const std::vector<Index>& classes, int steps,
                        const std::function<void(int, const Tensor<T>&)>& on_step) const {
    PanopticFpn net = as_constants(*this);
    const std::vector<V> levels = region_levels(net.backbone.forward(batch({image}), Mode::evaluate));
    net.mask_head.over_steps(net.mask_head.pool(levels, of_one_image(boxes)), steps, [&](int k, const V& logits) {
      on_step(k, to<Cpu>(sigmoid(net.mask_head.of_classes(logits, classes)).value()));
    });
  }

  /// Images normalised and padded with zeros to the right and below, as the trunk takes them: (N, 3, H, W).
  V batch(const std::vector<Tensor<T>>& images) const {
    const std::vector<ImageSize> sizes = sizes_of(images);
    const ImageSize padded = padded_size(sizes);
    Tensor<T> out(Shape{std::ssize(images), 3, padded[0], padded[1]}, T{0});
    T* plane = out.mutable_data();
    for (std::size_t n = 0; n < images.size(); ++n)
      for (std::size_t c = 0; c < 3; ++c, plane += padded[0] * padded[1]) {
        const std::size_t colour = options.blue_first ? 2 - c : c;
        const T mean = static_cast<T>(options.pixel_mean[colour]),
                spread = static_cast<T>(options.pixel_deviation[colour]);
        const T* pixel = images[n].data() + static_cast<Index>(colour) * sizes[n][0] * sizes[n][1];
        for (Index y = 0; y < sizes[n][0]; ++y)
          for (Index x = 0; x < sizes[n][1]; ++x) plane[y * padded[1] + x] = (*pixel++ - mean) / spread;
      }
    return to<Device>(out);
  }

  void parameters(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_part(name, part, visit); });
  }
  void buffers(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_buffers(name, part, visit); });
  }

 private:
  void each(const auto& f) {
    f("backbone", backbone), f("proposal_generator", proposal_generator), f("roi_heads", box_head);
    f("roi_heads.mask_head", mask_head), f("sem_seg_head", sem_seg_head);
  }

  static std::vector<ImageSize> sizes_of(const std::vector<Tensor<T>>& images) {
    require(!images.empty(), "panoptic_fpn", "expected at least one image");
    std::vector<ImageSize> out;
    for (const Tensor<T>& image : images) {
      require(image.rank() == 3 && image.shape(0) == 3 && image.size() > 0, "panoptic_fpn",
              "expected images (3, H, W) of at least one pixel, got ", image.shape());
      out.push_back({image.shape(1), image.shape(2)});
    }
    return out;
  }

  /// p2 ... p5, which regions are pooled from.
  static std::vector<V> region_levels(const std::vector<V>& pyramid) { return {pyramid.begin(), pyramid.begin() + 4}; }

  static Regions<T> of_one_image(const Tensor<T>& boxes) {
    return {boxes, std::vector<Index>(static_cast<std::size_t>(boxes.shape(0))), {}, {}};
  }

  /// (R, 2 pool, 2 pool)
  V mask_logits(const std::vector<V>& levels, const Tensor<T>& boxes, const std::vector<Index>& classes,
                std::optional<int> steps) {
    require(std::ssize(classes) == boxes.shape(0), "panoptic_fpn", "expected classes of ", boxes.shape(0),
            " boxes, got ", classes.size());
    const V features = mask_head.pool(levels, of_one_image(boxes));
    return mask_head.of_classes(mask_head.forward(features, Mode::evaluate, steps).logits, classes);
  }

  /// The number of the largest of each pixel's logits (K, H, W), the first of equal ones.
  static SegmentMap largest_class(const Tensor<T>& logits) {
    SegmentMap out = void_map(logits.shape(1), logits.shape(2));
    const auto pixels = static_cast<Index>(out.ids.size());
    for (Index p = 0; p < pixels; ++p) {
      Index best = 0;
      for (Index k = 1; k < logits.shape(0); ++k)
        if (logits.data()[k * pixels + p] > logits.data()[best * pixels + p]) best = k;
      out.ids[static_cast<std::size_t>(p)] = static_cast<std::uint32_t>(best);
    }
    return out;
  }
};

}  // namespace settle
