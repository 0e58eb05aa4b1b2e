#include "settle/ops/all.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "settle/autodiff/gradcheck.hpp"
#include "settle/ops/samples.hpp"

using namespace settle;

namespace {

struct SampledCase {
  std::string name;
  OpSample sample;
};

/// The samples of all ops of the list.
const std::vector<SampledCase>& all_samples() {
  static const std::vector<SampledCase> cases = [] {
    std::vector<SampledCase> out;
    AllOps::for_each([&](auto op) {
      OpSamples samples;
      op.samples(samples);
      if (samples.all().empty()) throw Error(std::string(op.name) + " has no samples");
      for (const auto& sample : samples.all()) out.push_back({std::string(op.name) + ": " + sample.name, sample});
    });
    return out;
  }();
  return cases;
}

double largest(const Tensor<double>& x) {
  double m = 0;
  for (double v : x.values()) m = std::max(m, std::abs(v));
  return m;
}

}  // namespace

TEST_CASE("every op gives the values of plain loops") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    std::vector<Var<double>> constants;
    for (const auto& x : sample.inputs) constants.push_back(x);
    const Var<double> y = sample.function(constants);
    const Tensor<double> expected = sample.reference(sample.inputs);
    CHECK(y.tape() == nullptr);
    REQUIRE(y.shape() == expected.shape());
    const double tolerance = 1e-13 * std::max(1.0, largest(expected));
    for (Index k = 0; k < y.size(); ++k) REQUIRE(std::abs(y.value().data()[k] - expected.data()[k]) <= tolerance);
  }
}

TEST_CASE("every op's gradient agrees with finite differences") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = gradcheck(sample.function, sample.inputs, {.tolerance = 1e-8});
    CHECK_MESSAGE(result.passed, result.message);
  }
}

TEST_CASE("every op's second derivatives agree with finite differences") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = gradcheck_second_order(sample.function, sample.inputs, {.tolerance = 1e-8});
    CHECK_MESSAGE(result.passed, result.message);
  }
}

TEST_CASE("every op's forward and reverse products agree") {
  for (const auto& [title, sample] : all_samples()) {
    const std::string& name = title;
    CAPTURE(name);
    const auto result = jvp_check(sample.function, sample.inputs, {.tolerance = 1e-10});
    CHECK_MESSAGE(result.passed, result.message);
  }
}
