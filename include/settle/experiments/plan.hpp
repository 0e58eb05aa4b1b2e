#pragma once
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settle/io/json.hpp"
#include "settle/train/segmentation.hpp"

// What the paper's experiments train, in several sizes.
namespace settle::inline v0_2::experiments {

/// Options as they are given on a command line: "algorithm.steps=20".
using Settings = std::vector<std::string>;

inline Settings operator+(Settings a, const Settings& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// One training: what its tables call it, and its options.
struct Cell {
  std::string name;
  SegmentationOptions options;

  /// A name for its folder that no other options have: the name and a hash of all options.
  std::string folder() const {
    SegmentationOptions copy = options;
    const std::string text = Config(copy).json().dump();
    std::uint64_t hash = 1469598103934665603u;  // FNV-1a
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    char digits[17];
    std::snprintf(digits, sizeof digits, "%08x", static_cast<unsigned>(hash ^ hash >> 32));
    return name + '_' + digits;
  }
};

/// A way to train: its key, what figures call it, and its options.
struct Algorithm {
  std::string key, label;
  Settings settings;
  bool follows_length = false;  ///< its steps are those of the contour's length, as the paper's RBP and C-RBP
};

/// An experiment's size.
struct Plan {
  std::string size;
  std::array<Index, 3> lengths{};      ///< of short, medium and long contours, in dashes
  std::array<int, 3> settled_steps{};  ///< of RBP and C-RBP at these lengths
  /// What accuracy trains, and the places of the lengths that it trains on.
  std::vector<std::string> accuracy_algorithms{"crbp", "crbp_released", "cbptt", "bptt", "rbp", "feed_forward"};
  std::vector<std::size_t> accuracy_lengths{0, 1, 2};
  int unrolled_steps = 6;              ///< of BPTT and C-BPTT
  Settings base;                       ///< of all cells
  std::array<Settings, 3> lessons;     ///< of cells trained at these lengths
  Settings settling;                   ///< of the C-RBP that does not collapse
  std::vector<std::uint64_t> seeds{1, 2, 3};
  Index test_images = 0;
  std::vector<Index> kernels;  ///< of the study of kernels, each with the steps below
  std::vector<int> kernel_steps;

  std::filesystem::path output;
  int jobs = 1;
  bool list_only = false;  ///< write the cells' configurations, and train nothing
  std::function<std::unique_ptr<Segmentation>(const SegmentationOptions&)> make_net;

  /// The paper's algorithms, and C-RBP as this library recommends it.
  std::vector<Algorithm> algorithms() const {
    const std::string unrolled = "algorithm.steps=" + std::to_string(unrolled_steps);
    const Settings released{"algorithm.adjoint=released", "algorithm.products=15", "algorithm.adjoint_state=first_part",
                            "algorithm.two_sided=false"};
    return {
        {"crbp", "C-RBP", Settings{"algorithm.kind=crbp"} + settling, true},
        {"crbp_released", "C-RBP, released", Settings{"algorithm.kind=crbp"} + released, true},
        {"cbptt", "C-BPTT", {"algorithm.kind=cbptt", unrolled, "algorithm.two_sided=false"}},
        {"bptt", "BPTT", {"algorithm.kind=bptt", unrolled}},
        {"rbp", "RBP", Settings{"algorithm.kind=rbp"} + released, true},
        {"feed_forward", "6-layer CNN", {"model.kind=feed_forward"}},
    };
  }

  Algorithm algorithm(const std::string& key) const {
    for (const Algorithm& a : algorithms())
      if (a.key == key) return a;
    fail("experiment", "there is no algorithm ", key);
  }

  /// The training of an algorithm on contours of lengths[length], with further settings. Equal options
  /// make equal cells, whichever experiment asks for them.
  Cell cell(const Algorithm& algorithm, std::size_t length, std::uint64_t seed, const Settings& more = {}) const {
    Cell out{algorithm.key + '_' + std::to_string(lengths[length]) + "_seed" + std::to_string(seed), {}};
    Settings all = base;
    all.push_back("data.contour_length=" + std::to_string(lengths[length]));
    if (algorithm.follows_length) all.push_back("algorithm.steps=" + std::to_string(settled_steps[length]));
    all = all + lessons[length] + algorithm.settings + Settings{"train.seed=" + std::to_string(seed)} + more;
    Config config(out.options);
    for (const std::string& setting : all) config.set(setting);
    out.options.check();
    return out;
  }
};

/// The plan of a size: "tiny" (seconds, for tests), "small" (2 CPU cores), "overnight" (small, ten times as long) or
/// "paper". Throws UsageError for another name.
inline Plan plan_of(const std::string& size) {
  Plan out;
  out.size = size;
  if (size == "paper") {
    out.lengths = {14, 20, 25};
    out.settled_steps = {20, 30, 80};
    out.base = {"model.kernel=15",
                "model.orientations=12",
                "model.initialisation=released",
                "data.kind=pathfinder",
                "data.size=150",
                "data.distractors=15",
                "data.validation=640",
                "data.held_out=640",
                "evaluation.batch=128",
                "optimiser.rate=0.001",
                "train.batch=128",
                "train.steps=29680",
                "train.validate_every=100",
                "train.checkpoint_every=200"};
    out.settling = {"algorithm.adjoint=auto", "algorithm.products=15", "algorithm.settle_from=0.6",
                    "algorithm.more_steps=60"};
    out.test_images = 640;
    out.kernels = {3, 5, 9, 15}, out.kernel_steps = {300, 100, 30, 20};
    return out;
  }
  const bool tiny = size == "tiny", overnight = size == "overnight";
  if (!tiny && size != "small" && !overnight)
    throw UsageError("[experiment] --size: expected tiny, small, overnight or paper, got " + size);
  const int steps = tiny ? 800 : overnight ? 7000 : 700;
  out.lengths = {3, 6, 9};
  out.settled_steps = {10, 14, 18};
  if (overnight) {  // what 700 steps do not tell apart
    out.accuracy_algorithms = {"crbp", "crbp_released", "bptt", "rbp", "feed_forward"};
    out.accuracy_lengths = {2};
  }
  out.unrolled_steps = 6;
  out.base = {"model.kernel=5",
              "model.orientations=4",
              "model.norm_weight=1",
              "model.foreground=0.05",
              "model.unit_stem=true",
              "algorithm.lambda=0.9",
              "algorithm.penalty_weight=10",
              "data.kind=pathfinder",
              "data.size=32",
              "data.window=112",
              "data.distractors=3",
              "data.distractor_length=3",
              "data.thickness=3",
              "data.flip=both",
              "data.deviation=[0.6667]",
              "data.count=2048",
              "data.validation=64",
              "data.held_out=0",
              "evaluation.batch=4",
              "optimiser.rate=0.02",
              "optimiser.beta2=0.99",
              "schedule.kind=cosine",
              "schedule.final=0.02",
              "schedule.warm_up=20",
              "train.batch=4",
              "train.steps=" + std::to_string(steps),
              "train.validate_every=" + std::to_string(steps / 10),
              "train.checkpoint_every=" + std::to_string(steps / 5),
              "machine.threads=1"};
  out.lessons = {Settings{},
                 {"data.curriculum=[3]", "data.curriculum_share=0.3"},
                 {"data.curriculum=[3,6]", "data.curriculum_share=0.25"}};
  out.settling = {"algorithm.adjoint=neumann",    "algorithm.products=8",         "algorithm.adjoint_rtol=0.1",
                  "algorithm.two_sided=true",     "algorithm.settle_from=0.7",    "algorithm.more_steps=30",
                  "algorithm.settle_damping=0.3", "algorithm.movement_weight=0.6"};
  out.test_images = tiny ? 32 : 64;
  out.kernels = {3, 5, 7}, out.kernel_steps = {20, 10, 8};
  if (tiny) {
    out.lengths = {2, 3, 4}, out.settled_steps = {4, 5, 6}, out.unrolled_steps = 3, out.seeds = {1};
    out.base = out.base + Settings{"model.kernel=3",     "model.orientations=2", "data.size=16",     "data.window=96",
                                   "data.distractors=0", "data.count=64",        "data.validation=8"};
    out.lessons = {};
    out.settling = out.settling + Settings{"algorithm.more_steps=6"};
  }
  return out;
}

}  // namespace settle::experiments
