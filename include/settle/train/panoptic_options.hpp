#pragma once
#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "settle/data/panoptic_batches.hpp"
#include "settle/data/panoptic_scenes.hpp"
#include "settle/train/trainer_options.hpp"
#include "settle/vision/panoptic_merge.hpp"
#include "settle/vision/panoptic_options.hpp"

namespace settle::inline v0_2 {

/// Everything that a training of a Panoptic FPN may be told: the table that train_panoptic's configuration follows.
struct PanopticOptions {
  struct Model {
    std::string size = "tiny";
    Index depth = 0;
    std::vector<Index> blocks;
    Index trunk_channels = 0, channels = 0;
    std::string norm = "as_size";
    Index freeze_at = -1;
    bool stride_in_1x1 = false;
    std::string weights;
    std::vector<double> anchor_sizes;
    Index canonical_size = 0;
    Index anchor_batch = 0, candidates = 0, proposals = 0, region_batch = 0, detections = 0;
    double detection_nms = 0.5;
  } model;

  struct MaskHead {
    std::string kind = "crbp";
    int steps = 8, products = 15, kernel = 3;
    bool gala = true, cap = true, less_softplus = true;
    std::string initialisation = "chronos";
    double penalty_weight = 1e-3, tau = 0.95;
  } mask_head;

  struct Data {
    std::string kind = "scenes";
    std::string folder, annotations, train = "train", validation = "val", thing = "object";
    bool things_only = true;
    Index validation_images = 0;
    double cache_megabytes = 1024;
    Index count = 0;  ///< scenes
    Index size = 96;
    bool hard = false;
    double crowds = 0, void_patches = 0.3;
    std::vector<Index> short_sides;
    Index long_side = 1333, test_short_side = 0, crop = 0;
    bool mirror = true, turn = false, group_aspects = true;
    double brightness = 0, contrast = 0;
    bool bgr = false;
    std::vector<double> mean{123.675, 116.28, 103.53}, deviation{58.395, 57.12, 57.375};
  } data;

  struct Evaluation {
    int steps = 0;  ///< of the mask head; 0: as in training
    double least_score = 0.5, largest_overlap = 0.5;
    Index least_stuff_area = 4096;
    std::vector<Index> curve;
  } evaluation;

  int threads = 0;
  TrainerOptions train;

