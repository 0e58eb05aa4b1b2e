// The table of options that a program's configuration follows.
#include <doctest/doctest.h>

#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/train/panoptic_options.hpp"
#include "settle/train/segmentation_options.hpp"
#include "temporary_folder.hpp"

using namespace settle;

namespace {

struct Options {
  int count = 3;
  Index kernel = 5;
  std::uint64_t seed = 7;
  double rate = 0.1;
  bool fast = false;
  std::string kind = "a", path;
  std::vector<double> weights;
  std::vector<std::string> names{"x"};

  void each(auto&& visit) {
    visit("model.kind", kind, allowed::one_of({"a", "b"}), "a kind", OnResume::kept);
    visit("model.kernel", kernel, allowed::odd(), "a side", OnResume::kept);
    visit("train.count", count, allowed::between(1, 10), "a count");
    visit("train.rate", rate, allowed::above(0), "a rate");
    visit("train.seed", seed, allowed::at_least(0), "a seed", OnResume::kept);
    visit("train.fast", fast, allowed::anything(), "whether");
    visit("data.path", path, allowed::anything(), "a path");
    visit("data.weights", weights, allowed::at_least(0), "weights");
    visit("data.names", names, allowed::anything(), "names");
  }
};

/// The text of the UsageError that reading a configuration gives.
std::string refusal(const std::string& json) {
  Options options;
  Config config(options);
  try {
    config.read(Json::parse(json), "c.json");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string refusal_of_set(const std::string& assignment) {
  Options options;
  Config config(options);
  return error_of([&] { config.set(assignment); });
}

}  // namespace

TEST_CASE("a configuration is read, changed and written") {
  Options options;
  Config config(options);
  config.read(Json::parse(R"({"model": {"kernel": 7}, "train": {"rate": 1e-3, "count": 2.0, "fast": true},
                              "data": {"weights": [1, 0.5], "names": []}})"),
              "c.json");
  CHECK(options.kernel == 7);
  CHECK(options.count == 2);
  CHECK(options.rate == 1e-3);
  CHECK(options.fast);
  CHECK(options.kind == "a");
  CHECK(options.weights == std::vector<double>{1, 0.5});
  CHECK(options.names.empty());
  for (const char* text : {"model.kind=b", "train.rate=0.25", "data.path=/a/b=c", "train.fast=false",
                           "data.names=[\"u\", \"v\"]", "train.seed=18446744073709551615"})
    config.set(text);
  CHECK(options.kind == "b");
  CHECK(options.rate == 0.25);
  CHECK(options.path == "/a/b=c");
  CHECK_FALSE(options.fast);
  CHECK(options.names == std::vector<std::string>{"u", "v"});
  CHECK(options.seed == 18446744073709551615u);
  config.set("data.path=12");  // a text that looks like a number
  CHECK(options.path == "12");

  Options again;
  Config copy(again);
  copy.read(config.json(), "copy");
  CHECK(copy.json() == config.json());
  CHECK(config.json()["model"] == Json::parse(R"({"kind": "b", "kernel": 7})"));
}

TEST_CASE("unknown options are told with the nearest one") {
  CHECK(refusal(R"({"model": {"kernal": 3}})") ==
        "[config] c.json: there is no option model.kernal; did you mean model.kernel?");
  CHECK(refusal(R"({"rate": 3})") == "[config] c.json: there is no option rate; did you mean train.rate?");
  CHECK(refusal(R"({"trian": {"rate": 3}})") ==
        "[config] c.json: there is no option trian.rate; did you mean train.rate?");
  CHECK(refusal_of_set("data.paht=x") == "[config] --set: there is no option data.paht; did you mean data.path?");
  CHECK(refusal_of_set("train.fast") == "[config] --set train.fast: expected NAME=VALUE");
}

TEST_CASE("values of the wrong type or out of range are told with what was expected") {
  const auto check = [](const std::string& assignment, const std::string& expected) {
    CHECK(refusal_of_set(assignment) ==
          "[config] --set " + assignment.substr(0, assignment.find('=')) + ": " + expected);
  };
  check("model.kernel=4", "expected a whole number, odd, at least 1, got 4");
  check("model.kernel=-3", "expected a whole number, odd, at least 1, got -3");
  check("model.kernel=2.5", "expected a whole number, odd, at least 1, got 2.5");
  check("model.kernel=five", "expected a whole number, odd, at least 1, got \"five\"");
  check("model.kind=c", "expected a or b, got \"c\"");
  check("train.count=0", "expected a whole number, 1 to 10, got 0");
  check("train.count=11", "expected a whole number, 1 to 10, got 11");
  check("train.count=1e300", "expected a whole number, 1 to 10, got 1e+300");
  check("train.seed=-1", "expected a whole number, at least 0, got -1");
  check("train.rate=0", "expected a number, above 0, got 0");
  check("train.rate=-1", "expected a number, above 0, got -1");
  check("train.rate=nan", "expected a number, above 0, got \"nan\"");
  check("train.rate=1e999", "expected a number, above 0, got \"1e999\"");
  check("train.fast=1", "expected true or false, got 1");
  check("data.weights=3", "expected a list, [...], got 3");
  check("data.weights=[1, -1]", "expected a number, at least 0, got -1");
  check("data.names=[1]", "expected a text, got 1");
  CHECK(refusal(R"({"model": 3})") == "[config] c.json: expected an object, {...} for model, got 3");
  CHECK(refusal("[]") == "[config] c.json: expected an object, {...}, got []");
  CHECK(refusal(R"({"train": {"rate": null}})") == "[config] c.json: train.rate: expected a number, above 0, got null");
}

TEST_CASE("values that a program has set are checked as those that are read") {
  Options options;
  const Config config(options);
  config.check();
  const auto refusal = [&](auto& option, auto bad) {
    const auto before = std::exchange(option, bad);
    const std::string text = error_of([&] { config.check(); });
    option = before;
    return text;
  };
  CHECK(refusal(options.count, 0) == "[config] train.count: expected a whole number, 1 to 10, got 0");
  CHECK(refusal(options.kernel, 4) == "[config] model.kernel: expected a whole number, odd, at least 1, got 4");
  CHECK(refusal(options.kind, "c") == "[config] model.kind: expected a or b, got \"c\"");
  CHECK(refusal(options.weights, std::vector{1.0, -1.0}) ==
        "[config] data.weights: expected a number, at least 0, got -1.0");
  CHECK(refusal(options.rate, std::numeric_limits<double>::quiet_NaN()) ==
        "[config] train.rate: expected a number, above 0, got nan");
  CHECK(refusal(options.rate, std::numeric_limits<double>::infinity()) ==
        "[config] train.rate: expected a number, above 0, got inf");
  CHECK(refusal(options.seed, 18446744073709551615u) == "no error");
}

TEST_CASE("an option that was refused keeps its value") {
  Options options;
  Config config(options);
  CHECK_THROWS_AS(config.set("data.weights=[1, -1]"), UsageError);
  CHECK_THROWS_AS(config.set("train.count=99"), UsageError);
  CHECK(options.weights.empty());
  CHECK(options.count == 3);
}

TEST_CASE("what a run that goes on may not change is told") {
  Options before, after;
  Config kept(before), asked(after);
  asked.set("train.rate=0.5");
  CHECK(kept.kept_differences(asked).empty());
  asked.set("model.kernel=3"), asked.set("train.seed=8");
  CHECK(kept.kept_differences(asked) == "model.kernel is 5, not 3; train.seed is 7, not 8");
}

TEST_CASE("the help names each option with default, range and sentence") {
  Options options;
  const std::string help = Config(options).help();
  CHECK(contains(help, "  model.kernel = 5                  a side (odd, at least 1)\n"));
  CHECK(contains(help, "  model.kind = \"a\"                  a kind (a or b)\n"));
  CHECK(contains(help, "  data.names = [\"x\"]"));
}

TEST_CASE("a file that is no JSON is told with its name and place") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "c.json";
  write_bytes(path, "{\"a\": }");
  CHECK(contains(error_of([&] { read_json(path); }), path.string()));
  CHECK(contains(error_of([&] { read_json(path); }), "line 1, column 7"));
  CHECK(contains(error_of([&] { read_json(folder.path() / "none"); }), "cannot be opened: No such file"));
  CHECK(contains(error_of([&] { read_json(folder.path()); }), "expected a file, found a folder"));
}

