// The training loop on a net of a user's own.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/nn/losses.hpp"
#include "settle/train/trainer.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// One convolution, and a buffer that counts the batches it has seen.
struct Net {
  Var<float> weight = Tensor<float>(Shape{2, 1, 3, 3}, 0.1f), bias = Tensor<float>(Shape{2, 1, 1}, {0.f, 0.5f});
  Var<float> batches = Tensor<float>(Shape{}, 0.f);

  Var<float> operator()(const Var<float>& x) const { return conv_same(x, weight) + bias; }
  void parameters(auto&& visit) { visit("conv.weight", weight), visit("bias", bias); }
  void buffers(auto&& visit) { visit("batches", batches); }
};

/// Noise, and whether it is above a half.
struct Noise {
  Index count = 20;
  Index size() const { return count; }
  Sample sample(Index i) const {
    Random random(9, static_cast<std::uint64_t>(i));
    Sample out{uniform<float>({1, 6, 6}, 0, 1, random), Tensor<float>({6, 6}), {}};
    for (Index k = 0; k < 36; ++k) out.target.mutable_data()[k] = out.image.data()[k] > 0.5f ? 1.f : 0.f;
    return out;
  }
};

/// The same, but for a sample whose image is not finite.
struct Poisoned : Noise {
  Index poisoned = -1;
  Sample sample(Index i) const {
    Sample out = Noise::sample(i);
    if (i == poisoned) out.image.mutable_data()[0] = std::numeric_limits<float>::quiet_NaN();
    return out;
  }
};

const auto loss = [](Net& model, const BatchOf<float>& batch) {
  model.batches = stop_gradient(model.batches) + 1.0;
  return cross_entropy(model(Var(batch.image)), batch.target);
};

TrainerOptions options_of(Index steps) {
  TrainerOptions out;
  out.batch = 3, out.steps = steps, out.optimiser.rate = 0.1, out.validate_every = 4, out.checkpoint_every = 5;
  return out;
}

/// A validation whose scores are given: by the step.
struct Scores {
  std::vector<double> values;
  std::size_t next = 0;
  Figures operator()(const Net&) { return {{"f1", values[next++ % values.size()]}}; }
};

/// Trains in a folder; returns how it ended, and the net.
template <class Prepare>
std::pair<TrainingEnd, Net> train(const TrainerOptions& options, const fs::path& folder, bool resume,
                                  const Prepare& prepare) {
  Net net;
  Trainer trainer(net, options, folder, resume);
  trainer.show_progress = false;
  trainer.transforms = {[](Sample& s, Random& random) {
    const auto noise = static_cast<float>(random.uniform(0, 0.1));
    for (Index k = 0; k < s.image.size(); ++k) s.image.mutable_data()[k] += noise;
  }};
  prepare(trainer);
  const TrainingEnd end = trainer.train(DataSet(Noise{}), loss);
  return {end, net};
}
std::pair<TrainingEnd, Net> train(const TrainerOptions& options, const fs::path& folder, bool resume = false) {
  return train(options, folder, resume, [](auto&) {});
}

/// Stops a trainer before its step `step`.
auto stopped_at(Index step) {
  return [step](auto& trainer) { trainer.stop_asked = [&trainer, step] { return trainer.step() >= step; }; };
}

/// The bits of every tensor in a checkpoint.
std::map<std::string, std::vector<float>> tensors(const fs::path& path) {
  const auto file = read_safetensors(path);
  std::map<std::string, std::vector<float>> out;
  for (const auto& name : file.names) {
    const auto tensor = file.get<float>(name);
    out[name].assign(tensor.values().begin(), tensor.values().end());
  }
  return out;
}
std::map<std::string, std::vector<float>> last(const fs::path& folder) {
  return tensors(folder / "checkpoints" / "last.safetensors");
}

/// A folder's metrics but for the time they took.
std::vector<Json> metrics(const fs::path& folder) {
  std::vector<Json> out;
  std::ifstream file(folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line); out.back().erase("seconds")) out.push_back(Json::parse(line));
  return out;
}

}  // namespace

