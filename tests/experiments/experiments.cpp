// The paper's claims in their smallest form, by the program that makes its figures.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "child_program.hpp"
#include "settle/io/json.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

const fs::path program = fs::path(SETTLE_PROGRAMS) / "settle_experiment";

bool built() {
  if (too_slow_for_training()) return false;
  if (fs::exists(program)) return true;
  MESSAGE("SKIP: " << program.string() << " is not built");
  return false;
}

struct Place {
  TemporaryFolder folder;
  std::string said;

  fs::path output() const { return folder.path() / "out"; }
  int run(std::vector<std::string> arguments) {
    for (const std::string& word :
         {std::string("--size"), std::string("tiny"), std::string("--output"), output().string()})
      arguments.push_back(word);
    ChildProgram child(program, arguments, folder.path() / "said");
    const int status = child.wait();
    said = child.output();
    return status;
  }
};

std::ptrdiff_t entries(const fs::path& path) {
  return std::distance(fs::directory_iterator(path), fs::directory_iterator());
}

}  // namespace

TEST_CASE("memory of BPTT grows with its steps, that of C-RBP and RBP does not") {
  if (!built()) return;
  Place place;
  REQUIRE_MESSAGE(place.run({"memory"}) == 0, place.said);
  const Json found = read_json(place.output() / "memory" / "result.json")["algorithms"];
  for (const char* key : {"crbp_released", "rbp"}) {
    const Json& megabytes = found[key]["megabytes"];
    CHECK(megabytes.back().get<double>() <= 1.001 * megabytes[1].get<double>());
  }
  for (const char* key : {"bptt", "cbptt"}) {
    const Json& megabytes = found[key]["megabytes"];
    CHECK(megabytes.back().get<double>() > 5 * megabytes.front().get<double>());
  }
}

TEST_CASE("BPTT's accuracy is lost at three times the steps, that of C-RBP is not; what is done is not done again") {
  if (!built()) return;
  Place place;
  REQUIRE_MESSAGE(place.run({"generalisation"}) == 0, place.said);
  CAPTURE(place.said);
  const Json summary = read_json(place.output() / "summary.json");
  const double crbp = summary["crbp_drop_at_3x_steps"]["mean"], bptt = summary["bptt_drop_at_3x_steps"]["mean"];
  CHECK(crbp <= 0.1);
  CHECK(bptt > crbp);
  const Json found = read_json(place.output() / "generalisation" / "result.json")["algorithms"];
  CHECK(found["crbp"]["2"]["peak"].get<double>() > 0.4);  // or there was nothing to lose
  CHECK(fs::file_size(place.output() / "generalisation" / "tested_on_2.svg") > 1000);

  const auto trained = entries(place.output() / "cells");
  const auto before = fs::last_write_time(place.output() / "generalisation" / "result.json");
  REQUIRE(place.run({"generalisation"}) == 0);
  CHECK(place.said.find("trainings to do") == std::string::npos);
  CHECK(entries(place.output() / "cells") == trained);
  CHECK(fs::last_write_time(place.output() / "generalisation" / "result.json") > before);
}

TEST_CASE("configurations are written without training, and mistakes are told") {
  if (!built()) return;
  Place place;
  CHECK(place.run({"kernels", "--list"}) == 0);
  CHECK(entries(place.output() / "cells") > 0);
  for (const auto& cell : fs::directory_iterator(place.output() / "cells")) {
    CHECK(fs::exists(cell.path() / "config.json"));
    CHECK_FALSE(fs::exists(cell.path() / "checkpoints"));
  }
  CHECK(place.run({"nonsense"}) == 2);
  CHECK(place.said.find("expected an experiment's name") != std::string::npos);
}
