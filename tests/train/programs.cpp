// settle_train and the programs around it, as a user runs them: what they leave behind and how they end.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "child_program.hpp"
#include "errors.hpp"
#include "settle/io/json.hpp"
#include "settle/io/png.hpp"
#include "settle/io/safetensors.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// A training that takes a second.
const std::vector<std::string> tiny{"model.kernel=3",       "model.orientations=2",     "algorithm.steps=3",
                                    "algorithm.products=2", "data.kind=pathfinder",     "data.size=16",
                                    "data.window=96",       "data.contour_length=2",    "data.distractors=0",
                                    "data.count=10",        "data.validation=2",        "data.held_out=3",
                                    "train.batch=2",        "train.steps=12",           "train.validate_every=4",
                                    "optimiser.rate=0.01",  "train.checkpoint_every=1", "machine.threads=1"};

// The address sanitizer makes each run ten times as long.
#ifdef SETTLE_ADDRESS_SANITIZER
constexpr int usual_kills = 1;
const std::vector<std::string> longer{"train.steps=16", "train.checkpoint_every=3", "train.top_k=2"};
#else
constexpr int usual_kills = 3;
const std::vector<std::string> longer{"train.steps=60", "train.checkpoint_every=3", "train.top_k=2"};
#endif

fs::path program(const std::string& name) { return fs::path(SETTLE_PROGRAMS) / name; }

/// Whether the programs were built; says so where they were not.
bool built() {
  for (const char* name : {"settle_train", "settle_eval", "settle_predict", "settle_boundaries",
                           "settle_make_pathfinder", "settle_report"})
    if (!fs::exists(program(name))) {
      MESSAGE("SKIP: " << program(name).string() << " is not built");
      return false;
    }
  return true;
}

std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A folder for runs, with an empty configuration.
struct Place {
  TemporaryFolder folder;
  fs::path config = folder.path() / "config.json";
  Place() { write_bytes(config, "{}"); }
  fs::path run(const std::string& name = "run") const { return folder.path() / name; }

  std::vector<std::string> arguments(const fs::path& run, const std::vector<std::string>& set,
                                     const std::vector<std::string>& more = {}) const {
    std::vector<std::string> out{config.string(), "--output", run.string()};
    for (const auto& list : {tiny, set})
      for (const std::string& text : list) out.push_back("--set"), out.push_back(text);
    return joined(out, more);
  }

  /// Runs a program to its end; returns how it ended, and fills `said`.
  int end_of(const std::string& name, const std::vector<std::string>& arguments) {
    ChildProgram child(program(name), arguments, folder.path() / "said");
    const int status = child.wait();
    said = child.output();
    return status;
  }
  int train(const fs::path& run, const std::vector<std::string>& set = {}, const std::vector<std::string>& more = {}) {
    return end_of("settle_train", arguments(run, set, more));
  }

  std::string said;
};

std::map<std::string, std::vector<float>> tensors(const fs::path& run, const std::string& name = "last") {
  const auto file = read_safetensors(run / "checkpoints" / (name + ".safetensors"));
  std::map<std::string, std::vector<float>> out;
  for (const auto& key : file.names) {
    const auto tensor = file.get<float>(key);
    out[key].assign(tensor.values().begin(), tensor.values().end());
  }
  return out;
}

/// A run's metrics but for the time they took.
std::vector<Json> metrics(const fs::path& run) {
  std::vector<Json> out;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    out.push_back(Json::parse(line));
    for (const char* time : {"seconds", "products_share"}) out.back().erase(time);
  }
  return out;
}

/// Waits until a file is there, for at most a minute.
void wait_for(const fs::path& path) {
  for (int k = 0; k < 6000 && !fs::exists(path); ++k) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

/// A folder of `count` pictures of 24 x 20 with three classes, in colours: stripes of other brightness.
void make_pictures(const fs::path& root, int count) {
  fs::create_directories(root / "images"), fs::create_directories(root / "labels");
  for (int i = 0; i < count; ++i) {
    Image8 image = blank_image(24, 20, 3), mask = image;
    for (std::size_t k = 0; k < 480; ++k) {
      const std::size_t kind = (k % 20 / 4 + static_cast<std::size_t>(i)) % 3;
      mask.pixels[3 * k + kind] = 255;
      for (std::size_t c = 0; c < 3; ++c) image.pixels[3 * k + c] = static_cast<std::uint8_t>(60 * kind + 20 * c);
    }
    write_png(root / "images" / (std::to_string(i) + ".png"), image);
    write_png(root / "labels" / (std::to_string(i) + ".png"), mask);
  }
}

}  // namespace