TEST_CASE("a net is trained with a loss and nothing else") {
  Net net;
  TrainerOptions options = options_of(60);
  Trainer trainer(net, options);
  trainer.show_progress = false;
  std::vector<double> losses;
  const TrainingEnd end = trainer.train(DataSet(Noise{}), [&](Net& model, const auto& batch) {
    const auto value = cross_entropy(model(Var(batch.image)), batch.target);
    losses.push_back(static_cast<double>(value.item()));
    return value;
  });
  CHECK(end == TrainingEnd::budget);
  CHECK(trainer.step() == 60);
  CHECK(losses.back() < 0.5 * losses.front());
  CHECK_THROWS_WITH(trainer.load_best(), "[train] the best weights are kept in a run folder, and there is none");
}

TEST_CASE("options that the table of options refuses are refused from a program too") {
  const auto refusal = [](const TrainerOptions& options) {
    Net net;
    return error_of([&] { Trainer trainer(net, options); });
  };
  CHECK(refusal({.steps = 3}) == "no error");
  CHECK(refusal({.steps = 3, .validate_every = 0}) ==
        "[config] train.validate_every: expected a whole number, at least 1, got 0");
  CHECK(refusal({.steps = 3, .checkpoint_every = 0}) ==
        "[config] train.checkpoint_every: expected a whole number, at least 1, got 0");
  CHECK(refusal({.accumulate = 0, .steps = 3}) ==
        "[config] train.accumulate: expected a whole number, at least 1, got 0");
  CHECK(contains(refusal({.batch = 0, .steps = 3}), "train.batch"));
  CHECK(contains(refusal({.steps = -3}), "train.steps"));
  CHECK(contains(refusal({.steps = 3, .ema = 1}), "train.ema: expected a number, 0 to 0.999999, got 1"));
  CHECK(contains(refusal({.steps = 3, .workers = 0}), "train.workers"));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(refusal({.steps = 3, .clip = nan}) == "[config] train.clip: expected a number, at least 0, got nan");
  CHECK(contains(refusal({.steps = 3, .optimiser = {.kind = "adan"}}), "expected adam, adamw or sgd, got \"adan\""));
  CHECK(contains(refusal({.steps = 3, .optimiser = {.rate = -1}}), "optimiser.rate: expected a number, above 0"));
  CHECK(contains(refusal({.steps = 3, .optimiser = {.beta2 = 1}}), "optimiser.beta2"));
  CHECK(refusal({.steps = 3, .schedule = {.kind = "step", .period = 0}}) ==
        "[config] schedule.period: expected a whole number, at least 1, got 0");
  CHECK(contains(error_of([] { (void)ScheduleOptions{.kind = "step", .period = 0}.share(5, 0.5); }), "period >= 1"));
  Net net;
  Trainer trainer(net, {.steps = 3});
  trainer.show_progress = false, trainer.compare_every = 0;
  CHECK(error_of([&] { trainer.train(DataSet(Noise{}), loss); }) ==
        "[train] compare_every: expected at least 1, got 0");
  CHECK(trainer.step() == 0);
}

TEST_CASE("a training that was stopped goes on to the same bits, whatever the number of workers") {
  const TemporaryFolder folder;
  const fs::path whole = folder.path() / "whole", parts = folder.path() / "parts";
  for (const char* kind : {"adam", "adamw", "sgd"}) {
    CAPTURE(kind);
    TrainerOptions options = options_of(23);
    options.optimiser.kind = kind, options.optimiser.weight_decay = 0.01, options.ema = 0.9, options.accumulate = 2;
    options.schedule = {.kind = "cosine", .warm_up = 3, .final_rate = 0.1};
    options.clip = 1, options.top_k = 2;
    const auto validated = [](auto& trainer) {
      trainer.validate = [](const Net& net) {
        return Figures{{"score", static_cast<double>(net.bias.value().data()[0])}};
      };
    };
    fs::remove_all(whole), fs::remove_all(parts);
    CHECK(train(options, whole, false, validated).first == TrainingEnd::budget);
    for (const Index stop : {0, 1, 7, 12, 13, 23}) {
      options.workers = 1 + static_cast<int>(stop % 3);
      const auto end = train(options, parts, true, [&](auto& trainer) {
        validated(trainer);
        if (stop < 23) stopped_at(stop)(trainer);
      });
      CHECK(end.first == (stop < 23 ? TrainingEnd::preempted : TrainingEnd::budget));
    }
    CHECK(last(whole).size() >= 8);
    CHECK(last(parts) == last(whole));
    CHECK(last(whole).at("net.batches") == std::vector<float>{46});
    CHECK(metrics(parts) == metrics(whole));
    CHECK(metrics(whole).size() == 23 + 6);
    for (const char* name : {"best", "step_20", "step_23"})
      CHECK(tensors(parts / "checkpoints" / (std::string(name) + ".safetensors")) ==
            tensors(whole / "checkpoints" / (std::string(name) + ".safetensors")));
    const auto count = [](const fs::path& run) {
      const fs::directory_iterator files(run / "checkpoints");
      return std::distance(begin(files), end(files));
    };
    CHECK(count(whole) == 4);
    CHECK(count(parts) == 4);
  }
}