TEST_CASE("the options of a segmentation: names are distinct, and what does not go together is refused") {
  SegmentationOptions options;
  Config config(options);
  std::set<std::string> names;
  for (const auto& option : config.options()) {
    CHECK(names.insert(option.name).second);
    CHECK_FALSE(option.help.empty());
  }
  CHECK(names.size() > 60);
  config.set("train.steps=1"), config.set("data.kind=pathfinder");
  options.check();
  const auto refused = [&](std::vector<std::string> changes) {
    SegmentationOptions copy = options;
    Config changed(copy);
    for (const std::string& change : changes) changed.set(change);
    return error_of([&] { copy.check(); });
  };
  CHECK(refused({}) == "no error");
  CHECK(contains(refused({"train.steps=0"}), "expected an end of the training"));
  CHECK(contains(refused({"data.kind=folder"}), "expected data.folder"));
  CHECK(contains(refused({"data.kind=bsds500", "data.folder=x", "data.resize=9"}), "expected data.resize 0"));
  CHECK(contains(refused({"data.kind=pathfinder_folder", "data.folder=x"}), "expected data.list"));
  CHECK(contains(refused({"data.least_scale=2"}), "expected data.least_scale of at most"));
  CHECK(contains(refused({"loss.class_weights=[1, 1, 1]"}), "each of the 2 classes"));
  CHECK(contains(refused({"data.mean=[1, 2]"}), "each of the 1 channels"));
  CHECK(contains(refused({"algorithm.kind=cbptt", "algorithm.penalty=spectral"}), "takes the penalty lcp only"));
  CHECK(contains(refused({"algorithm.steps=3", "algorithm.recorded=4"}), "algorithm.recorded of at most"));
  CHECK(contains(refused({"data.curriculum=[2]", "train.steps=0", "train.minutes=1"}), "an end by train.steps"));
  CHECK(contains(refused({"data.curriculum=[2, 3]", "data.curriculum_share=0.6"}), "more than the whole training"));
  CHECK(contains(refused({"algorithm.settle_from=0.5", "train.steps=0", "train.minutes=1"}), "algorithm.settle_from"));
  CHECK(contains(refused({"data.task=same_contour"}), "model.readout image go together"));
  CHECK(contains(refused({"optimiser.rate_factors=[\"conv\"]"}), "expected \"pattern=factor\", got \"conv\""));
  // What no solver takes.
  CHECK(refused({"algorithm.products=0"}) ==
        "[config] algorithm.products: expected at least 1 for algorithm.adjoint neumann, got 0");
  for (const std::string kind : {"auto", "gmres", "bicgstab", "normal_cg", "anderson", "phantom"})
    CHECK(contains(refused({"algorithm.products=0", "algorithm.adjoint=" + kind}), "for algorithm.adjoint " + kind));
  for (const std::string kind : {"terms", "checkpointed", "released"}) {
    CHECK(refused({"algorithm.products=0", "algorithm.adjoint=" + kind}) == "no error");
    CHECK(contains(refused({"algorithm.products=0", "algorithm.adjoint=" + kind, "algorithm.settle_from=0.5"}),
                   "algorithm.products"));
  }
  CHECK(refused({"algorithm.products=0", "algorithm.kind=bptt"}) == "no error");
  for (const char* setting : {"algorithm.stop=residual", "algorithm.forward=anderson"})
    CHECK(contains(refused({"algorithm.adjoint=checkpointed", setting}), "algorithm.adjoint checkpointed needs"));
  CHECK(refused({"algorithm.penalty=spectral", "algorithm.lambda=0"}) ==
        "[config] algorithm.penalty spectral: expected algorithm.lambda above 0, got 0");
  CHECK(refused({"algorithm.lambda=0"}) == "no error");
}