  /// The table.
  void each(auto&& visit) {
    constexpr OnResume kept = OnResume::kept;
    using namespace allowed;
    const Allowed any = anything();
    auto& m = model;
    visit("model.size", m.size, one_of({"tiny", "full"}), "widths and the rest: of the tests, or of detectron2", kept);
    visit("model.depth", m.depth, between(0, 101), "of the ResNet, 18, 34, 50 or 101; 0: as the size says", kept);
    visit("model.blocks", m.blocks, at_least(1), "of its four stages, in place of the depth's", kept);
    visit("model.trunk_channels", m.trunk_channels, at_least(0), "of its first stage; 0: as the size says", kept);
    visit("model.norm", m.norm, one_of({"as_size", "frozen_batch", "group"}), "in the ResNet", kept);
    visit("model.freeze_at", m.freeze_at, between(-1, 5), "stages of it that are not trained; -1: as the size says",
          kept);
    visit("model.stride_in_1x1", m.stride_in_1x1, any, "where its bottlenecks stride, as in MSRA's weights", kept);
    visit("model.channels", m.channels, at_least(0), "of pyramid, mask head and semantic head; 0: as the size says",
          kept);
    visit("model.weights", m.weights, any, "a safetensors file for the start; what is not in it starts at random");
    visit("model.anchor_sizes", m.anchor_sizes, above(0), "pixels, for each of five levels; none: as the size says",
          kept);
    visit("model.canonical_size", m.canonical_size, at_least(0), "of boxes pooled from level 4; 0: as the size says",
          kept);
    visit("model.anchor_batch", m.anchor_batch, at_least(0), "anchors of an image in the loss; 0: as the size says");
    visit("model.candidates", m.candidates, at_least(0), "anchors of a level kept before suppression; 0: the size's");
    visit("model.proposals", m.proposals, at_least(0), "regions of an image after suppression; 0: as the size says");
    visit("model.region_batch", m.region_batch, at_least(0), "regions of an image in the loss; 0: the size's");
    visit("model.detections", m.detections, at_least(0), "the most things found in an image; 0: as the size says");
    visit("model.detection_nms", m.detection_nms, between(0, 1), "overlap of things that are one");

    auto& h = mask_head;
    visit("mask_head.kind", h.kind, one_of({"feed_forward", "bptt", "rbp", "crbp"}),
          "convolutions, or an hGRU and how it is trained", kept);
    visit("mask_head.steps", h.steps, between(1, 1e6), "applications of the hGRU");
    visit("mask_head.products", h.products, between(0, 1e6), "rbp, crbp: terms of the Neumann sum");
    visit("mask_head.cap", h.cap, any, "rbp, crbp: the released code's bound on the sum's norm");
    visit("mask_head.kernel", h.kernel, odd(), "hGRU: side of its convolutions", kept);
    visit("mask_head.gala", h.gala, any, "hGRU: attention in the first gate", kept);
    visit("mask_head.less_softplus", h.less_softplus, any, "hGRU: the candidate is the excitation itself", kept);
    visit("mask_head.initialisation", h.initialisation, one_of({"released", "chronos"}), "hGRU: gates' biases", kept);
    visit("mask_head.penalty_weight", h.penalty_weight, at_least(0), "crbp: weight of the summed penalty");
    visit("mask_head.tau", h.tau, at_least(0), "crbp: what the penalty allows");

    auto& d = data;
    visit("data.kind", d.kind, one_of({"scenes", "coco", "object_masks"}), "the data set", kept);
    visit("data.folder", d.folder, any, "where it is");
    visit("data.annotations", d.annotations, any, "coco: the folder of its JSON and PNG folders, within data.folder");
    visit("data.train", d.train, any, "coco: panoptic_NAME.json, NAME/, panoptic_NAME/; object_masks: NAME/", kept);
    visit("data.validation", d.validation, any, "the same for validation; \"\": none", kept);
    visit("data.thing", d.thing, any, "object_masks: what its objects are");
    visit("data.things_only", d.things_only, any, "coco: train on images with things alone", kept);
    visit("data.validation_images", d.validation_images, at_least(0), "the first so many; 0: all, 150 scenes", kept);
    visit("data.cache_megabytes", d.cache_megabytes, at_least(0), "images kept in memory");
    visit("data.count", d.count, at_least(0), "scenes: training images; 0: each is new", kept);
    visit("data.size", d.size, at_least(24), "scenes: height and width", kept);
    visit("data.hard", d.hard, any, "scenes: colours tell nothing", kept);
    visit("data.crowds", d.crowds, between(0, 1), "scenes: share with a crowd", kept);
    visit("data.void_patches", d.void_patches, between(0, 1), "scenes: share with a patch that is not labelled", kept);
    visit("data.short_sides", d.short_sides, at_least(1), "the shorter side becomes one of these; none: as is", kept);
    visit("data.long_side", d.long_side, at_least(1), "the most that the longer side becomes", kept);
    visit("data.test_short_side", d.test_short_side, at_least(0), "the shorter side after training; 0: as it is");
    visit("data.crop", d.crop, at_least(0), "training sees windows of this side; 0: whole images", kept);
    visit("data.mirror", d.mirror, any, "left and right exchanged at random", kept);
    visit("data.turn", d.turn, any, "also top and bottom, and quarter turns", kept);
    visit("data.group_aspects", d.group_aspects, any, "batches of images of like shape", kept);
    visit("data.brightness", d.brightness, at_least(0), "shifted at random by up to this share of 255", kept);
    visit("data.contrast", d.contrast, between(0, 1), "its factor varied by up to", kept);
    visit("data.bgr", d.bgr, any, "channels in the order blue, green, red", kept);
    visit("data.mean", d.mean, any, "subtracted from each channel, of 0 to 255", kept);
    visit("data.deviation", d.deviation, above(0), "each channel is divided by", kept);

    auto& e = evaluation;
    visit("evaluation.steps", e.steps, between(0, 1e6), "of the mask head after training; 0: mask_head.steps");
    visit("evaluation.least_score", e.least_score, between(0, 1), "things of lower scores are left out");
    visit("evaluation.largest_overlap", e.largest_overlap, between(0, 1), "share of a thing that others may have");
    visit("evaluation.least_stuff_area", e.least_stuff_area, at_least(0), "pixels; smaller regions are left void");
    visit("evaluation.curve", e.curve, at_least(1), "numbers of the mask head's steps to score at the end, one by one");

    visit("machine.threads", threads, between(0, 4096), "that compute; 0: one for each processor");
    train.each(visit);
  }

  /// Throws UsageError for options that do not go together.
  void check() const {
    const auto expect = [](bool good, const std::string& text) {
      if (!good) throw UsageError("[config] " + text);
    };
    train.check();
    expect(data.kind == "scenes" || !data.folder.empty(), "expected data.folder for data.kind " + data.kind);
    expect(data.kind == "scenes" || !data.train.empty(), "expected data.train for data.kind " + data.kind);
    expect(data.mean.size() == 3 && data.deviation.size() == 3, "data.mean, data.deviation: expected 3 numbers each");
    expect(model.anchor_sizes.empty() || model.anchor_sizes.size() == 5, "model.anchor_sizes: expected 5 numbers");
    expect(model.blocks.empty() || model.blocks.size() == 4, "model.blocks: expected 4 numbers");
    const Index depth = model.depth;
    expect(depth == 0 || depth == 18 || depth == 34 || depth == 50 || depth == 101,
           "model.depth: expected 18, 34, 50 or 101, got " + std::to_string(depth));
  }

