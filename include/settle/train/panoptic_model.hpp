#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/threads.hpp"
#include "settle/data/panoptic_folders.hpp"
#include "settle/io/safetensors.hpp"
#include "settle/train/panoptic_options.hpp"
#include "settle/train/trainer.hpp"
#include "settle/vision/panoptic_quality.hpp"

namespace settle::inline v0_2 {

/// The data that options name. Training and validation have the same categories.
struct PanopticSets {
  PanopticData train, validation;
};

namespace detail {

/// The first `count` samples of a data set.
struct FirstSamples {
  PanopticData data;
  Index count;
  Index size() const { return count; }
  const std::vector<Category>& categories() const { return data.categories(); }
  Extent extent(Index i) const { return data.extent(i); }
  PanopticSample sample(Index i) const { return data.sample(i); }
};

inline bool same_categories(const std::vector<Category>& a, const std::vector<Category>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Category& p, const Category& q) { return p.id == q.id && p.thing == q.thing; });
}

}  // namespace detail

/// Opens the data. Throws DataError where it is missing or damaged, and where the two parts' categories differ.
inline PanopticSets open_data(const PanopticOptions& options) {
  const auto& d = options.data;
  const auto bytes = static_cast<std::size_t>(1e6 * d.cache_megabytes);
  PanopticSets out;
  if (d.kind == "scenes") {
    constexpr std::uint64_t far = std::uint64_t{1} << 40;  // training never gets there
    const Index all = static_cast<Index>(1) << 31, validation = d.validation_images > 0 ? d.validation_images : 150;
    const PanopticScenes training(options.scenes(), options.train.seed, 0, d.count > 0 ? d.count : all);
    out.train = d.count > 0 ? cached(training, bytes) : PanopticData(training);
    out.validation = cached(PanopticScenes(options.scenes(), options.train.seed, far, validation), bytes);
    return out;
  }
  const std::filesystem::path root = d.folder, truth = root / d.annotations;
  const auto part = [&](const std::string& name, bool things_only) -> PanopticData {
    if (name.empty()) return {};
    if (d.kind == "object_masks") return ObjectMaskFolder(root / name, d.thing);
    return CocoPanopticFolder(truth / ("panoptic_" + name + ".json"), root / name, truth / ("panoptic_" + name),
                              things_only);
  };
  out.train = cached(part(d.train, d.things_only), bytes);
  out.validation = part(d.validation, false);
  if (d.validation_images > 0 && d.validation_images < out.validation.size())
    out.validation = detail::FirstSamples{out.validation, d.validation_images};
  out.validation = cached(out.validation, bytes);
  if (out.validation.size() > 0 && !detail::same_categories(out.train.categories(), out.validation.categories()))
    fail_data("panoptic", "expected the same categories for training and validation in ", root.string());
  return out;
}

/// How well images are segmented, each from 0 to 1.
struct PanopticScores {
  PanopticQuality quality;
  double mask_iou = 0;  ///< mean over the true things of the mask head's intersection over union in their true boxes
  Index masks = 0;      ///< how many

  Figures figures() const {
    return {{"pq", quality.all.pq},        {"sq", quality.all.sq},          {"rq", quality.all.rq},
            {"pq_things", quality.things.pq}, {"sq_things", quality.things.sq}, {"pq_stuff", quality.stuff.pq},
            {"mask_iou", mask_iou}};
  }
};

/// Masks of things whose boxes are known, after each step of the mask head.
struct MaskSteps {
  std::vector<CocoBox> boxes;             ///< R boxes in the image
  std::vector<Tensor<float>> after_step;  ///< after 1, 2, ... steps: probabilities (R, side, side); or one of no steps
};

/// A net of panoptic segmentation of a kind chosen at run time, in training and in use.
class PanopticModel {
 public:
  virtual ~PanopticModel() = default;

  /// Trains to the end of the budget, in a run folder.
  virtual TrainingEnd train(const PanopticSets& data, std::shared_ptr<RunFolder> folder, bool resume,
                            Json& summary) = 0;
  /// Takes the weights of a checkpoint.
  virtual void load(const std::filesystem::path& checkpoint) = 0;
  /// What is in a picture of three channels, with so many steps of the mask head.
  virtual PanopticSegments predict(const Image8& picture, int steps) = 0;
  /// Scores on a data set, with so many steps of the mask head.
  virtual PanopticScores evaluate(const PanopticData& data, int steps) = 0;
  /// The masks of the largest `count` true things of a sample over so many steps.
  virtual MaskSteps masks_over_steps(const PanopticSample& sample, std::size_t count, int steps) = 0;
  virtual Index parameter_count() const = 0;
};

/// Categories as text, to be kept with a net's weights.
inline std::string categories_text(const std::vector<Category>& categories) {
  Json out = Json::array();
  for (const Category& c : categories)
    out.push_back({{"id", c.id},
                   {"name", c.name},
                   {"supercategory", c.supercategory},
                   {"isthing", c.thing ? 1 : 0},
                   {"color", c.colour}});
  return out.dump();
}

/// The categories that a checkpoint's net knows. Throws Error where the file has none.
inline std::vector<Category> checkpoint_categories(const std::filesystem::path& checkpoint) {
  const SafetensorsFile file = read_safetensors(checkpoint);
  const auto found = file.metadata.find("categories");
  require(found != file.metadata.end(), "panoptic", checkpoint.string(),
          ": expected the checkpoint of a panoptic net, which tells its categories");
  std::vector<Category> out;
  try {
    for (const Json& c : Json::parse(found->second))
      out.push_back({c.at("id").get<Index>(), c.at("name").get<std::string>(), c.at("supercategory").get<std::string>(),
                     c.at("isthing").get<int>() != 0, c.at("color").get<Colour>()});
  } catch (const Json::exception& problem) {
    fail("panoptic", checkpoint.string(), ": damaged categories: ", problem.what());
  }
  return out;
}

}  // namespace settle