TEST_CASE("accumulated gradients are those of one larger batch") {
  Net once, parts;
  TrainerOptions options = options_of(5);
  options.batch = 6;
  Trainer large(once, options);
  options.batch = 2, options.accumulate = 3;
  Trainer small(parts, options);
  for (auto* trainer : {&large, &small}) {
    trainer->show_progress = false;
    trainer->train(DataSet(Noise{}), loss);
  }
  for (Index k = 0; k < 18; ++k)
    CHECK(once.weight.value().data()[k] == doctest::Approx(parts.weight.value().data()[k]).epsilon(1e-4));
  CHECK(parts.batches.item() == 15);
}

TEST_CASE("averaged weights are the mean of all states, the later ones counting more") {
  const TemporaryFolder folder;
  TrainerOptions options = options_of(3);
  options.ema = 0.75;
  train(options, folder.path());
  // By hand, from the weights of trainings of 1, 2, 3 steps.
  double expected = 0.5;  // the bias at the start
  for (Index steps = 1; steps <= 3; ++steps) {
    const TemporaryFolder other;
    const Net net = train(options_of(steps), other.path()).second;
    expected = 0.75 * expected + 0.25 * static_cast<double>(net.bias.value().data()[1]);
  }
  CHECK(last(folder.path()).at("ema.bias")[1] == doctest::Approx(expected).epsilon(1e-6));
  Net averaged;
  load_checkpoint(folder.path() / "checkpoints" / "last.safetensors", averaged);
  CHECK(averaged.bias.value().data()[1] == last(folder.path()).at("ema.bias")[1]);
}

TEST_CASE("the best states are kept, and training ends when none is better for long") {
  const TemporaryFolder folder;
  TrainerOptions options = options_of(1000);
  options.validate_every = 2, options.patience = 3, options.top_k = 2;
  const std::vector<double> scores{0.1, 0.5, 0.4, 0.7, 0.6, 0.7, 0.65, 0.9};
  Net net;
  Trainer trainer(net, options, folder.path());
  trainer.show_progress = false;
  trainer.validate = Scores{scores};
  CHECK(trainer.train(DataSet(Noise{}), loss) == TrainingEnd::early_stop);
  CHECK(trainer.step() == 14);
  CHECK(trainer.best_score() == 0.7);
  CHECK(trainer.best_step() == 8);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path() / "checkpoints"))
    names.insert(entry.path().filename().string());
  CHECK(names.contains("best.safetensors"));
  CHECK(names.contains("last.safetensors"));
  CHECK(names.size() == 4);
  const auto best = tensors(folder.path() / "checkpoints" / "best.safetensors");
  CHECK(best == tensors(folder.path() / "checkpoints" / "step_8.safetensors"));
  trainer.load_best();
  CHECK(net.bias.value().data()[0] == best.at("net.bias")[0]);
}

TEST_CASE("the best state is written again where a process was killed between the last checkpoint and the best one") {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run";
  TrainerOptions options = options_of(13);
  options.top_k = 1, options.checkpoint_every = 100;
  const auto scored = [](auto& trainer) {
    trainer.validate = [&trainer](const Net&) { return Figures{{"score", -static_cast<double>(trainer.step())}}; };
  };
  train(options, run, false, [&](auto& trainer) { scored(trainer), stopped_at(4)(trainer); });
  const auto best = last(run);
  for (const char* name : {"best", "step_4"}) {
    CHECK(tensors(run / "checkpoints" / (std::string(name) + ".safetensors")) == best);
    fs::remove(run / "checkpoints" / (std::string(name) + ".safetensors"));
  }
  train(options, run, true, scored);
  CHECK(last(run) != best);
  for (const char* name : {"best", "step_4"})
    CHECK(tensors(run / "checkpoints" / (std::string(name) + ".safetensors")) == best);
}