  int test_steps() const { return evaluation.steps > 0 ? evaluation.steps : mask_head.steps; }

  PanopticBatchOptions batches() const {
    const bool endless = data.kind == "scenes" && data.count == 0;  // each scene is new, and they are of one shape
    return {.batch = train.batch,
            .seed = train.seed,
            .shuffle = !endless,
            .group_aspects = data.group_aspects && !endless,
            .augmentation = {.short_sides = data.short_sides,
                             .long_side = data.long_side,
                             .crop = data.crop,
                             .mirror = data.mirror,
                             .turn = data.turn,
                             .brightness = data.brightness,
                             .contrast = data.contrast}};
  }
  MergeOptions merging() const {
    return {.least_score = evaluation.least_score,
            .largest_overlap = evaluation.largest_overlap,
            .least_stuff_area = evaluation.least_stuff_area};
  }
  PanopticSceneOptions scenes() const {
    return {.size = data.size, .hard = data.hard, .crowds = data.crowds, .void_patches = data.void_patches};
  }

  /// The net's options, for so many kinds of things and stuff.
  PanopticFpnOptions net(Index things, Index stuff) const;
};

inline PanopticFpnOptions PanopticOptions::net(Index things, Index stuff) const {
  PanopticFpnOptions o = PanopticFpnOptions::preset(model.size);
  const auto unless_zero = [](auto& to, auto value) {
    if (value != 0) to = static_cast<std::remove_reference_t<decltype(to)>>(value);
  };
  o.things = things, o.stuff = stuff;
  std::copy_n(data.mean.begin(), 3, o.pixel_mean.begin());
  std::copy_n(data.deviation.begin(), 3, o.pixel_deviation.begin());
  o.blue_first = data.bgr;

  ResnetOptions& trunk = o.resnet;
  if (model.depth != 0) {
    const ResnetOptions deep = ResnetOptions::of_depth(model.depth);
    trunk.blocks = deep.blocks, trunk.bottleneck = deep.bottleneck;
    if (model.size == "full") trunk.channels = deep.channels;
  }
  if (!model.blocks.empty()) std::copy_n(model.blocks.begin(), 4, trunk.blocks.begin());
  if (model.trunk_channels != 0) {
    trunk.channels = model.trunk_channels;
    trunk.stem_channels = trunk.bottleneck ? std::max<Index>(model.trunk_channels / 2, 8) : model.trunk_channels;
  }
  if (model.norm == "frozen_batch") trunk.norm = {NormKind::frozen_batch};
  if (model.norm == "group") trunk.norm = {NormKind::group, 8};
  if (model.freeze_at >= 0) trunk.freeze_at = model.freeze_at;
  trunk.stride_in_1x1 = model.stride_in_1x1;

  for (Index* channels : {&o.fpn.channels, &o.mask.channels, &o.semantic.channels})
    unless_zero(*channels, model.channels);
  if (!model.anchor_sizes.empty()) o.proposals.anchor_sizes = model.anchor_sizes;
  unless_zero(o.canonical_size, model.canonical_size);
  unless_zero(o.proposals.batch, model.anchor_batch);
  auto& p = o.proposals;
  unless_zero(p.before_nms_train, model.candidates), unless_zero(p.before_nms_test, model.candidates);
  unless_zero(p.after_nms_train, model.proposals), unless_zero(p.after_nms_test, model.proposals);
  unless_zero(o.box.batch, model.region_batch), unless_zero(o.box.detections, model.detections);
  o.box.nms_threshold = model.detection_nms;

  MaskHeadOptions& mask = o.mask;
  mask.recurrent = mask_head.kind != "feed_forward";
  mask.training = mask_head.kind == "bptt" ? MaskTraining::bptt
                  : mask_head.kind == "rbp" ? MaskTraining::rbp
                                            : MaskTraining::cbp;
  mask.steps = mask_head.steps, mask.test_steps = test_steps(), mask.terms = mask_head.products;
  mask.norm_cap = mask_head.cap, mask.kernel = mask_head.kernel, mask.gala = mask_head.gala;
  mask.less_softplus = mask_head.less_softplus;
  mask.initialisation =
      mask_head.initialisation == "released" ? Initialisation::released : Initialisation::corrected;
  mask.penalty_weight = mask_head.penalty_weight, mask.penalty_threshold = mask_head.tau;
  return o;
}

}  // namespace settle
