// Recorded steps of the released code, computed on the device.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "../../../examples/parity_case.hpp"

namespace {

std::filesystem::path recorded(const std::string& name) {
  return std::filesystem::path(SETTLE_DATA_DIR) / "parity" / (name + ".safetensors");
}

}  // namespace

TEST_CASE("a recorded step of each kind of model is reproduced on the device to 1e-9") {
  for (const std::string name : {"hgru_crbp_k3", "clstm_bptt_k3", "ff_k3"}) {
    CAPTURE(name);
    CHECK(parity::compare(recorded(name)).worst() <= 1e-9);
  }
}

TEST_CASE("states, logits and losses of a recorded step are reproduced on the device to 2e-4 in float") {
  const double error = parity::compare(recorded("hgru_crbp_k3"), parity::Precision::float32).worst();
  CHECK(error <= 2e-4);
  CHECK(error > 1e-9);  // it is float
}