TEST_CASE("settle_train leaves a run: configuration, metrics, summary, checkpoints; settle_eval gives its scores") {
  if (!built()) return;
  Place place;
  const fs::path run = place.run();
  CHECK(place.train(run, {"control.feed_forward=true"}) == 0);
  CAPTURE(place.said);
  const Json summary = read_json(run / "summary.json");
  for (const char* key : {"f1", "f1_at_3x_steps", "training_seconds", "validation_f1"})
    CHECK(summary.at(key).is_number());
  CHECK(summary["steps"] == 12);
  CHECK(summary["feedforward"]["f1"].is_number());
  CHECK(summary["held_out_images"] == 3);
  CHECK(read_json(run / "config.json")["model"]["orientations"] == 2);
  CHECK(metrics(run).size() == 15);
  CHECK(metrics(run)[0]["loss"].is_number());
  CHECK(metrics(run)[0]["radius"].is_number());
  CHECK(fs::exists(run / "feed_forward" / "checkpoints" / "best.safetensors"));
  CHECK(contains(place.said, "100 %  step 12"));
  CHECK(metrics(run)[0]["forward"] == "steps done");
  const Json held_out = read_json(run / "report" / "held_out.json");
  CHECK(held_out["profile"].size() == 12);  // four times the steps of training
  CHECK(held_out["profile"][2]["f1"] == summary["f1"]);
  CHECK(held_out["profile"][8]["f1"] == summary["f1_at_3x_steps"]);
  CHECK(held_out["samples"].size() == 3);
  CHECK(read_json(run / "report" / "training.json")["memory"]["tags"]["forward pass"].get<double>() > 0);
  CHECK(contains(bytes_of(run / "report.html"), "feed-forward"));
  CHECK(place.end_of("settle_report", {run.string(), (run / "feed_forward").string(), "--output",
                                       place.run("both.html").string()}) == 0);
  CHECK(contains(bytes_of(place.run("both.html")), "2 runs compared"));
  CHECK(place.end_of("settle_eval", {run.string()}) == 0);
  const Json scores = Json::parse(place.said);
  CHECK(scores.size() == 2);
  CHECK(scores[0]["f1"] == summary["f1"]);
  CHECK(scores[1]["f1"] == summary["f1_at_3x_steps"]);
  CHECK(scores[1]["steps"] == 9);
  CHECK(place.end_of("settle_eval", {run.string(), "--steps", "3", "--checkpoint", "last"}) == 0);
  CHECK(Json::parse(place.said).size() == 1);
}

TEST_CASE("each net and algorithm trains on a folder of pictures in three classes, and predicts") {
  if (!built()) return;
  Place place;
  const fs::path data = place.run("data");
  make_pictures(data, 5);
  const std::vector<std::string> folder{"data.kind=folder",  "data.folder=" + data.string(),
                                        "data.channels=3",   R"(data.classes=["#ff0000", "#00ff00", "#0000ff"])",
                                        "data.validation=1", "data.held_out=2",
                                        "data.crop=16",      "data.flip=both",
                                        "train.steps=3",     "train.validate_every=2"};
  int number = 0;
  for (const char* how :
       {"hgru crbp", "hgru rbp", "hgru bptt", "conv_lstm cbptt", "conv_lstm crbp", "feed_forward crbp"}) {
    CAPTURE(how);
    const std::string text = how;
    const std::size_t space = text.find(' ');
    const fs::path run = place.run(std::to_string(number));
    const std::string stride = number++ % 2 == 0 ? "1" : "3";  // of 20 pixels the last two are a window of their own
    CHECK(place.train(run, joined(folder, {"model.kind=" + text.substr(0, space), "model.stride=" + stride,
                                           "algorithm.kind=" + text.substr(space + 1)})) == 0);
    INFO(place.said);
    CHECK(read_json(run / "summary.json").at("f1").is_number());
    const fs::path predicted = place.run("predicted");
    CHECK(place.end_of("settle_predict", {"--run", run.string(), "--output", predicted.string(),
                                          (data / "images" / "4.png").string()}) == 0);
    const Image8 classes = read_png(predicted / "4_classes.png", 3);
    CHECK(classes.height == 24);
    CHECK(classes.width == 20);
    for (std::size_t k = 0; k < 480; ++k)
      CHECK(classes.pixels[3 * k] + classes.pixels[3 * k + 1] + classes.pixels[3 * k + 2] == 255);
  }
  CHECK(place.end_of("settle_predict", {"--run", place.run("0").string(), "nothere.png"}) == 3);
  CHECK(contains(place.said, "nothere.png"));
}

