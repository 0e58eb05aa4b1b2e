#include <doctest/doctest.h>

#include "problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

struct Use {
  std::size_t peak, allocations;
};

constexpr Index batch = 4, width = 16;
const std::size_t state_bytes = batch * width * sizeof(float);

/// What one forward and backward pass takes, after a first pass has warmed the pools.
template <class Pass>
Use use_of(const Pass& pass) {
  pass();
  Memory::instance().reset_peak();
  const MemoryUse before = Memory::instance().use();
  pass();
  const MemoryUse after = Memory::instance().use();
  return {after.peak - before.current, after.allocations - before.allocations};
}

struct Problem {
  Shape shape{batch, width, 1, 1};
  Tensor<float> w0 = scaled_to_radius(random_matrix(width, 1), 0.7).weight<float>();
  Tensor<float> x0{shape, 0.5f};
};

Use use_through_node(const fp::Options& options) {
  const Problem p;
  return use_of([&] {
    Tape<float> tape;
    const Var<float> w = tape.leaf(p.w0), x = tape.leaf(p.x0);
    const auto solution = fp::solve(Tanh{}, options, Var<float>(Tensor<float>(p.shape, 0.f)), w, x);
    (void)grad(sum(solution.z) + solution.penalty, {w, x});
  });
}

Use use_of_bptt(int steps) {
  const Problem p;
  return use_of([&] {
    Tape<float> tape;
    const Var<float> w = tape.leaf(p.w0), x = tape.leaf(p.x0);
    Var<float> z = Tensor<float>(p.shape, 0.f);
    for (int k = 0; k < steps; ++k) z = Tanh{}(z, w, x);
    (void)grad(sum(z), {w, x});
  });
}

}  // namespace

TEST_CASE(
    "M1, M2, F9: peak bytes are equal from 1 to 1000 steps for every O(1) policy, grow by the same for each step of "
    "back-propagation through time, and nothing is allocated after warm-up") {
  // A fixed number of products, so that what a solver holds does not depend on where the state is.
  const fp::Adjoint adjoints[] = {fp::ReleasedNeumann{.rejected = fp::Rejected::continue_},
                                  fp::Neumann{.max_products = 8, .rtol = 0},
                                  fp::Terms{0},
                                  fp::Terms{4},
                                  fp::Gmres{.restart = 8, .max_products = 8, .rtol = 0},
                                  fp::BiCgStab{.max_products = 8, .rtol = 0},
                                  fp::NormalCg{.max_products = 8, .rtol = 0},
                                  fp::AdjointAnderson{.solver = {}, .max_products = 8, .rtol = 0},
                                  fp::Phantom{},
                                  fp::Auto{.first = {.max_products = 8, .rtol = 0}, .then = {.restart = 8, .rtol = 0}}};
  for (const fp::Adjoint& adjoint : adjoints) {
    for (const fp::Penalty& penalty :
         {fp::Penalty(fp::NoPenalty{}), fp::Penalty(fp::Lcp{.lambda = 0.1}), fp::Penalty(fp::Hutchinson{}),
          fp::Penalty(fp::SpectralHinge{.target = 0.1}), fp::Penalty(fp::Movement{})}) {
      CAPTURE(adjoint.index());
      CAPTURE(penalty.index());
      const auto use = [&](int steps) {
        return use_through_node(
            {.stop = fp::Steps{steps}, .adjoint = adjoint, .penalty = penalty, .on_fail = fp::OnFail::report});
      };
      const std::size_t peak = use(1).peak;
      for (const int steps : {2, 3, 10, 100, 1000}) {
        const Use now = use(steps);
        CAPTURE(steps);
        CHECK(now.allocations == 0);
        CHECK(now.peak == peak);
      }
    }
  }
  const std::size_t at_1 = use_of_bptt(1).peak, at_10 = use_of_bptt(10).peak, at_100 = use_of_bptt(100).peak,
                    at_1000 = use_of_bptt(1000).peak;
  CHECK(at_10 > at_1);
  CHECK(at_1000 - at_100 == 10 * (at_100 - at_10));
  CHECK(at_100 - at_10 >= 90 * 2 * state_bytes);  // W z and tanh of it, each step
}

