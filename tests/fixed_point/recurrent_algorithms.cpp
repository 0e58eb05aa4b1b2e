// Ways to differentiate a recurrence beside the fixed point's adjoint: against back-propagation through all steps.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "errors.hpp"
#include "settle/fixed_point/fixed_point.hpp"
#include "settle/nn/recurrent_net.hpp"
#include "settle/ops/all.hpp"

using namespace settle;
namespace fp = settle::fixed_point;

namespace {

using V = Var<double>;

/// z -> tanh(W z + x), z (n, 1).
struct Cell {
  V w;
  static constexpr bool couples_samples = true;
  V operator()(const V& z, const V& x) const {
    return map([](auto a, auto b) { return tanh(a + b); }, matmul(w, z), x);
  }
  void parameters(auto&& visit) { visit("w", w); }
};

Tensor<double> drawn(const Shape& shape, double deviation, std::uint64_t seed) {
  Random random(seed);
  return normal<double>(shape, 0, deviation, random);
}

struct Problem {
  Tensor<double> w, x, target;
  explicit Problem(Index n, double scale = 0.6)
      : w(drawn({n, n}, scale / std::sqrt(static_cast<double>(n)), 1)),
        x(drawn({n, 1}, 1, 2)),
        target(drawn({n, 1}, 1, 3)) {}
  V zero() const { return Tensor<double>(x.shape(), 0.0); }

  /// The gradients for w and x of sum(z · target), with z = solve(cell, z0, x).
  template <class Solve>
  std::vector<std::vector<double>> gradients(const Solve& solve) const {
    Tape<double> tape;
    const Cell cell{tape.leaf(w)};
    const V drive = tape.leaf(x);
    const V z = solve(cell, zero(), drive);
    std::vector<std::vector<double>> out;
    for (const V& g : grad(sum(map([](auto a, auto b) { return a * b; }, z, V(target))), {cell.w, drive}))
      out.emplace_back(g.value().values().begin(), g.value().values().end());
    return out;
  }
};

double distance(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  double apart = 0, size = 0;
  for (std::size_t k = 0; k < a.size(); ++k)
    for (std::size_t i = 0; i < a[k].size(); ++i)
      apart += (a[k][i] - b[k][i]) * (a[k][i] - b[k][i]), size += b[k][i] * b[k][i];
  return std::sqrt(apart / size);
}

const auto unrolled = [](int steps) {
  return [steps](const Cell& cell, V z, const V& x) {
    for (int k = 0; k < steps; ++k) z = cell(z, x);
    return z;
  };
};

}  // namespace

TEST_CASE("the reversible iteration's gradient is that of its steps on a tape") {
  const Problem problem(5);
  for (const double mixing : {0.3, 0.5, 0.8}) {
    const int steps = 7;
    const auto on_tape = problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
      V y = z0, z = z0;
      const auto mixed = [&](const V& old, const V& next) { return (1 - mixing) * old + mixing * next; };
      for (int k = 0; k < steps; ++k) y = mixed(y, cell(z, x)), z = mixed(z, cell(y, x));
      return z;
    });
    const auto reversed = problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
      return fp::iterate_reversibly(cell, {.steps = steps, .mixing = mixing}, z0, x);
    });
    CHECK(distance(reversed, on_tape) < 1e-9);
  }
}

TEST_CASE("the reversible iteration settles where the step does") {
  const Problem problem(6);
  const auto reversed = problem.gradients([](const Cell& cell, const V& z0, const V& x) {
    return fp::iterate_reversibly(cell, {.steps = 35, .mixing = 0.5}, z0, x);
  });
  CHECK(distance(reversed, problem.gradients(unrolled(200))) < 1e-4);
}

TEST_CASE("the reversible iteration refuses steps whose rounding would spoil the way back") {
  const Problem problem(3);
  const auto run_of = [&](int steps, double mixing) {
    return [&problem, steps, mixing] {
      const Cell cell{problem.w};
      (void)fp::iterate_reversibly(cell, {.steps = steps, .mixing = mixing}, problem.zero(), V(problem.x));
    };
  };
  CHECK_THROWS_WITH_AS(run_of(60, 0.5)(), doctest::Contains("let rounding grow to"), Error);
  CHECK_THROWS_WITH_AS(run_of(0, 0.5)(), doctest::Contains("expected at least 1 step"), Error);
  CHECK_THROWS_WITH_AS(run_of(5, 1.0)(), doctest::Contains("mixing between 0 and 1"), Error);
}