TEST_CASE("settle_train scores boundaries as settle_boundaries does") {
  if (!built()) return;
  Place place;
  const fs::path data = place.run("data");
  for (const auto& [part, count] : {std::pair{"train", 2}, {"val", 2}, {"test", 3}}) {
    fs::create_directories(data / "images" / part), fs::create_directories(data / "annotators" / part);
    for (int i = 0; i < count; ++i) {  // bright from a column on, where both annotators see a boundary
      Image8 image = blank_image(24, 20, 3), bits = blank_image(24, 20);
      for (std::size_t k = 0; k < 480; ++k) {
        const std::size_t edge = 6 + static_cast<std::size_t>(3 * i), x = k % 20;
        for (std::size_t c = 0; c < 3; ++c) image.pixels[3 * k + c] = x < edge ? 40 : 200;
        bits.pixels[k] = x == edge ? 3 : x + 2 == edge ? 1 : 0;
      }
      const std::string name = std::to_string(i) + ".png";
      write_png(data / "images" / part / name, image), write_png(data / "annotators" / part / name, bits);
    }
  }
  const std::vector<std::string> bsds{"data.kind=bsds500",      "data.folder=" + data.string(),
                                      "data.channels=3",        "data.consensus=0.6",
                                      "data.boundary_radius=1", "data.validation=1",
                                      "data.held_out=2",        "data.crop=16",
                                      "train.steps=3",          "train.validate_every=2"};
  CHECK(place.train(place.run(), bsds) == 0);
  INFO(place.said);
  const Json summary = read_json(place.run() / "summary.json");
  CHECK(summary.at("held_out_images") == 2);
  CHECK(place.end_of("settle_eval", {place.run().string(), "--steps", "3"}) == 0);
  CHECK(Json::parse(place.said)[0].at("ods") == summary.at("ods"));
  // The same by way of files: test's last two images.
  const fs::path predicted = place.run("predicted"), annotators = place.run("annotators");
  fs::create_directories(annotators);
  std::vector<std::string> predict{"--run", place.run().string(), "--output", predicted.string(), "--boundaries"};
  for (const std::string name : {"1.png", "2.png"}) {
    predict.push_back((data / "images/test" / name).string());
    fs::copy(data / "annotators/test" / name, annotators / name);
  }
  CHECK(place.end_of("settle_predict", predict) == 0);
  CHECK(place.end_of("settle_boundaries",
                     {predicted.string(), annotators.string(), "--suffix", "_boundaries", "--json"}) == 0);
  const Json scored = Json::parse(place.said.substr(place.said.find('{'), place.said.rfind('}') + 1));
  for (const char* figure : {"ods", "ois", "ap"}) CHECK(scored.at(figure) == summary.at(figure));
  CHECK(scored.at("images") == 2);
  CHECK(place.end_of("settle_boundaries", {predicted.string(), annotators.string()}) == 3);
  CHECK(contains(place.said, "1.png: there is no such file"));
  CHECK(place.train(place.run("more"), joined(bsds, {"data.held_out=4"})) == 3);
  CHECK(contains(place.said, "found 3"));
  fs::remove(data / "annotators/val/1.png");
  CHECK(place.train(place.run("missing"), bsds) == 3);
  CHECK(contains(place.said, "there are no annotators of this name"));
}

TEST_CASE("settle_make_pathfinder writes what settle_train reads") {
  if (!built()) return;
  Place place;
  const fs::path data = place.run("data");
  CHECK(place.end_of("settle_make_pathfinder", {"--output", data.string(), "--images", "6", "--size", "16", "--window",
                                                "96", "--contour-length", "2", "--distractors", "0"}) == 0);
  CHECK(place.train(place.run(), {"data.kind=pathfinder_folder", "data.folder=" + data.string(),
                                  "data.list=" + (data / "list.txt").string(), "data.validation=1", "data.held_out=1",
                                  "train.steps=2"}) == 0);
  CAPTURE(place.said);
  CHECK(read_json(place.run() / "summary.json").at("steps") == 2);
}

TEST_CASE("the program of docs/tutorial.md trains on a folder, goes on, and ends with a report") {
  if (!fs::exists(program("tutorial"))) {
    MESSAGE("SKIP: " << program("tutorial").string() << " is not built");
    return;
  }
  Place place;
  make_pictures(place.run("data"), 5);
  const auto end = [&](const std::string& steps) {
    return place.end_of(
        "tutorial", {place.run("data").string(), place.run().string(), steps, "#ff0000", "#00ff00", "#0000ff"});
  };
  CHECK(end("1") == 0);
  CHECK(end("2") == 0);
  CAPTURE(place.said);
  CHECK(contains(place.said, "step 2"));
  CHECK(read_json(place.run() / "summary.json").at("f1_at_3x_steps").is_number());
  CHECK(read_json(place.run() / "report" / "held_out.json").at("profile").size() == 40);
  CHECK(contains(bytes_of(place.run() / "report.html"), "F1, held out"));
  CHECK(place.end_of("tutorial", {place.run("data").string()}) == 2);
}