TEST_CASE("a training ends with its budget: steps, rounds through the data, or time") {
  Net net;
  TrainerOptions options = options_of(0);
  CHECK(contains(error_of([&] { Trainer(net, options); }), "expected an end of the training"));
  options.epochs = 2;
  Trainer rounds(net, options);
  rounds.show_progress = false;
  CHECK(rounds.train(DataSet(Noise{}), loss) == TrainingEnd::budget);
  CHECK(rounds.step() == 14);  // 14 batches of 3 are the first to hold 2 x 20 samples
  options.epochs = 0, options.minutes = 0.005;
  Trainer timed(net, options);
  timed.show_progress = false;
  CHECK(timed.train(DataSet(Noise{}), loss) == TrainingEnd::budget);
  CHECK(timed.seconds() >= 0.3);
  CHECK(timed.step() > 1);
}

TEST_CASE("the rate warms up and falls as its schedule says") {
  const TemporaryFolder folder;
  const auto rates = [&](const ScheduleOptions& schedule) {
    TrainerOptions options = options_of(8);
    options.schedule = schedule;
    const TemporaryFolder run;
    train(options, run.path());
    std::vector<double> out;
    for (const Json& line : metrics(run.path()))
      if (line.contains("rate")) out.push_back(line["rate"].get<double>() / 0.1);
    return out;
  };
  const auto check = [](const std::vector<double>& got, const std::vector<double>& expected) {
    REQUIRE(got.size() == expected.size());
    for (std::size_t k = 0; k < got.size(); ++k) CHECK(got[k] == doctest::Approx(expected[k]));
  };
  check(rates({}), {1, 1, 1, 1, 1, 1, 1, 1});
  check(rates({.kind = "linear", .final_rate = 0.2}), {1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3});
  check(rates({.warm_up = 4}), {0.25, 0.5, 0.75, 1, 1, 1, 1, 1});
  check(rates({.kind = "step", .period = 3, .factor = 0.5}), {1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25});
  check(rates({.kind = "step", .factor = 0.5, .milestones = {2, 5}}), {1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25});
  check(rates({.kind = "cosine", .final_rate = 0}), {1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5,
                                                     0.3086582838174552, 0.1464466094067263, 0.03806023374435663});
}

TEST_CASE("a rate that is far too large ends with what went wrong, and a checkpoint that can be gone on with") {
  const TemporaryFolder folder;
  TrainerOptions options = options_of(20);
  options.optimiser.rate = 1e38, options.checkpoint_every = 1;
  std::string text = error_of([&] { train(options, folder.path()); });
  CAPTURE(text);
  CHECK(contains(text, "[train] at step 2: the "));
  CHECK(contains(text, "not finite"));
  CHECK(contains(text,
                 "The last healthy checkpoint is " + (folder.path() / "checkpoints" / "last.safetensors").string()));
  CHECK(last(folder.path()).at("net.bias")[1] == 0.5f);  // of step 0
  CHECK_THROWS_AS(train(options, folder.path(), true), Diverged);
  options.optimiser.rate = 0.1;
  const auto [end, net] = train(options, folder.path(), true);
  CHECK(end == TrainingEnd::budget);
  const TemporaryFolder other;
  train(options, other.path());
  CHECK(last(folder.path()) == last(other.path()));  // as if nothing had happened
  CHECK(metrics(folder.path()) == metrics(other.path()));
}

TEST_CASE("a state of which no loss was seen is not saved: the last step of the budget is looked at too") {
  const TemporaryFolder folder;
  TrainerOptions options = options_of(1);
  options.optimiser.rate = 1e38;
  CHECK_THROWS_AS(train(options, folder.path()), Diverged);
  CHECK(last(folder.path()).at("net.bias")[1] == 0.5f);
}

