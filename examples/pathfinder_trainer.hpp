#pragma once
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "common.hpp"
#include "settle/io/modules.hpp"

// Training on Pathfinder that can be stopped, and goes on from its checkpoint as if it had not been.

/// What a training run is: two runs of the same options give the same numbers. The defaults are the paper's run on
/// Pathfinder-14 (`steps` 6 for bptt and cbptt there).
struct TrainingOptions {
  std::string algorithm = "crbp";
  settle::Index kernel = 15, orientations = 12, batch = 128;
  int steps = 20, terms = 15;
  double rate = 1e-3, penalty_weight = 10, lambda = 0.9;
  std::uint64_t seed = 1;
  settle::Index size = 150, window = 0, contour_length = 14, distractors = 15;
  settle::Index validate_every = 100, validation_images = 640;

  /// Calls visit(name, value) for each.
  void each(auto&& visit) {
    visit("algorithm", algorithm), visit("kernel", kernel), visit("orientations", orientations), visit("batch", batch);
    visit("steps", steps), visit("terms", terms), visit("rate", rate), visit("penalty-weight", penalty_weight);
    visit("lambda", lambda), visit("seed", seed), visit("size", size), visit("window", window);
    visit("contour-length", contour_length), visit("distractors", distractors);
    visit("validate-every", validate_every), visit("validation-images", validation_images);
  }

  /// The options by name, as texts that read back to the same values.
  std::map<std::string, std::string> texts() const {
    std::map<std::string, std::string> out;
    TrainingOptions copy = *this;
    copy.each([&](const char* name, const auto& value) { out[name] = option_text(value); });
    return out;
  }

  void check() const {
    for (const settle::Index value : {batch, settle::Index{steps}, validate_every, validation_images})
      settle::require(value >= 1, "options", "expected a whole number of at least 1, got ", value);
    policy();
  }

  settle::Training policy() const {
    settle::fixed_point::Penalty penalty = settle::fixed_point::NoPenalty{};
    if (algorithm.starts_with('c')) penalty = settle::fixed_point::Lcp{.lambda = lambda};
    if (algorithm == "bptt" || algorithm == "cbptt") return settle::Bptt{.steps = steps, .penalty = penalty};
    settle::require(algorithm == "rbp" || algorithm == "crbp", "options",
                    "expected the algorithm crbp, rbp, cbptt or bptt, got ", algorithm);
    return settle::Rbp::released(steps, terms, penalty);
  }

  settle::PathfinderOptions task() const {
    return {.size = size,
            .window = window,
            .contour_length = contour_length,
            .distractors = distractors,
            .random_flips = true};
  }
};

/// Lines that are added to a file's end.
class LineFile {
 public:
  /// Keeps the first `bytes` of the file. Throws Error when it has fewer, or cannot be written.
  LineFile(const std::filesystem::path& path, std::uintmax_t bytes) : path_(path) {
    std::error_code missing;
    const std::uintmax_t found = std::filesystem::file_size(path, missing);
    settle::require((missing ? 0 : found) >= bytes, "train", path.string(), ": expected at least the ", bytes,
                    " bytes of the checkpoint's time, found ", missing ? 0 : found);
    if (!missing) std::filesystem::resize_file(path, bytes);
    file_.reset(std::fopen(path.c_str(), "ab"));
    settle::require(file_ != nullptr, "train", path.string(), " cannot be written");
  }

  void add(const Json& line) {
    const std::string bytes = line.dump() + '\n';
    settle::require(std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size(), "train", path_.string(),
                    " cannot be written");
  }