TEST_CASE("mistakes in the command line or the configuration end with 2, and leave nothing") {
  if (!built()) return;
  Place place;
  const auto refused = [&](const std::vector<std::string>& set, const std::string& text) {
    CHECK(place.train(place.run("none"), set) == 2);
    CAPTURE(place.said);
    CHECK(contains(place.said, text));
    CHECK_FALSE(fs::exists(place.run("none")));
  };
  refused({"model.kernal=3"}, "did you mean model.kernel?");
  refused({"model.kernel=4"}, "--set model.kernel: expected a whole number, odd, at least 1, got 4");
  refused({"optimiser.rate=-1"}, "--set optimiser.rate: expected a number, above 0, got -1");
  refused({"algorithm.lambda=-1"}, "--set algorithm.lambda: expected a number, at least 0, got -1");
  refused({"train.steps=0"}, "expected an end of the training");
  write_bytes(place.config, "{");
  refused({}, place.config.string());
  write_bytes(place.config, R"({"train": {"epoch": 3}})");
  refused({}, "config.json: there is no option train.epoch; did you mean train.epochs?");
  CHECK(place.end_of("settle_train", {"--output", place.run("none").string()}) == 2);
  CHECK(place.end_of("settle_train", {place.config.string()}) == 2);
  CHECK(place.end_of("settle_train", {"--no-such-option"}) == 2);
  CHECK(place.end_of("settle_train", {"--help"}) == 0);
  CHECK(contains(place.said, "data.held_out = 0"));
  CHECK(place.end_of("settle_eval", {place.run("none").string()}) == 2);
}

TEST_CASE("a run is not lost to another one, and goes on only as itself") {
  if (!built()) return;
  Place place;
  const fs::path run = place.run();
  CHECK(place.train(run, {"train.steps=2"}) == 0);
  const auto before = tensors(run);
  const std::string config = bytes_of(run / "config.json");
  CHECK(place.train(run, {"train.steps=2"}) == 2);
  CHECK(contains(place.said, "holds a training: go on with it (--resume), or choose another folder"));
  CHECK(place.train(run, {"model.orientations=3", "train.batch=1"}, {"--resume"}) == 2);
  CHECK(contains(place.said, "has other options: model.orientations is 2, not 3; train.batch is 2, not 1"));
  CHECK(tensors(run) == before);
  CHECK(bytes_of(run / "config.json") == config);
  CHECK(place.end_of("settle_train", {"--resume", "--output", run.string(), "--set", "train.steps=12"}) == 0);
  CHECK(place.train(place.run("whole")) == 0);
  CHECK(tensors(run) == tensors(place.run("whole")));
}

TEST_CASE("data that cannot be read ends with 3 and its name") {
  if (!built()) return;
  Place place;
  const fs::path data = place.run("data");
  const std::vector<std::string> folder{"data.kind=folder",  "data.folder=" + data.string(),
                                        "data.channels=3",   R"(data.classes=["#ff0000", "#00ff00", "#0000ff"])",
                                        "data.validation=0", "data.held_out=1"};
  CHECK(place.train(place.run("a"), folder) == 3);
  CHECK(contains(place.said, (data / "images").string() + ": cannot be opened"));
  make_pictures(data, 4);
  write_bytes(data / "images" / "1.png", bytes_of(data / "images" / "1.png").substr(0, 60));
  CHECK(place.train(place.run("a"), folder) == 3);  // the run that failed left nothing that is in the way
  CHECK(contains(place.said, "images/1.png: damaged PNG"));
  CHECK(place.train(place.run("a"), joined(folder, {"data.on_corrupt=skip"})) == 0);
  CHECK(contains(place.said, "skipped: [read_png] " + (data / "images" / "1.png").string()));
  CHECK(read_json(place.run("a") / "summary.json").at("skipped_images") == 1);
  CHECK(place.train(place.run("b"), joined(folder, {"data.held_out=9"})) == 3);
  CHECK(contains(place.said, "expected more images than the 0 for validation and the 9 held out, found 4"));
}

