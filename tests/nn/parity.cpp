#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "../../examples/parity_case.hpp"
#include "errors.hpp"
#include "settle/io/safetensors.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

const fs::path cases = fs::path(SETTLE_DATA_DIR) / "parity";

std::vector<fs::path> all_cases() {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(cases))
    if (entry.path().extension() == ".safetensors") out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

/// A parity case in memory, to be changed and written elsewhere.
struct EditedCase {
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor<double>> tensors;
  TemporaryFolder folder;
  fs::path path = folder.path() / "edited.safetensors";

  explicit EditedCase(const std::string& name) {
    const auto file = read_safetensors(cases / name);
    metadata = file.metadata;
    for (const auto& tensor : file.names) tensors[tensor] = file.get_as<double>(tensor);
  }

  const fs::path& write() const {
    write_safetensors(path, tensors, metadata);
    return path;
  }
};

const parity::Quantity& quantity(const parity::Comparison& comparison, const std::string& name) {
  const auto found = std::find_if(comparison.quantities.begin(), comparison.quantities.end(),
                                  [&](const auto& q) { return q.name == name; });
  REQUIRE(found != comparison.quantities.end());
  return *found;
}

}  // namespace

TEST_CASE("every recorded step of the released code is reproduced to 1e-9 in double") {
  REQUIRE(all_cases().size() == 8);
  for (const auto& path : all_cases()) {
    CAPTURE(path.string());
    const auto comparison = parity::compare(path);
    CHECK(comparison.bound == 1e-9);
    for (const auto& q : comparison.quantities) {
      CAPTURE(q.name);
      CHECK(q.judged);
      CHECK(q.error <= 1e-9);
    }
    CHECK(comparison.pass());
  }
}

TEST_CASE("states, logits and losses of the recorded steps are reproduced to 2e-4 in float") {
  for (const auto& path : all_cases()) {
    CAPTURE(path.string());
    const auto comparison = parity::compare(path, parity::Precision::float32);
    CHECK(comparison.bound == 2e-4);
    CHECK(quantity(comparison, "loss").error <= 2e-4);
    CHECK(quantity(comparison, "logits").error > 1e-9);  // it is float
    for (const auto& q : comparison.quantities)
      if (q.name.starts_with("state.")) CHECK((q.judged && q.error <= 2e-4));
    CHECK(comparison.pass());
  }
}

TEST_CASE("every gradient and every running statistic that a case records is compared") {
  for (const auto& path : all_cases()) {
    CAPTURE(path.string());
    const auto file = read_safetensors(path);
    const auto comparison = parity::compare(path);
    for (const auto& name : file.names)
      if (!name.starts_with("param.") && name != "input" && name != "target") quantity(comparison, name);
  }
}

TEST_CASE("a changed number in a case is a failure") {
  for (const char* name : {"state.0", "state.5", "logits", "loss", "total", "grad.unit1.kappa", "grad.conv6.bias"}) {
    CAPTURE(name);
    EditedCase edited("hgru_bptt_k5.safetensors");
    double& first = edited.tensors[name].mutable_data()[0];
    first += 1e-6 * std::abs(first);
    const auto comparison = parity::compare(edited.write());
    CHECK_FALSE(comparison.pass());
    CHECK(quantity(comparison, name).error > 1e-9);
  }
}

TEST_CASE("an expected NaN that is not ours is a failure") {
  EditedCase edited("hgru_bptt_k5.safetensors");
  edited.tensors["logits"].mutable_data()[7] = std::numeric_limits<double>::quiet_NaN();
  const auto comparison = parity::compare(edited.write());
  CHECK(std::isnan(comparison.worst()));
  CHECK_FALSE(comparison.pass());
}

TEST_CASE("quantities that should be zero are compared absolutely") {
  EditedCase edited("hgru_bptt_k5.safetensors");
  CHECK(quantity(parity::compare(edited.write()), "penalty").error == 0);
  edited.tensors["penalty"].mutable_data()[0] = 1e-3;
  CHECK_FALSE(parity::compare(edited.write()).pass());
}

TEST_CASE("the metadata decides what is computed") {
  struct Change {
    const char *key, *value, *differs;
  };
  const Change changes[] = {{"loss_scale", "2.0", "total"},         {"loss_scale", "2.0", "grad.conv0.weight"},
                            {"lambda_", "0.5", "penalty"},          {"penalty_weight", "1.0", "total"},
                            {"algorithm", "bptt", "grad.unit1.mu"}, {"penalty", "0", "total"}};
  for (const auto& change : changes) {
    CAPTURE(change.key);
    EditedCase edited("hgru_crbp_k3.safetensors");
    edited.metadata[change.key] = change.value;
    CHECK(quantity(parity::compare(edited.write()), change.differs).error > 1e-6);
  }
}

TEST_CASE("what cannot be compared is an error that names the file and the matter") {
  struct Fault {
    const char* text;
    std::function<void(EditedCase&)> make;
  };
  const Fault faults[] = {
      {"'model': expected hgru | clstm | ff, got 'gru'", [](auto& c) { c.metadata["model"] = "gru"; }},
      {"expected 'model', found none", [](auto& c) { c.metadata.erase("model"); }},
      {"'algorithm': expected bptt | rbp, got 'none'", [](auto& c) { c.metadata["algorithm"] = "none"; }},
      {"'penalty': expected 0 | 1, got 'yes'", [](auto& c) { c.metadata["penalty"] = "yes"; }},
      {"'kernel': expected an odd number, got 4", [](auto& c) { c.metadata["kernel"] = "4"; }},
      {"'steps': expected at least 1, got 0", [](auto& c) { c.metadata["steps"] = "0"; }},
      {"'steps': expected a number, got '6.5'", [](auto& c) { c.metadata["steps"] = "6.5"; }},
      {"'loss_scale': expected a number, got ''", [](auto& c) { c.metadata["loss_scale"] = ""; }},
      {"expected a tensor 'param.unit1.kappa', found none", [](auto& c) { c.tensors.erase("param.unit1.kappa"); }},
      {"expected a tensor 'state.5', found none", [](auto& c) { c.tensors.erase("state.5"); }},
      {"expected a tensor 'param.conv0.weight'", [](auto& c) { c.tensors.erase("param.conv0.weight"); }},
      {"'param.unit1.w_gate_inh': expected shape (25, 25, 3, 3), got (25, 25, 5, 5)",
       [](auto& c) { c.metadata["kernel"] = "3"; }},
      {"'input': expected shape (2, 1, 15, 15) by the metadata, got (2, 1, 14, 14)",
       [](auto& c) { c.metadata["size"] = "15"; }},
      {"'logits': expected shape (2, 2, 14, 14), got (2)",
       [](auto& c) { c.tensors["logits"] = Tensor<double>(Shape{2}, 0.0); }},
      {"'param.extra' is not a parameter of this model",
       [](auto& c) { c.tensors["param.extra"] = Tensor<double>(Shape{1}, 0.0); }},
      {"expected targets 0 or 1, got 2", [](auto& c) { c.tensors["target"].mutable_data()[0] = 2; }},
  };
  for (const auto& fault : faults) {
    CAPTURE(fault.text);
    EditedCase edited("hgru_bptt_k5.safetensors");
    fault.make(edited);
    edited.write();
    const std::string message = error_of([&] { parity::compare(edited.path); });
    CAPTURE(message);
    CHECK(contains(message, fault.text));
  }
  CHECK_THROWS_AS(parity::compare("no such file"), Error);
}