TEST_CASE("the reversible iteration's memory does not grow with its steps") {
  const Problem problem(64);
  const auto peak = [&](int steps) {
    auto& memory = Memory::instance();
    memory.reset_peak();
    const std::size_t held = memory.use().current;
    (void)problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
      return fp::iterate_reversibly(cell, {.steps = steps, .mixing = 0.3}, z0, x);
    });
    return memory.use().peak - held;
  };
  peak(2);
  CHECK(peak(40) == peak(5));
}

TEST_CASE("UORO's estimates are unbiased") {
  const Problem problem(2);
  const auto exact = problem.gradients(unrolled(3));
  std::vector<std::vector<double>> mean = exact, squares = exact;
  for (auto* list : {&mean, &squares})
    for (auto& part : *list) std::fill(part.begin(), part.end(), 0.0);
  const int draws = 3000;
  for (int k = 0; k < draws; ++k) {
    const auto drawn = problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
      return fp::iterate_online(cell, {.steps = 3, .seed = static_cast<std::uint64_t>(k)}, z0, x);
    });
    for (std::size_t p = 0; p < drawn.size(); ++p)
      for (std::size_t i = 0; i < drawn[p].size(); ++i)
        mean[p][i] += drawn[p][i] / draws, squares[p][i] += drawn[p][i] * drawn[p][i] / draws;
  }
  for (std::size_t p = 0; p < mean.size(); ++p)
    for (std::size_t i = 0; i < mean[p].size(); ++i) {
      const double deviation = std::sqrt(std::max(0.0, squares[p][i] - mean[p][i] * mean[p][i]) / draws);
      CHECK(std::abs(mean[p][i] - exact[p][i]) <= 5 * deviation + 1e-12);
      CHECK(deviation < 0.2);  // or the test would say nothing
    }
}

TEST_CASE("UORO's states are those of the plain iteration") {
  const Problem problem(4);
  const Cell cell{problem.w};
  const V plain = unrolled(5)(cell, problem.zero(), V(problem.x));
  const V online = fp::iterate_online(cell, {.steps = 5}, problem.zero(), V(problem.x));
  for (Index k = 0; k < 4; ++k) CHECK(online.value().data()[k] == doctest::Approx(plain.value().data()[k]));
}

TEST_CASE("the forward solver's inverse gives the adjoint, better with each product") {
  const Problem problem(6);
  const auto exact = problem.gradients(unrolled(300));
  double before = 1;
  std::vector<double> errors;
  for (const int products : {0, 2, 6}) {
    std::shared_ptr<const fp::SharedInverseReport> report;
    const auto shared = problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
      const auto solution =
          fp::solve_with_shared_inverse(cell, {.rtol = 1e-10, .max_steps = 100, .products = products}, z0, x);
      report = solution.report;
      return solution.z;
    });
    CHECK(report->residual <= 1e-10);
    errors.push_back(distance(shared, exact));
    CHECK(errors.back() < before);
    before = errors.back();
  }
  // The one-step gradient takes b itself.
  const auto one_step = problem.gradients([](const Cell& cell, const V& z0, const V& x) {
    return fp::solve(cell, {.stop = fp::Residual{.rtol = 1e-10}, .adjoint = fp::Terms{0}}, z0, x).z;
  });
  CHECK(errors.front() < 0.5 * distance(one_step, exact));
}

TEST_CASE("a traced step shows every evaluation and changes nothing") {
  const Problem problem(4);
  int seen = 0;
  double last = 0;
  const auto observer = [&](const V& z, const V& next) {
    ++seen;
    last = 0;
    for (Index k = 0; k < z.size(); ++k) last += std::abs(next.value().data()[k] - z.value().data()[k]);
  };
  const fp::Options options{.stop = fp::Steps{.count = 9}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::report};
  const auto traced = problem.gradients([&](const Cell& cell, const V& z0, const V& x) {
    return fp::solve(fp::traced(cell, observer), options, z0, x).z;
  });
  const auto plain =
      problem.gradients([&](const Cell& cell, const V& z0, const V& x) { return fp::solve(cell, options, z0, x).z; });
  CHECK(seen == 9);
  CHECK(last > 0);
  CHECK(distance(traced, plain) == 0);
}

