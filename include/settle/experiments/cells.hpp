#pragma once
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "settle/experiments/plan.hpp"
#include "settle/train/exit_codes.hpp"

// Trainings, each in a folder of its own: what is done is not done again.
namespace settle::inline v0_2::experiments {

/// How many steps a net has seen in training at most: what "three times the training steps" are three times of.
inline int training_steps(const SegmentationOptions& options) {
  return options.algorithm.steps + (options.algorithm.settle_from < 1 ? options.algorithm.more_steps : 0);
}

/// The test images of a plan with contours of a length, which no training and no choice of checkpoint has seen.
inline DataSet test_images(const Plan& plan, const SegmentationOptions& trained, Index contour_length) {
  SegmentationOptions options = trained;
  options.data.contour_length = contour_length;
  options.data.curriculum.clear();
  options.data.held_out = plan.test_images;
  options.train.seed = 77777;  // the same images for nets of all seeds
  return open_data(options).held_out;
}

/// A net's IoU and relative residual after each step, on images with contours of one length.
inline Json step_profile(Segmentation& net, const SegmentationOptions& options, const DataSet& data, int steps) {
  std::vector<ConfusionMatrix> counts;
  std::vector<double> residuals;
  Loader<> batches(data, {.batch = options.evaluation_batch,
                          .shuffle = false,
                          .endless = false,
                          .transforms = evaluation_transforms(options)});
  int parts = 0;
  while (!batches.done()) {
    const Batch batch = batches.next();
    ++parts;
    net.follow(batch.image, steps, [&](const StepShown& shown) {
      const auto k = static_cast<std::size_t>(shown.step - 1);
      if (counts.size() <= k) counts.emplace_back(options.classes()), residuals.push_back(0);
      counts[k].add(shown.logits, batch.target);
      residuals[k] += shown.residual;
    });
  }
  Json out{{"iou", Json::array()}, {"f1", Json::array()}, {"accuracy", Json::array()}, {"residual", Json::array()}};
  for (std::size_t k = 0; k < counts.size(); ++k) {
    out["iou"].push_back(counts[k].iou()), out["f1"].push_back(counts[k].f1());
    out["accuracy"].push_back(counts[k].accuracy());
    out["residual"].push_back(residuals[k] / parts);
  }
  return out;
}

/// How the validations of a training went: the best one, the last one, and whether the training collapsed late, that
/// is, ended (or was found at any validation after the best one) a quarter below its best F1.
inline Json validation_course(const std::filesystem::path& metrics) {
  std::ifstream file(metrics);
  std::vector<double> scores, steps;
  for (std::string line; std::getline(file, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_discarded() || !json.contains("validation")) continue;
    scores.push_back(json["validation"]["f1"].get<double>());
    steps.push_back(json["step"].get<double>());
  }
  Json out{{"steps", steps}, {"f1", scores}};
  if (scores.empty()) return out;
  const auto best = std::max_element(scores.begin(), scores.end());
  const double lowest_after = *std::min_element(best, scores.end());
  out["best"] = *best, out["last"] = scores.back();
  out["collapsed"] = lowest_after < 0.75 * *best;
  out["ended_collapsed"] = scores.back() < 0.75 * *best;
  return out;
}

/// Trains the cell of a folder, which has its config.json, from its last checkpoint on, and measures it: done.json has
/// the summary, the course of the validations, and the profile of the best checkpoint over steps, on the length that it
/// was trained on, or on all of the plan's where that is the shortest. A training that diverges is a result too.
inline ExitCode train_cell(const Plan& plan, const std::filesystem::path& path) {
  if (std::filesystem::exists(path / "done.json")) return ExitCode::done;
  SegmentationOptions options;
  Config(options).read(read_json(path / "config.json"), (path / "config.json").string());
  ThreadPool::instance().resize(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  const auto folder = std::make_shared<RunFolder>(path);
  const auto net = plan.make_net(options);
  const SegmentationData data = open_data(options);
  Json summary{{"config", Config(options).json()}, {"parameters", net->parameter_count()}};
  try {
    if (net->train(data, folder, true, summary) == TrainingEnd::preempted) return ExitCode::preempted;
  } catch (const Diverged& error) {
    summary["end"] = "diverged";
    summary["error"] = error.what();
    const auto best = folder->checkpoint("best");
    net->load(std::filesystem::exists(best) ? best : folder->checkpoint("last"));
  }
  summary["validations"] = validation_course(folder->metrics());
  const int steps = 4 * training_steps(options);
  Json profiles = Json::object();
  for (const Index length : plan.lengths)
    if (length == options.data.contour_length || options.data.contour_length == plan.lengths.front())
      profiles[std::to_string(length)] = step_profile(*net, options, test_images(plan, options, length), steps);
  summary["profiles"] = profiles;
  write_json(path / "done.json", summary);
  return ExitCode::done;
}

/// A cell that is done.
struct DoneCell {
  Cell cell;
  std::filesystem::path folder;
  Json summary;

  int steps() const { return training_steps(cell.options); }
  /// A number of its profile at a step from 1 on; a net without recurrence has one for all steps.
  double at(const char* what, Index length, int step) const {
    const Json& values = summary["profiles"][std::to_string(length)][what];
    const auto k = std::min(static_cast<std::size_t>(step), values.size()) - 1;
    return values[k].get<double>();
  }
  bool collapsed() const { return summary["end"] == "diverged" || summary["validations"].value("collapsed", false); }
};

/// The net of a cell that is done, at its best checkpoint.
inline std::unique_ptr<Segmentation> net_of(const Plan& plan, const DoneCell& done) {
  auto net = plan.make_net(done.cell.options);
  const auto checkpoint = [&](const char* name) { return done.folder / "checkpoints" / name; };
  const bool has_best = std::filesystem::exists(checkpoint("best.safetensors"));
  net->load(checkpoint(has_best ? "best.safetensors" : "last.safetensors"));
  return net;
}

/// Runs this program with some arguments, several at a time, until all have ended. Throws Error where one fails. Once a
/// stop was asked for, it passes that on to those that run, and starts no more.
inline void run_processes(const std::vector<std::vector<std::string>>& commands, int at_once) {
  std::map<pid_t, std::size_t> running;
  std::size_t next = 0;
  std::string failed;
  bool told = false;
  while (next < commands.size() || !running.empty()) {
    if (StopSignals::asked() || !failed.empty()) next = commands.size();
    if (StopSignals::asked() && !told) {
      for (const auto& child : running) ::kill(child.first, SIGTERM);
      told = true;
    }
    if (next < commands.size() && static_cast<int>(running.size()) < at_once) {
      std::vector<std::string> words{"settle_experiment"};
      words.insert(words.end(), commands[next].begin(), commands[next].end());
      std::vector<char*> pointers;
      for (std::string& word : words) pointers.push_back(word.data());
      pointers.push_back(nullptr);
      pid_t child = 0;
      const int problem = ::posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, pointers.data(), environ);
      require(problem == 0, "experiment", "cannot start a training: ", std::strerror(problem));
      running[child] = next++;
      continue;
    }
    int status = 0;
    const pid_t ended = ::waitpid(-1, &status, WNOHANG);  // a signal does not interrupt one that waits
    if (ended <= 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    const auto found = running.find(ended);
    if (found == running.end()) continue;
    if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) && !StopSignals::asked())
      failed = commands[found->second].back();
    running.erase(found);
  }
  require(failed.empty(), "experiment", "the training in ", failed, " failed: what it said is above");
}