  /// Makes the lines safe on the disk. Returns the file's size.
  std::uintmax_t flush() {
    settle::require(std::fflush(file_.get()) == 0 && ::fsync(::fileno(file_.get())) == 0, "train", path_.string(),
                    " cannot be written");
    return std::filesystem::file_size(path_);
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// An hGRU in training on images that are made as it goes: image i is a function of the options and i, so that step k
/// sees the same batch in any run. Images from 2^40 on are held out. In its folder: checkpoint.safetensors, replaced as
/// a whole, and metrics.jsonl, a line for each step and each validation.
class PathfinderTrainer {
 public:
  /// A new training, or with `resume` the one of the folder's checkpoint: `given` are then those options that must be
  /// the checkpoint's, by name. Throws Error, and changes nothing in the folder, where a new training finds
  /// one there, and where a checkpoint is damaged, another program's, or of other options.
  PathfinderTrainer(const std::filesystem::path& folder, bool resume, const std::map<std::string, std::string>& given)
      : folder_(folder) {
    std::optional<settle::SafetensorsFile> saved;
    if (resume) {
      saved = settle::read_safetensors(checkpoint());
      settle::require(saved->metadata["program"] == program, "train", saved->path(),
                      ": expected a checkpoint of train_pathfinder, found another file");
    } else {
      for (const auto& path : {checkpoint(), metrics_path()})
        settle::require(!std::filesystem::exists(path), "train", path.string(),
                        " is there already: go on with that training (--resume), or choose another folder");
    }
    std::string differing;
    options_.each([&](const std::string& name, auto& value) {
      const auto wanted = given.find(name);
      if (wanted != given.end()) read_option("--" + name, wanted->second, value);
      if (!saved) return;
      const std::string asked = option_text(value);
      read_option(saved->path() + ": " + name, saved->metadata[name], value);
      const std::string found = option_text(value);
      if (wanted != given.end() && asked != found) differing += " " + name + " is " + found + ", not " + asked + ";";
    });
    settle::require(differing.empty(), "train", "the checkpoint in ", folder.string(),
                    " has other options:", differing);
    options_.check();
    policy_ = options_.policy();
    net_ = settle::hgru_net<float, Device>(
        {.kernel = options_.kernel, .orientations = options_.orientations, .seed = options_.seed});
    adam_.options.rate = options_.rate;
    std::uintmax_t metrics_bytes = 0;
    if (saved) {
      settle::load_module(*saved, "net.", net_);
      adam_.restore(settle::load_tensors<float, Device>(*saved, "adam."), net_);
      read_option(saved->path() + ": step", saved->metadata["step"], step_);
      read_option(saved->path() + ": seconds", saved->metadata["seconds"], seconds_before_);
      read_option(saved->path() + ": metrics_bytes", saved->metadata["metrics_bytes"], metrics_bytes);
    }
    pathfinder_.emplace(options_.task());
    std::filesystem::create_directories(folder);
    metrics_.emplace(metrics_path(), metrics_bytes);
    batches_.emplace([this, first = step_](settle::Index k) { return staged(images((first + k) * options_.batch)); });
  }
  PathfinderTrainer(const PathfinderTrainer&) = delete;
  PathfinderTrainer& operator=(const PathfinderTrainer&) = delete;

  const TrainingOptions& options() const { return options_; }
  settle::Index steps() const { return step_; }  ///< taken so far
  /// The time spent so far, that before the checkpoint included.
  double seconds() const { return seconds_before_ + seconds_since(start_); }
  std::filesystem::path checkpoint() const { return folder_ / "checkpoint.safetensors"; }
  std::filesystem::path metrics_path() const { return folder_ / "metrics.jsonl"; }

  /// One step, and the validation when its turn has come. Returns the step's loss. Throws Error when that is not
  /// finite.
  double step() {
    const TrainingStep done = training_step(net_, adam_, batches_->next(), policy_, options_.penalty_weight);
    settle::require(std::isfinite(done.loss), "train", "the loss is ", done.loss, " at step ", step_ + 1);
    Json line{{"step", ++step_}, {"loss", done.loss}, {"penalty", done.penalty}};
    if (done.report) line["residual"] = done.report->forward.relative.front();
    line["seconds"] = seconds();
    metrics_->add(line);
    if (step_ % options_.validate_every == 0) validate();
    return done.loss;
  }

  /// Scores on held-out images, means of batches as the paper's; the last validation's.
  const std::optional<settle::BatchMeanScores>& validation() const { return validation_; }

  /// Puts everything that the next step depends on into the folder.
  void save() {
    settle::SafetensorsWriter writer;
    writer.metadata = options_.texts();
    writer.metadata["program"] = program;
    writer.metadata["step"] = std::to_string(step_);
    writer.metadata["seconds"] = text("%.3f", seconds());
    writer.metadata["metrics_bytes"] = std::to_string(metrics_->flush());
    settle::add_module(writer, "net.", net_);
    settle::add_tensors(writer, "adam.", adam_.state());
    writer.write(checkpoint());
  }

 private:
  static constexpr const char* program = "settle train_pathfinder 1";
  static constexpr settle::Index held_out = settle::Index{1} << 40;

  settle::PathfinderBatch images(settle::Index first) const { return images(first, options_.batch); }
  settle::PathfinderBatch images(settle::Index first, settle::Index count) const {
    return pathfinder_->batch(options_.seed, static_cast<std::uint64_t>(first), count);
  }

  void validate() {
    if (held_out_.empty())
      for (settle::Index k = 0; k < options_.validation_images; k += options_.batch) {
        auto batch = images(held_out + k, std::min(options_.batch, options_.validation_images - k));
        batch.dashes = {};
        held_out_.push_back(std::move(batch));
      }
    validation_.emplace();
    for (const auto& batch : held_out_) {
      const settle::Var<float, Device> input(settle::to<Device>(batch.image));
      const auto logits = settle::predict(net_, input, options_.steps).value();
      validation_->add(settle::confusion(settle::to<settle::Cpu>(logits), batch.target));
    }
    metrics_->add({{"step", step_}, {"validation", scores(*validation_)}, {"seconds", seconds()}});
  }

  std::filesystem::path folder_;
  TrainingOptions options_;
  std::optional<settle::Pathfinder> pathfinder_;
  settle::Training policy_;
  settle::HgruNet<float, Device> net_;
  settle::Adam<float, Device> adam_;
  settle::Index step_ = 0;
  double seconds_before_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<settle::PathfinderBatch> held_out_;
  std::optional<settle::BatchMeanScores> validation_;
  std::optional<LineFile> metrics_;
  std::optional<settle::Prefetch<Staged>> batches_;  ///< the last member: it stops before what it reads ends
};