namespace {

struct Identity {
  V operator()(const V& images) const { return images; }
  void parameters(auto&&) {}
};
struct Doubled {
  V operator()(const V& h) const { return 2.0 * h; }
  void parameters(auto&&) {}
};
/// h' = tanh(w h + x), one number for all pixels.
struct ScalarCell {
  V w;
  V initial_state(const V& x) const { return Tensor<double>(x.shape(), 0.0); }
  V operator()(const V& h, const V& x) const {
    return map([](auto a, auto b, auto c) { return tanh(c * a + b); }, h, x, w);
  }
  void parameters(auto&& visit) { visit("w", w); }
};
using ScalarNet = RecurrentNet<Identity, ScalarCell, Doubled>;

}  // namespace

TEST_CASE("truncated back-propagation differentiates the last steps only") {
  const double w = 0.7, x = 0.4;
  // d h_T / d w by hand, with the derivative of the state before the recorded steps left out.
  const auto expected = [&](int steps, int recorded) {
    double h = 0, derivative = 0;
    for (int k = 0; k < steps; ++k) {
      if (k == steps - recorded) derivative = 0;
      const double next = std::tanh(w * h + x);
      derivative = (1 - next * next) * (h + w * derivative);
      h = next;
    }
    return 2 * derivative;
  };
  for (const int recorded : {1, 3, 5}) {
    Tape<double> tape;
    const ScalarNet net{{}, {tape.leaf(Tensor<double>(Shape{}, w))}, {}};
    const auto result = run(net, V(Tensor<double>(Shape{1, 1, 1, 1}, x)), Bptt{.steps = 5, .recorded = recorded});
    CHECK(grad(sum(result.logits), {net.cell.w})[0].item() == doctest::Approx(expected(5, recorded)));
  }
  const ScalarNet net{{}, {V(Tensor<double>(Shape{}, w))}, {}};
  CHECK_THROWS_WITH_AS(run(net, V(Tensor<double>(Shape{1, 1, 1, 1}, x)), Bptt{.steps = 5, .recorded = 6}),
                       doctest::Contains("0 to 5 recorded steps"), Error);
}

TEST_CASE("a run gives the logits after every step when asked to") {
  const ScalarNet net{{}, {V(Tensor<double>(Shape{}, 0.7))}, {}};
  const V x(Tensor<double>(Shape{1, 1, 1, 1}, 0.4));
  const auto result = run(net, x, Bptt{.steps = 4, .every_step = true});
  REQUIRE(result.earlier.size() == 3);
  double h = 0;
  for (const V& logits : result.earlier) {
    h = std::tanh(0.7 * h + 0.4);
    CHECK(logits.item() == doctest::Approx(2 * h));
  }
  CHECK(run(net, x, Bptt{.steps = 4}).earlier.empty());
}

TEST_CASE("a damped prediction is that of the damped fixed point iteration") {
  const ScalarNet net{{}, {V(Tensor<double>(Shape{}, -3.0))}, {}};
  const V x(Tensor<double>(Shape{1, 1, 1, 1}, 0.4));
  const Rbp policy{
      {.forward = fp::Plain{.damping = 0.4}, .stop = fp::Steps{.count = 6}, .on_fail = fp::OnFail::report}};
  CHECK(predict(net, x, 6, 0.4).item() == doctest::Approx(run(net, x, policy).logits.item()));
  CHECK(predict(net, x, 6, 0.4).item() != doctest::Approx(predict(net, x, 6).item()));
}

TEST_CASE("a net runs reversibly and online as its policy says") {
  const ScalarNet net{{}, {V(Tensor<double>(Shape{}, 0.7))}, {}};
  const V x(Tensor<double>(Shape{1, 1, 1, 1}, 0.4));
  const Training online = Online{{.steps = 4}}, reversible = Reversibly{{.steps = 2, .mixing = 0.5}};
  CHECK(run(net, x, online).logits.item() == doctest::Approx(run(net, x, Bptt{.steps = 4}).logits.item()));
  double y = 0, z = 0;
  for (int k = 0; k < 2; ++k) {
    y = 0.5 * y + 0.5 * std::tanh(0.7 * z + 0.4);
    z = 0.5 * z + 0.5 * std::tanh(0.7 * y + 0.4);
  }
  CHECK(run(net, x, reversible).logits.item() == doctest::Approx(2 * z));
}
