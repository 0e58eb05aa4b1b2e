#include <doctest/doctest.h>

#include "fixed_point_problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

struct Use {
  std::size_t peak, allocations;
};

/// What one forward and backward pass through a node takes, after a first pass has warmed the pools.
Use use_of(const fp::Options& options) {
  const Shape shape{4, 16, 1, 1};
  Random random(1);
  const Tensor<float> w0 = scaled_to_radius(random_matrix(16, 1), 0.7).weight<float>();
  const Tensor<float> x0 = normal<float>(shape, 0, 1, random);
  const auto pass = [&] {
    Tape<float> tape;
    const Var<float> w = tape.leaf(w0), x = tape.leaf(x0);
    const auto solution = fp::solve(Tanh{}, options, Var<float>(Tensor<float>(shape, 0.f)), w, x);
    (void)grad(sum(solution.z) + solution.penalty, {w, x});
  };
  pass();
  Memory::instance().reset_peak();
  const MemoryUse before = Memory::instance().use();
  pass();
  const MemoryUse after = Memory::instance().use();
  return {after.peak - before.current, after.allocations - before.allocations};
}

}  // namespace

TEST_CASE("M1, F9: peak bytes are equal from 1 to 1000 steps, and nothing is allocated after warm-up") {
  const auto options = [](int steps) {
    return fp::Options{.stop = fp::Steps{steps}, .adjoint = fp::ReleasedNeumann{}, .penalty = fp::Lcp{}};
  };
  const Use one = use_of(options(2));
  for (const int steps : {1, 2, 10, 1000}) {
    const Use use = use_of(options(steps));
    CHECK(use.peak == one.peak);
    CHECK(use.allocations == 0);
  }
}