TEST_CASE("M1: Anderson's memory shows as exactly 2 m states and Broyden's as 2 r, whatever the steps") {
  const PreferredConvAlgorithm chosen_by_cost(ConvAlgorithm::automatic);  // the workspace of another one is the peak
  const auto options = [](const fp::Forward& solver, int steps) {
    return fp::Options{.forward = solver, .stop = fp::Steps{steps}, .adjoint = fp::Terms{0}};
  };
  const auto peak = [&](const fp::Forward& solver, int steps) { return use_through_node(options(solver, steps)).peak; };
  for (const int steps : {30, 300}) {
    CHECK(peak(fp::Anderson{.depth = 20}, steps) - peak(fp::Anderson{.depth = 12}, steps) == 16 * state_bytes);
    CHECK(peak(fp::Broyden{.rank = 20}, steps) - peak(fp::Broyden{.rank = 12}, steps) == 16 * state_bytes);
  }
  CHECK(peak(fp::Anderson{.depth = 12}, 30) == peak(fp::Anderson{.depth = 12}, 300));
  const Problem p;
  for (const fp::Forward& solver : {fp::Forward(fp::Anderson{.depth = 7}), fp::Forward(fp::Broyden{.rank = 7})}) {
    const auto solution = fp::solve(Tanh{}, options(solver, 30), Var<float>(Tensor<float>(p.shape, 0.f)),
                                    Var<float>(p.w0), Var<float>(p.x0));
    CHECK(solution.report->forward.solver_bytes == 14 * state_bytes);
  }
}

TEST_CASE("M1: the bytes that a node reports are what the allocator counts") {
  const Problem p;
  for (const fp::Penalty& penalty : {fp::Penalty(fp::NoPenalty{}), fp::Penalty(fp::Lcp{.lambda = 0.1})}) {
    Tape<float> tape;
    const Var<float> w = tape.leaf(p.w0), x = tape.leaf(p.x0), z0 = Tensor<float>(p.shape, 0.f);
    (void)fp::solve(Tanh{}, {.stop = fp::Steps{5}, .penalty = penalty}, z0, w, x);  // packed weights are made here
    const std::size_t before = Memory::instance().use().current;
    auto solution = fp::solve(Tanh{}, {.stop = fp::Steps{5}, .penalty = penalty}, z0, w, x);
    solution.penalty = {};  // without one, a zero of its own; else the node's value
    const std::size_t held = Memory::instance().use().current - before;
    CHECK(held == solution.report->bytes);
    CHECK(held >= 3 * state_bytes);  // z, W z, f(z)
  }
}

TEST_CASE("M2: Checkpointed takes memory as the square root of the steps") {
  const auto peak = [](int steps) {
    return use_through_node({.stop = fp::Steps{steps}, .adjoint = fp::Checkpointed{}}).peak;
  };
  const std::size_t at_100 = peak(100), at_400 = peak(400), at_1600 = peak(1600);
  CHECK(at_400 - at_100 <= 22 * state_bytes);  // 2 (20 - 10) states and a few
  CHECK(at_1600 - at_400 <= 42 * state_bytes);
  CHECK(at_1600 - at_400 >= 38 * state_bytes);
}

namespace {

/// Counts what its gradient computes: z -> 0.5 z + w, by the input that a cotangent is made for.
struct Counts {
  int to_state = 0, to_weight = 0;
};
struct Counting {
  Counts* counts;
  Var<double> operator()(const Var<double>& z, const Var<double>& w) const {
    const Tensor<double> y =
        map([](auto u, auto v) { return 0.5 * u + v; }, stop_gradient(z), stop_gradient(w)).value();
    return record<double, Cpu>("counting", y, {z, w},
                               [counts = counts](const Var<double>& g, Cotangents<double, Cpu>& gradients) {
                                 if (gradients.needs(0)) ++counts->to_state, gradients.add(0, 0.5 * g);
                                 if (gradients.needs(1)) ++counts->to_weight, gradients.add(1, g);
                               });
  }
};

}  // namespace

TEST_CASE("M3: K adjoint products compute K cotangents of the state and none of the weights") {
  Counts counts;
  Tape<double> tape;
  const Var<double> w = tape.leaf(Tensor<double>(Shape{1, 3}, 1.0));
  for (const int k : {1, 5, 20}) {
    const auto solution =
        fp::solve(Counting{&counts}, {.stop = fp::Steps{50}, .adjoint = fp::Terms{k}, .check_adjoint = false},
                  Var<double>(Tensor<double>(Shape{1, 3}, 0.0)), w);
    counts = {};
    (void)grad(sum(solution.z), {w});
    CHECK(counts.to_state == k);
    CHECK(counts.to_weight == 1);
  }
}