TEST_CASE("what is not finite is named: an operation, a parameter, a gradient, the data") {
  const auto failure = [](auto make_loss, Index poisoned = -1, float bias = 0) {
    Net net;
    net.bias = Tensor<float>(Shape{2, 1, 1}, {bias, 0.f});
    TrainerOptions options = options_of(20);
    Trainer trainer(net, options);
    trainer.show_progress = false;
    return error_of([&] { trainer.train(DataSet(Poisoned{{}, poisoned}), make_loss); });
  };
  CHECK(contains(failure([](Net& model, const auto& batch) {
                   const auto logits = model(Var(batch.image));
                   const auto broken =
                       sum(map([](auto v) { return v; }, logits)) * std::numeric_limits<double>::infinity();
                   return broken - broken;
                 }),
                 "[train] at step 1: the loss is "));
  const std::string operation = failure([](Net& model, const auto& batch) {
    const auto logits = model(Var(batch.image));
    return mean(logsumexp(map([](auto v) { return log(v - 1000.); }, logits), {1}));
  });
  CAPTURE(operation);
  CHECK(contains(operation, "the first result that is not finite is that of "));
  CHECK(contains(operation, "(3, 2, 6, 6)"));
  CHECK(contains(failure(loss, -1, std::numeric_limits<float>::infinity()),
                 "at step 1: the parameter bias is not finite"));
  CHECK(contains(failure([](Net& model, const auto& batch) {
                   return mean(map([](auto v) { return sqrt(v - v); }, model(Var(batch.image)))) +
                          0.0 * sum(model.bias);
                 }),
                 "at step 1: the gradient of the parameter conv.weight is not finite"));
  CHECK(contains(failure(loss, 3), "the batch's images are not finite"));
}

TEST_CASE("two trainers do not share a folder") {
  const TemporaryFolder folder;
  Net net;
  const TrainerOptions options = options_of(3);
  Trainer first(net, options, folder.path());
  CHECK(contains(error_of([&] { Trainer(net, options, folder.path()); }),
                 folder.path().string() + ": another process trains in this folder"));
}

TEST_CASE("a checkpoint is not lost to a new training; without one a run may start again") {
  const TemporaryFolder folder;
  train(options_of(3), folder.path());
  const auto before = last(folder.path());
  CHECK(contains(error_of([&] { train(options_of(3), folder.path()); }), "last.safetensors is there already"));
  CHECK(last(folder.path()) == before);
  fs::remove(folder.path() / "checkpoints" / "last.safetensors");  // as after a failure in the first step
  CHECK(fs::file_size(folder.path() / "metrics.jsonl") > 0);
  for (const bool resume : {false, true}) {
    train(options_of(3), folder.path(), resume);
    CHECK(last(folder.path()) == before);
    CHECK(metrics(folder.path()).size() == 3);
    fs::remove(folder.path() / "checkpoints" / "last.safetensors");
  }
}

TEST_CASE("a damaged checkpoint is told, and the folder stays as it is") {
  const TemporaryFolder folder;
  train(options_of(6), folder.path());
  const fs::path path = folder.path() / "checkpoints" / "last.safetensors";
  const std::string good = bytes_of(path), lines = bytes_of(folder.path() / "metrics.jsonl");
  const auto refusal = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const std::string message = error_of([&] { train(options_of(9), folder.path(), true); });
    CHECK(bytes_of(path) == bytes);
    CHECK(bytes_of(folder.path() / "metrics.jsonl") == lines);
    return message;
  };
  CHECK(refusal(good.substr(0, good.size() - 10)) != "no error");
  CHECK(refusal(good.substr(0, 5)) != "no error");
  CHECK(refusal("") != "no error");
  for (const std::size_t place : {good.size() / 5, good.size() / 2, good.size() - 3}) {
    std::string flipped = good;
    flipped[place] = static_cast<char>(flipped[place] ^ 4);
    CHECK(contains(refusal(flipped), path.string()));
  }
  fs::resize_file(folder.path() / "metrics.jsonl", 10);
  write_bytes(path, good);
  CHECK(contains(error_of([&] { train(options_of(9), folder.path(), true); }), "expected at least the"));
  CHECK(fs::file_size(folder.path() / "metrics.jsonl") == 10);
}

TEST_CASE("a folder that goes away during a training is told") {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run";
  const std::string text = error_of([&] {
    train(options_of(20), run, false, [&](auto& trainer) {
      trainer.stop_asked = [&] {
        if (trainer.step() == 6) fs::remove_all(run);
        return false;
      };
    });
  });
  CHECK(contains(text, run.string()));
  CHECK(contains(text, "has been removed"));
}

TEST_CASE("a stop that was asked for before a training within a program that listens is not forgotten") {
  const StopSignals outer;
  CHECK_FALSE(StopSignals::asked());
  ::raise(SIGTERM);
  CHECK(StopSignals::asked());
  const TemporaryFolder folder;
  CHECK(train(options_of(3), folder.path()).first == TrainingEnd::preempted);
  CHECK(StopSignals::asked());
}