TEST_CASE("a rate of 1e30 ends with 4, and the run goes on from its healthy checkpoint with another rate") {
  if (!built()) return;
  Place place;
  CHECK(place.train(place.run(), {"optimiser.rate=1e30"}) == 4);
  CAPTURE(place.said);
  CHECK(contains(place.said, "is not finite"));
  CHECK(contains(place.said, "The last healthy checkpoint is " + (place.run() / "checkpoints").string()));
  for (const auto& [name, values] : tensors(place.run()))
    for (const float value : values) CHECK(std::abs(value) < 1e6f);
  CHECK(place.train(place.run(), {"optimiser.rate=1e30"}, {"--resume"}) == 4);
  CHECK(place.train(place.run(), {}, {"--resume"}) == 0);
  CHECK(place.train(place.run("whole")) == 0);
  CHECK(tensors(place.run()) == tensors(place.run("whole")));
}

TEST_CASE("SIGTERM and SIGINT end with 75 after a step, and the run goes on to the same bits") {
  if (!built()) return;
  Place place;
  CHECK(place.train(place.run("whole"), longer) == 0);
  for (const int signal : {SIGTERM, SIGINT}) {
    const fs::path run = place.run(std::to_string(signal));
    {
      ChildProgram child(program("settle_train"), place.arguments(run, longer), place.run("said"));
      wait_for(run / "checkpoints" / "last.safetensors");
      child.signal(signal);
      const int status = child.wait();
      CAPTURE(child.output());
      if (status != 0) CHECK(status == 75);  // on a machine that is fast enough it may be done
      if (status == 75) CHECK(contains(child.output(), "stopped; --resume goes on"));
    }
    CHECK(place.train(run, longer, {"--resume"}) == 0);
    CHECK(tensors(run) == tensors(place.run("whole")));
    CHECK(tensors(run, "best") == tensors(place.run("whole"), "best"));
    CHECK(metrics(run) == metrics(place.run("whole")));
  }
}

TEST_CASE("a run that is killed at any moment goes on to the same bits") {
  if (!built()) return;
  Place place;
  const auto start = std::chrono::steady_clock::now();
  CHECK(place.train(place.run("whole"), longer) == 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const char* asked = std::getenv("SETTLE_TEST_KILLS");
  const int kills = asked ? std::atoi(asked) : usual_kills;
  const fs::path run = place.run();
  Random random(static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
  int killed = 0;
  while (killed < kills) {
    fs::remove_all(run);
    for (int status = -1; status != 0;) {
      ChildProgram child(program("settle_train"), place.arguments(run, longer, {"--resume"}), place.run("said"));
      std::this_thread::sleep_for(std::chrono::duration<double>(random.uniform(0, seconds)));
      if (killed < kills) child.signal(SIGKILL);
      status = child.wait();
      CAPTURE(child.output());
      if (status == 128 + SIGKILL)
        ++killed;
      else
        REQUIRE(status == 0);
    }
    CHECK(tensors(run) == tensors(place.run("whole")));
    CHECK(tensors(run, "best") == tensors(place.run("whole"), "best"));
    CHECK(metrics(run) == metrics(place.run("whole")));
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
      names.insert(entry.path().filename().string());
    CHECK(names.size() == 4);
  }
}

TEST_CASE("a full disk ends with 1, keeps the last good checkpoint, and the run goes on when there is room") {
  if (!built()) return;
  Place place;
  // The first checkpoint has no moments yet: it fits where later ones do not.
  const std::string limited = "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\"";
  ChildProgram child("/bin/sh",
                     joined({"-c", limited, program("settle_train").string()}, place.arguments(place.run(), {})),
                     place.run("said"));
  CHECK(child.wait() == 1);
  CAPTURE(child.output());
  CHECK(contains(child.output(), "last.safetensors: cannot be written: File too large"));
  for (const auto& entry : fs::directory_iterator(place.run() / "checkpoints"))
    CHECK(entry.path().filename() == "last.safetensors");  // no part of another
  CHECK(place.train(place.run(), {}, {"--resume"}) == 0);
  CHECK(place.train(place.run("whole")) == 0);
  CHECK(tensors(place.run()) == tensors(place.run("whole")));
}

TEST_CASE("a second trainer in a run's folder ends with 1, and does no harm") {
  if (!built()) return;
  Place place;
  ChildProgram child(program("settle_train"), place.arguments(place.run(), {"train.steps=1000000"}),
                     place.run("said1"));
  wait_for(place.run() / "checkpoints" / "last.safetensors");
  CHECK(place.train(place.run(), {"train.steps=1000000"}, {"--resume"}) == 1);
  CHECK(contains(place.said, place.run().string() + ": another process trains in this folder"));
  child.signal(SIGTERM);
  CHECK(child.wait() == 75);
}
