// train_panoptic and predict_panoptic, as a user runs them: what they leave behind and how they end.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "child_program.hpp"
#include "errors.hpp"
#include "settle/data/panoptic_scenes.hpp"
#include "settle/io/coco_panoptic.hpp"
#include "settle/io/json.hpp"
#include "settle/io/safetensors.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

fs::path program(const std::string& name) { return fs::path(SETTLE_PROGRAMS) / name; }

/// Whether the programs were built; says so where they were not.
bool built() {
  if (too_slow_for_training()) return false;
  for (const char* name : {"train_panoptic", "predict_panoptic", "panoptic_eval"})
    if (!fs::exists(program(name))) {
      MESSAGE("SKIP: " << program(name).string() << " is not built");
      return false;
    }
  return true;
}

/// A folder for runs and data.
struct Place {
  TemporaryFolder folder;
  std::string said;
  fs::path operator/(const std::string& name) const { return folder.path() / name; }

  /// Runs a program to its end; returns how it ended, and fills `said`.
  int end_of(const std::string& name, const std::vector<std::string>& arguments) {
    ChildProgram child(program(name), arguments, folder.path() / "said");
    const int status = child.wait();
    said = child.output();
    return status;
  }
  /// A training of a few steps.
  int train(const std::string& run, const std::vector<std::string>& set, const std::vector<std::string>& more = {}) {
    write_bytes(*this / "config.json", R"({
      "mask_head": {"steps": 2, "products": 2}, "evaluation": {"least_stuff_area": 16},
      "data": {"size": 64, "validation_images": 2, "crowds": 0.5}, "machine": {"threads": 1},
      "optimiser": {"kind": "adamw", "rate": 1e-3, "no_decay": ["*norm*"]}, "schedule": {"warm_up": 3},
      "train": {"batch": 2, "steps": 4, "clip": 10, "validate_every": 2, "checkpoint_every": 1}})");
    std::vector<std::string> arguments{(*this / "config.json").string(), "--output", (*this / run).string()};
    for (const std::string& text : set) arguments.push_back("--set"), arguments.push_back(text);
    arguments.insert(arguments.end(), more.begin(), more.end());
    return end_of("train_panoptic", arguments);
  }

  /// A folder in COCO's format: data/panoptic_NAME.json, data/NAME, data/panoptic_NAME.
  void make_coco(const std::string& name, std::uint64_t first, Index count) {
    const fs::path data = *this / "data";
    fs::create_directories(data / name);
    const PanopticScenes scenes({.size = 64}, 7, first, count);
    CocoPanopticWriter writer(data / ("panoptic_" + name + ".json"), data / ("panoptic_" + name), scenes.categories());
    for (Index i = 0; i < count; ++i) {
      const PanopticSample scene = scenes.sample(i);
      const std::string file = std::to_string(i) + ".png";
      write_png(data / name / file, scene.image);
      writer.add({scene.image_id, file, 64, 64, ""}, scene.map, scene.segments);
    }
    writer.finish();
  }
};

std::vector<float> weights(const fs::path& run) {
  const auto file = read_safetensors(run / "checkpoints" / "last.safetensors");
  std::vector<float> out;
  for (const std::string& name : file.names) {
    const auto tensor = file.get<float>(name);
    out.insert(out.end(), tensor.values().begin(), tensor.values().end());
  }
  return out;
}

}  // namespace

TEST_CASE("a training on scenes leaves a run, and ends with the same bits when it was stopped between") {
  if (!built()) return;
  Place place;
  CHECK(place.train("whole", {"evaluation.curve=[1, 2]"}) == 0);
  INFO(place.said);
  const Json summary = read_json(place / "whole" / "summary.json");
  for (const char* key : {"pq", "sq", "rq", "pq_things", "pq_stuff", "mask_iou"}) {
    CHECK(summary.at("validation").at(key).get<double>() >= 0);
    CHECK(summary.at("validation").at(key).get<double>() <= 1);
  }
  CHECK(summary["steps"] == 4);
  CHECK(summary["validation"]["images"] == 2);
  CHECK(summary["curve"].size() == 2);
  CHECK(summary["curve"][1]["mask_iou"] == summary["validation"]["mask_iou"]);
  const std::string page = bytes_of(place / "whole" / "report.html");
  CHECK(contains(page, "alt=\"segments of image 2\" src=\"data:image/png;base64,"));
  CHECK(contains(page, "panoptic quality"));
  CHECK(read_png(place / "whole" / "report" / "segments_2.png", 3).height == 384);
  CHECK(contains(bytes_of(place / "whole" / "metrics.jsonl"), "\"vj_penalty\""));

  CHECK(place.train("parts", {"train.steps=2"}) == 0);
  CHECK(place.train("parts", {}) == 2);
  CHECK(contains(place.said, "holds a training"));
  CHECK(place.train("parts", {"mask_head.kind=bptt"}, {"--resume"}) == 2);
  CHECK(contains(place.said, "mask_head.kind is \"crbp\", not \"bptt\""));
  CHECK(place.train("parts", {}, {"--resume"}) == 0);
  CHECK(weights(place / "parts") == weights(place / "whole"));
}