/// Stopped by a signal: the same command goes on.
class Stopped : public Error {
 public:
  using Error::Error;
};

/// Only the configurations were asked for.
class Listed : public Error {
 public:
  using Error::Error;
};

/// Trains the cells that are not done yet, `plan.jobs` at a time, each in a process of its own. Throws Stopped where it
/// was told to stop, and Listed where only the
/// configurations were asked for, once they are written.
inline std::vector<DoneCell> run_cells(const Plan& plan, const std::vector<Cell>& cells) {
  std::vector<DoneCell> out;
  std::vector<std::vector<std::string>> commands;
  std::set<std::string> known;
  for (const Cell& cell : cells) {
    const std::filesystem::path folder = plan.output / "cells" / cell.folder();
    out.push_back({cell, folder, {}});
    if (!known.insert(folder.string()).second || std::filesystem::exists(folder / "done.json")) continue;
    std::filesystem::create_directories(folder);
    SegmentationOptions options = cell.options;
    write_json(folder / "config.json", Config(options).json());
    if (plan.list_only) std::printf("%s\n", (folder / "config.json").c_str());
    commands.push_back({"--size", plan.size, "--train-cell", folder.string()});
  }
  if (plan.list_only) throw Listed("[experiment] the configurations are written");
  if (!commands.empty())
    std::printf("%zu trainings to do, %d at a time, in %s\n", commands.size(), plan.jobs,
                (plan.output / "cells").c_str());
  std::fflush(stdout);
  run_processes(commands, plan.jobs);
  for (DoneCell& done : out) {
    if (!std::filesystem::exists(done.folder / "done.json"))
      throw Stopped("[experiment] stopped: the same command goes on");
    done.summary = read_json(done.folder / "done.json");
  }
  return out;
}

}  // namespace settle::experiments
