#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settle/data/panoptic_training.hpp"
#include "settle/data/prefetch.hpp"
#include "settle/train/panoptic_model.hpp"
#include "settle/vision/mask_metrics.hpp"
#include "settle/vision/panoptic_fpn.hpp"

namespace settle::inline v0_2 {

/// A Panoptic FPN in training and in use.
template <class Device = Cpu>
class PanopticFpnModel final : public PanopticModel {
 public:
  using Net = PanopticFpn<float, Device>;
  using V = Var<float, Device>;

  /// A net at its initial values, or with those of options.model.weights. Throws Error where that file has none.
  PanopticFpnModel(const PanopticOptions& options, const std::vector<Category>& categories)
      : options_(options), classes_(categories) {
    ParameterStreams streams(options_.train.seed);
    net_ = Net::initial(options_.net(std::ssize(classes_.things()), std::ssize(classes_.stuff())), streams);
    if (options_.model.weights.empty()) return;
    const SafetensorsFile file = read_safetensors(options_.model.weights);
    const LoadReport report = load_what_fits(file, "", net_);
    require(!report.loaded.empty(), "panoptic", file.path(), ": has none of the net's parameters: ",
            report.complaints);
  }

  TrainingEnd train(const PanopticSets& data, std::shared_ptr<RunFolder> folder, bool resume, Json& summary) override {
    Trainer<Net, float, Device> trainer(net_, options_.train, std::move(folder), resume);
    trainer.metadata["categories"] = categories_text(classes_.categories());
    trainer.epoch_size = data.train.size();
    if (data.validation.size() > 0)
      trainer.validate = [&](const Net& net) {
        return scores(net, data.validation, options_.test_steps()).figures();
      };
    const PanopticBatches batches(data.train, options_.batches());
    const Index first = trainer.step() * options_.train.accumulate;
    const auto ahead = static_cast<std::size_t>(options_.train.workers) + 1;
    Prefetch<PanopticTrainingBatch> made(
        [&](Index k) { return training_batch(batches.batch(first + k), classes_); }, ahead, options_.train.workers);
    const TrainingEnd end = trainer.train_on([&] { return made.next(); },
                                             [&](Net& model, const auto& batch) { return objective(model, batch); });
    summary["steps"] = trainer.step();
    summary["training_seconds"] = trainer.seconds();
    summary["end"] = name(end);
    if (trainer.best_score()) {
      summary["validation_pq"] = *trainer.best_score();
      summary["best_step"] = trainer.best_step();
    }
    if (end != TrainingEnd::preempted) trainer.load_best();
    return end;
  }

  void load(const std::filesystem::path& checkpoint) override { load_checkpoint(checkpoint, net_); }
  PanopticSegments predict(const Image8& picture, int steps) override { return segmented(net_, picture, steps); }
  PanopticScores evaluate(const PanopticData& data, int steps) override { return scores(net_, data, steps); }
  MaskSteps masks_over_steps(const PanopticSample& sample, std::size_t count, int steps) override {
    PanopticSample shown = resized(sample, seen({sample.map.height, sample.map.width}));
    std::stable_sort(shown.segments.begin(), shown.segments.end(),
                     [](const Segment& a, const Segment& b) { return a.area > b.area; });
    const PanopticTruth truth = truth_of(shown, classes_);
    std::vector<std::size_t> objects = trained_objects(truth);
    objects.resize(std::min(objects.size(), count));
    MaskSteps out;
    if (objects.empty()) return out;
    std::vector<Index> kinds;
    const double across = static_cast<double>(sample.map.width) / static_cast<double>(shown.map.width),
                 down = static_cast<double>(sample.map.height) / static_cast<double>(shown.map.height);
    for (const std::size_t k : objects) {
      const double* b = truth.boxes.data() + 4 * k;
      out.boxes.push_back({b[0] * across, b[1] * down, (b[2] - b[0]) * across, (b[3] - b[1]) * down});
      kinds.push_back(truth.classes[k]);
    }
    net_.masks_over_steps(picture_tensor<float>(shown.image), box_rows<float>(truth.boxes, objects), kinds, steps,
                          [&](int, const Tensor<float>& masks) { out.after_step.push_back(masks); });
    return out;
  }
  Index parameter_count() const override { return settle::parameter_count(net_); }

 private:
  Objective<V> objective(Net& model, const PanopticTrainingBatch& batch) const {
    // What is sampled in batch k is a function of seed and k alone.
    Random random(options_.train.seed ^ std::uint64_t{0xD1B54A32D192ED03}, static_cast<std::uint64_t>(batch.number));
    const auto losses = model.losses(batch.images, batch.truths, random);
    const auto figures = [named = losses.named()] {
      Figures out;
      for (const auto& [name, value] : named) out.emplace_back(name, static_cast<double>(value.item()));
      return out;
    };
    return {losses.total(), figures};
  }

  /// The size at which the net sees an image.
  Extent seen(Extent own) const {
    const auto& d = options_.data;
    return d.test_short_side > 0 ? short_side_extent(own, d.test_short_side, d.long_side) : own;
  }

  PanopticSegments segmented(const Net& net, const Image8& picture, int steps) const {
    const Extent own{picture.height, picture.width}, size = seen(own);
    const Image8 shown = size == own ? picture : resize_image(picture, size[0], size[1], Filter::bilinear);
    const auto found = net.predict(picture_tensor<float>(shown), {.size = own, .steps = steps});
    return found.merged(classes_.things(), classes_.stuff(), options_.merging());
  }

  PanopticScores scores(const Net& net, const PanopticData& data, int steps) const {
    PanopticCounts counts;
    PanopticScores out;
    double ious = 0;
    for (Index i = 0; i < data.size(); ++i) {
      const PanopticSample sample = data.sample(i);
      const PanopticSegments found = segmented(net, sample.image, steps);
      counts += match_segments(sample.map, sample.segments, found.map, found.segments);
      for (const double iou : mask_ious_in_true_boxes(net, sample, steps)) ious += iou, ++out.masks;
    }
    out.quality = panoptic_quality(counts, classes_.categories());
    out.mask_iou = out.masks > 0 ? ious / static_cast<double>(out.masks) : 0;
    return out;
  }

  /// Of each thing that is no crowd.
  std::vector<double> mask_ious_in_true_boxes(const Net& net, const PanopticSample& sample, int steps) const {
    const PanopticSample shown = resized(sample, seen({sample.map.height, sample.map.width}));
    const PanopticTruth truth = truth_of(shown, classes_);
    const std::vector<std::size_t> objects = trained_objects(truth);
    if (objects.empty()) return {};
    std::vector<Index> kinds;
    for (const std::size_t k : objects) kinds.push_back(truth.classes[k]);
    const Tensor<float> boxes = box_rows<float>(truth.boxes, objects);
    const Tensor<float> masks = net.masks_of(picture_tensor<float>(shown.image), boxes, kinds, steps);
    Tensor<float> wanted(masks.shape());
    float* to = wanted.mutable_data();
    for (const std::size_t k : objects) {
      const double* b = truth.boxes.data() + 4 * k;
      for (const auto value : mask_in_box(truth.masks[k], {b[0], b[1], b[2], b[3]}, masks.shape(1)).values)
        *to++ = static_cast<float>(value);
    }
    return mask_ious(masks, wanted, 0.5f);
  }

  PanopticOptions options_;
  PanopticClasses classes_;
  Net net_;
};

}  // namespace settle
