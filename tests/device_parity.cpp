// Recorded steps of the released code, computed on the device.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "../examples/parity_case.hpp"

TEST_CASE("a recorded step of each kind of model is reproduced on the device, to 1e-9 in double, 2e-4 in float") {
  for (const std::string name : {"hgru_crbp_k3", "clstm_bptt_k3", "ff_k3"}) {
    CAPTURE(name);
    const auto path = std::filesystem::path(SETTLE_DATA_DIR) / "parity" / (name + ".safetensors");
    CHECK(parity::compare(path).worst() <= 1e-9);
    const double error = parity::compare(path, parity::Precision::float32).worst();
    CHECK(error <= 2e-4);
    CHECK(error > 1e-9);  // it is float
  }
}