TEST_CASE("an adjoint may be solved no further than its state is worth") {
  namespace fp = fixed_point;
  SegmentationOptions options;
  Config config(options);
  const auto worth = [&] { return std::get<fp::Auto>(std::get<Rbp>(options.policy()).options.adjoint).worth; };
  config.set("algorithm.adjoint=auto");
  CHECK(worth() == 0);
  config.set("algorithm.worth=0.1");
  CHECK(worth() == 0.1);
  CHECK(contains(error_of([&] { config.set("algorithm.worth=-1"); }), "expected a number, at least 0, got -1"));
}

TEST_CASE("a training that settles takes other steps each time in its last part, damped and with a price on movement") {
  namespace fp = fixed_point;
  SegmentationOptions options;
  Config config(options);
  for (const char* setting :
       {"train.steps=100", "algorithm.steps=10", "algorithm.settle_from=0.6", "algorithm.more_steps=20",
        "algorithm.settle_damping=0.25", "algorithm.movement_weight=2"})
    config.set(setting);
  std::set<int> counts;
  for (Index step = 0; step < 100; ++step) {
    const auto [training, weight] = options.policy_at(step);
    const fp::Options& o = std::get<Rbp>(training).options;
    const int count = std::get<fp::Steps>(o.stop).count;
    if (step < 60) {
      CHECK(count == 10);
      CHECK(weight == options.algorithm.penalty_weight);
      CHECK(std::holds_alternative<fp::Lcp>(o.penalty));
    } else {
      counts.insert(count);
      CHECK(std::get<fp::Plain>(o.forward).damping == 0.25);
      CHECK(std::holds_alternative<fp::Movement>(o.penalty));
      CHECK(weight == doctest::Approx(2.0 * (count - 10) / 20));
    }
  }
  CHECK(counts.size() > 10);
  CHECK(*counts.begin() >= 10);
  CHECK(*counts.rbegin() <= 30);
  CHECK(options.test_damping() == 0.25);
  config.set("algorithm.settle_from=1");
  CHECK(options.test_damping() == 0);
}

TEST_CASE("the example configurations are those of these tables") {
  int panoptic = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SETTLE_SOURCE_DIR "/examples/configs")) {
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    const Json json = read_json(entry.path());
    if (json.contains("mask_head")) {
      ++panoptic;
      PanopticOptions options;
      Config(options).read(json, name);
      if (options.data.kind != "scenes") options.data.folder = "somewhere";
      CHECK(error_of([&] { options.check(); }) == "no error");
      continue;
    }
    SegmentationOptions options;
    Config(options).read(json, name);
    if (options.data.kind != "pathfinder") options.data.folder = "somewhere", options.data.list = "list";
    CHECK(error_of([&] { options.check(); }) == "no error");
  }
  CHECK(panoptic == 3);
}
