#include "instruction_sets.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "settle/core/random.hpp"

using namespace settle;

namespace {

Tensor<float> noise(const Shape& shape, std::uint64_t seed) {
  Random random(seed, 0);
  Tensor<float> out(shape);
  for (Index i = 0; i < out.size(); ++i) out.mutable_data()[i] = static_cast<float>(random.uniform(-1, 1));
  return out;
}

/// The largest difference, relative to the largest value.
double difference(const Tensor<float>& a, const Tensor<float>& b) {
  REQUIRE(a.shape() == b.shape());
  double largest = 0, out = 0;
  for (Index i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a.data()[i])));
    out = std::max(out, std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i])));
  }
  return out / largest;
}

}  // namespace

TEST_CASE("files that are compiled for different processors work in one program, on the same tensors") {
  const InstructionSetPart any = compiled_for_any_processor(), avx2 = compiled_for_avx2();
  CHECK(std::string(any.name) == "baseline");
  CHECK(std::string(avx2.name) == "avx2");
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    MESSAGE("SKIP: this processor has no AVX2");
    return;
  }
  // The weights' spectra and packed forms stay with the weights, and each part asks for its own.
  for (const Index kernel : {3, 15}) {
    CAPTURE(kernel);
    const Tensor<float> x = noise({2, 9, 33, 40}, 1), w = noise({9, 9, kernel, kernel}, 2);
    CHECK(difference(any.forward(x, w), avx2.forward(x, w)) < 1e-5);
    CHECK(difference(avx2.input_grad(x, w), any.input_grad(x, w)) < 1e-5);
    CHECK(difference(any.forward(x, w), avx2.forward(x, w)) < 1e-5);
  }
  const Tensor<float> large = noise({3, 7, 111, 113}, 3);
  CHECK(difference(any.second_derivative(large), avx2.second_derivative(large)) < 1e-5);
}
