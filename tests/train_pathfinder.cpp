// The training program's checkpoints.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "../examples/pathfinder_trainer.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

const std::map<std::string, std::string> tiny{{"kernel", "3"},  {"orientations", "2"},   {"steps", "3"},
                                              {"terms", "2"},   {"batch", "2"},          {"size", "16"},
                                              {"window", "96"}, {"contour-length", "2"}, {"distractors", "0"},
                                              {"rate", "0.01"}, {"validate-every", "2"}, {"validation-images", "3"}};

/// A folder's metrics but for the time they took.
std::vector<Json> metrics(const fs::path& folder) {
  std::vector<Json> out;
  std::ifstream file(folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line); out.back().erase("seconds")) out.push_back(Json::parse(line));
  return out;
}

/// The bits of every tensor of a folder's checkpoint.
std::map<std::string, std::vector<float>> tensors(const fs::path& folder) {
  const auto file = read_safetensors(folder / "checkpoint.safetensors");
  std::map<std::string, std::vector<float>> out;
  for (const auto& name : file.names) {
    const auto tensor = file.get<float>(name);
    out[name].assign(tensor.values().begin(), tensor.values().end());
  }
  return out;
}

void train(PathfinderTrainer& trainer, int steps) {
  for (int k = 0; k < steps; ++k) trainer.step();
}

}  // namespace

TEST_CASE("a training that was stopped goes on from its checkpoint to the same bits") {
  const TemporaryFolder folder;
  const fs::path whole = folder.path() / "whole", parts = folder.path() / "parts";
  {
    PathfinderTrainer trainer(whole, false, tiny);
    train(trainer, 4);
    trainer.save();
  }
  {
    PathfinderTrainer trainer(parts, false, tiny);
    train(trainer, 2);
    trainer.save();
    train(trainer, 1);  // lost: nothing of it was saved, but a line of metrics
  }
  {
    PathfinderTrainer trainer(parts, true, {{"kernel", "3"}, {"rate", "1e-2"}});
    CHECK(trainer.steps() == 2);
    CHECK(trainer.options().contour_length == 2);
    train(trainer, 2);
    trainer.save();
  }
  CHECK(tensors(whole).size() == 76);
  CHECK(tensors(parts) == tensors(whole));
  const auto lines = metrics(parts);
  REQUIRE(lines.size() == 6);
  CHECK(lines == metrics(whole));
  CHECK(lines[1]["loss"] != lines[0]["loss"]);
  CHECK(lines[2]["validation"]["f1"].is_number());
  CHECK(lines[5]["step"] == 4);
}

TEST_CASE("a checkpoint that cannot be gone on with is told, and the folder stays as it is") {
  const TemporaryFolder folder;
  const fs::path checkpoint = folder.path() / "checkpoint.safetensors", lines = folder.path() / "metrics.jsonl";
  {
    PathfinderTrainer trainer(folder.path(), false, tiny);
    train(trainer, 1);
    trainer.save();
    train(trainer, 1);
  }
  const std::string good = bytes_of(checkpoint), recorded = bytes_of(lines);
  const auto refusal = [&](const std::string& checkpoint_bytes, bool resume,
                           const std::map<std::string, std::string>& given) {
    write_bytes(checkpoint, checkpoint_bytes);
    const std::string message = error_of([&] { PathfinderTrainer(folder.path(), resume, given); });
    CHECK(bytes_of(checkpoint) == checkpoint_bytes);
    CHECK(bytes_of(lines) == recorded);
    return message;
  };
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    return bytes.replace(bytes.find(from), from.size(), to);
  };
  CHECK(contains(refusal(good.substr(0, good.size() - 100), true, {}), "truncated"));
  CHECK(contains(refusal(good.substr(0, 5), true, {}), "expected the header's length in the first 8 bytes"));
  CHECK(contains(refusal(changed("settle train", "anothertrain"), true, {}), "found another file"));
  CHECK(contains(refusal(changed("net.unit1.kappa", "net.unit1.other"), true, {}), "'net.unit1.kappa', found none"));
  CHECK(contains(refusal(changed("adam.second.conv6.bias", "adam.second.conv6.bios"), true, {}),
                 "expected parameter conv6.bios"));
  CHECK(contains(refusal(good, true, {{"kernel", "5"}, {"seed", "1"}, {"size", "32"}}),
                 "has other options: kernel is 3, not 5; size is 16, not 32;"));
  CHECK(contains(refusal(good, true, {{"kernel", "five"}}), "--kernel: expected a whole number, got 'five'"));
  CHECK(contains(refusal(good, false, tiny), "checkpoint.safetensors is there already"));
  fs::resize_file(lines, 10);
  CHECK(contains(error_of([&] { PathfinderTrainer(folder.path(), true, {}); }), "expected at least the"));
  CHECK(fs::file_size(lines) == 10);
  fs::remove(checkpoint);
  CHECK(contains(error_of([&] { PathfinderTrainer(folder.path(), false, tiny); }), "metrics.jsonl is there already"));
  CHECK(fs::file_size(lines) == 10);
}

TEST_CASE("options that make no training are refused") {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::string& name, const std::string& value) {
    return error_of([&] { PathfinderTrainer(folder.path() / "none", false, {{name, value}}); });
  };
  CHECK(contains(refusal("algorithm", "sgd"), "expected the algorithm crbp, rbp, cbptt or bptt, got sgd"));
  CHECK(contains(refusal("batch", "0"), "at least 1, got 0"));
  CHECK_FALSE(fs::exists(folder.path() / "none"));
}