TEST_CASE("each mask head trains on a folder in COCO's format, predicts it, and is scored") {
  if (!built()) return;
  Place place;
  place.make_coco("train", 0, 4), place.make_coco("val", 100, 2);
  const fs::path data = place / "data";
  for (const std::string head : {"feed_forward", "bptt", "rbp"}) {
    CAPTURE(head);
    CHECK(place.train(head, {"data.kind=coco", "data.folder=" + data.string(), "mask_head.kind=" + head,
                             "data.short_sides=[64, 80]", "data.test_short_side=80", "data.crop=64", "train.ema=0.5",
                             "train.steps=2"}) == 0);
    INFO(place.said);
  }
  const std::string list = (data / "panoptic_val.json").string(), images = (data / "val").string();
  const std::string predicted = (place / "predicted").string(), run = (place / "rbp").string();
  CHECK(place.end_of("predict_panoptic", {"--run", run, "--json", list, "--images", images, "--output", predicted,
                                          "--set", "evaluation.least_score=0.01"}) == 0);
  INFO(place.said);
  CHECK(place.end_of("panoptic_eval", {list, (data / "panoptic_val").string(), predicted + ".json", predicted,
                                       "--json"}) == 0);
  INFO(place.said);
  CHECK(Json::parse(place.said.substr(place.said.find('{'))).at("pq").get<double>() >= 0);
  // Without options in place of the run's, the scores are those of the run's own validation.
  CHECK(place.end_of("predict_panoptic",
                     {"--run", run, "--json", list, "--images", images, "--output", predicted}) == 0);
  CHECK(place.end_of("panoptic_eval", {list, (data / "panoptic_val").string(), predicted + ".json", predicted,
                                       "--json"}) == 0);
  CHECK(Json::parse(place.said.substr(place.said.find('{'))).at("pq").get<double>() ==
        doctest::Approx(read_json(place / "rbp" / "summary.json").at("validation").at("pq").get<double>()));
  // Of the list only images and categories are read.
  Json bare = read_json(list);
  bare.erase("annotations");
  write_json(place / "bare.json", bare);
  CHECK(place.end_of("predict_panoptic", {"--run", run, "--json", (place / "bare.json").string(), "--images", images,
                                          "--output", (place / "again").string(), "--steps", "5"}) == 0);
  CHECK(fs::exists(place / "again.json"));
  CHECK(fs::exists(place / "again" / "1.png"));

  const std::string picture = (data / "val" / "1.png").string();
  CHECK(place.end_of("predict_panoptic", {"--run", run, picture, "--output", (place / "pictures").string()}) == 0);
  CHECK(contains(place.said, "1_panoptic.png: "));
  CHECK(read_png(place / "pictures" / "1_panoptic.png", 3).height == 384);

  bare["categories"][0]["id"] = 77;
  write_json(place / "bare.json", bare);
  CHECK(place.end_of("predict_panoptic", {"--run", run, "--json", (place / "bare.json").string(), "--images", images,
                                          "--output", predicted}) == 3);
  CHECK(contains(place.said, "bare.json: expected the 6 categories that the net was trained on"));
}

TEST_CASE("mistakes end with 2, data that is missing with 3") {
  if (!built()) return;
  Place place;
  CHECK(place.train("none", {"mask_head.kind=lstm"}) == 2);
  CHECK(contains(place.said, "expected feed_forward, bptt, rbp or crbp, got \"lstm\""));
  CHECK(place.train("none", {"data.kind=coco"}) == 2);
  CHECK(contains(place.said, "expected data.folder for data.kind coco"));
  CHECK(place.train("none", {"data.kind=coco", "data.folder=" + (place / "nothere").string()}) == 3);
  CHECK(contains(place.said, "nothere/panoptic_train.json"));
  CHECK(place.end_of("predict_panoptic", {"--run", (place / "nothere").string(), "a.png"}) == 2);
  CHECK(place.end_of("train_panoptic", {"--help"}) == 0);
  CHECK(contains(place.said, "mask_head.steps = 8"));
}
