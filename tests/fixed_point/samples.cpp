#include <doctest/doctest.h>

#include "problems.hpp"
#include "settle/fixed_point/modulation.hpp"
#include "settle/ops/matmul.hpp"

// A sample of a batch is solved, differentiated and reported as if the others were not there.

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

constexpr double broken = std::numeric_limits<double>::quiet_NaN();

/// z -> rate z + drive, a rate for each sample.
constexpr auto linear = [](const auto& z, const auto& rate, const auto& drive) { return rate * z + drive; };

template <class T = double>
Var<T> column(const std::vector<T>& values) {
  return Tensor<T>(Shape{std::ssize(values), 1}, values);
}

struct Solved {
  std::vector<double> gradient;  ///< by each sample's drive, of sum(cotangent z)
  fp::AdjointReport report;
  int dropped = 0;
};

template <class T>
Solved solve_linear(const std::vector<T>& rates, const std::vector<T>& cotangents, const fp::Options& options) {
  Tape<T> tape;
  const Shape shape{std::ssize(rates), 1};
  const Var<T> drive = tape.leaf(Tensor<T>(shape, T(1)));
  const auto solution = fp::solve(linear, options, Var<T>(Tensor<T>(shape, T(0))), column(rates), drive);
  const auto gradient = grad(sum(solution.z * column(cotangents)), {drive}).front();
  return {to_doubles(gradient.value()), solution.report->adjoint, solution.report->dropped};
}

}  // namespace

TEST_CASE("the cotangent of one sample may be of any size beside another's") {
  for (const fp::Adjoint& adjoint : {fp::Adjoint(fp::Auto{}), fp::Adjoint(fp::Neumann{}), fp::Adjoint(fp::Gmres{}),
                                     fp::Adjoint(fp::BiCgStab{}), fp::Adjoint(fp::NormalCg{}),
                                     fp::Adjoint(fp::AdjointAnderson{}), fp::Adjoint(fp::Dense{})}) {
    CAPTURE(adjoint.index());
    const fp::Options options{.stop = fp::Residual{}, .adjoint = adjoint, .on_fail = fp::OnFail::report};
    const double alone = solve_linear<float>({0.5f}, {1e-14f}, options).gradient[0];
    CHECK(alone == doctest::Approx(2e-14).epsilon(1e-5));
    for (const float other : {1e-30f, 0.0f, 1e20f, 1e30f, std::numeric_limits<float>::quiet_NaN()})
      CHECK(solve_linear<float>({0.5f, 0.5f}, {1e-14f, other}, options).gradient[0] == alone);
  }
}

TEST_CASE("what is reported of a sample that is done does not change while a slower one goes on") {
  const fp::Options options{.stop = fp::Residual{}, .adjoint = fp::Neumann{}};
  const auto alone = solve_linear<float>({0.3f}, {1}, options).report;
  CHECK(alone.spectral_radius[0] == doctest::Approx(0.3).epsilon(1e-3));
  for (const float slower : {0.6f, 0.87f}) {
    const auto beside = solve_linear<float>({0.3f, slower}, {1, 1}, options).report;
    CHECK(beside.spectral_radius[0] == alone.spectral_radius[0]);
    CHECK(beside.residuals[0] == alone.residuals[0]);
    CHECK(beside.error_estimates[0] == alone.error_estimates[0]);
    CHECK(beside.spectral_radius[1] == doctest::Approx(slower).epsilon(1e-3));
  }
}

TEST_CASE("the trace of an adjoint is relative to each sample's right-hand side") {
  for (const fp::Adjoint& adjoint : {fp::Adjoint(fp::AdjointAnderson{}), fp::Adjoint(fp::Neumann{})}) {
    const fp::Options options{.stop = fp::Residual{}, .adjoint = adjoint, .on_fail = fp::OnFail::report};
    // Two unknowns a sample, so that sizes differ though the largest values are alike.
    const auto trace = [&](const std::vector<double>& cotangents) {
      Tape<double> tape;
      const Shape shape{2, 2};
      const Var<double> x = tape.leaf(Tensor<double>(shape, 1.0)), rates = column<double>({0, 0.8});
      const auto solution = fp::solve(linear, options, Var<double>(Tensor<double>(shape, 0.0)), rates, x);
      (void)grad(sum(solution.z * Var<double>(Tensor<double>(shape, cotangents))), {x});
      return solution.report->adjoint.trace;
    };
    CHECK(trace({1, 1, 1, 0}).front() == doctest::Approx(0.8));
    CHECK(trace({1e6, 1e6, 1e-6, 0}).front() == doctest::Approx(0.8));
    CHECK(trace({broken, 1, 1, 0}).front() == doctest::Approx(0.8));
  }
}

TEST_CASE("a sample is unrolled alone") {
  const fp::Options options{.stop = fp::Steps{5}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::unroll};
  const double alone = solve_linear<double>({0.8}, {1}, options).gradient[0];
  CHECK(alone == doctest::Approx(5).epsilon(1e-4));
  const auto beside = solve_linear<double>({0.8, 1.2}, {1, 1}, options);
  CHECK(beside.gradient[0] == alone);
  CHECK(beside.gradient[1] == doctest::Approx(1 + 1.2 + 1.44 + 1.728 + 2.0736).epsilon(1e-12));
  CHECK(beside.report.unrolled);
  const auto beside_broken = solve_linear<double>({0.8, 0.5}, {1, broken}, options);
  CHECK(beside_broken.gradient[0] == alone);
  CHECK(std::isnan(beside_broken.gradient[1]));
}

namespace {

/// z -> sqrt(w z) / 2 + x, whose derivatives are infinite at 0.
struct Root {
  Var<double> w;
  template <class V>
  V operator()(const V& z, const V& x) const {
    return map([](auto u, auto v, auto drive) { return 0.5 * sqrt(v * u) + drive; }, z, w, x);
  }
  void parameters(auto&& visit) { visit("w", w); }
};

/// A state of two parts, the second of which is made of the first.
struct TwoParts {
  Var<double> w;
  using Z = std::array<Var<double>, 2>;
  Z operator()(const Z& z, const Var<double>& x) const { return {0.5 * z[0] + w * x, 0.3 * z[0] * w}; }
  void parameters(auto&& visit) { visit("w", w); }
};

}  // namespace

TEST_CASE("a sample that is dropped for its adjoint reaches nothing that the samples share") {
  const auto root = [](const std::vector<double>& x) {
    Tape<double> tape;
    const Root step{tape.leaf(Tensor<double>(Shape{1, 1}, 1.0))};
    const Var<double> drive = tape.leaf(column(x).value());
    const auto solution =
        fp::solve(step, {.stop = fp::Residual{}, .on_fail = fp::OnFail::drop_sample}, column(x), drive);
    const auto gradients = grad(sum(solution.z), {step.w, drive});
    std::vector<double> out = to_doubles(gradients[1].value());
    out.push_back(gradients[0].item());
    out.push_back(solution.report->dropped);
    return out;
  };
  const auto two = root({1, 0.5}), three = root({1, 0.5, 0});
  CHECK(three == std::vector<double>{two[0], two[1], 0, two[2], 1});

  const auto parts = [](const std::vector<double>& x, const std::vector<double>& first,
                        const std::vector<double>& second, fp::AdjointState state, int dropped) {
    Tape<double> tape;
    const TwoParts step{tape.leaf(Tensor<double>(Shape{1, 1}, 1.0))};
    const Var<double> zero(Tensor<double>(Shape{std::ssize(x), 1}, 0.0));
    const fp::Options options{.stop = fp::Residual{}, .adjoint_state = state, .on_fail = fp::OnFail::drop_sample};
    const auto solution = fp::solve(step, options, TwoParts::Z{zero, zero}, column(x));
    const auto gradient = grad(sum(solution.z[0] * column(first)) + sum(solution.z[1] * column(second)), {step.w});
    CHECK(solution.report->dropped == dropped);
    return gradient[0].item();
  };
  for (const fp::AdjointState state : {fp::AdjointState::full, fp::AdjointState::first_part}) {
    const double alone = parts({1}, {1}, {1}, state, 0);
    CHECK(parts({1, 2}, {1, broken}, {1, 1}, state, 1) == alone);
    CHECK(parts({1, 2}, {1, 1}, {1, broken}, state, 1) == alone);
    CHECK(parts({2, 1}, {broken, 1}, {broken, 1}, state, 1) == alone);
  }
}

TEST_CASE("a sample that is unrolled reaches what samples share from its own place alone") {
  // z -> rate z + sqrt(w z) / 10 + 1: at the first sample's start the derivative by w is infinite.
  const auto step = [](const Var<double>& z, const Var<double>& w, const Var<double>& rate) {
    return map([](auto u, auto v, auto r) { return r * u + 0.1 * sqrt(v * u) + 1.; }, z, w, rate);
  };
  const auto by_w = [&](const std::vector<double>& rates, const std::vector<double>& starts,
                        const std::vector<double>& cotangents) {
    Tape<double> tape;
    const Var<double> w = tape.leaf(Tensor<double>(Shape{1, 1}, 1.0));
    const fp::Options options{.stop = fp::Steps{5}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::unroll};
    const auto solution = fp::solve(step, options, column(starts), w, column(rates));
    return grad(sum(solution.z * column(cotangents)), {w}).front().item();
  };
  const double unrolled = by_w({1.2}, {1}, {1}), solved = by_w({0.5}, {0}, {1});
  CHECK(std::isfinite(unrolled));
  CHECK(by_w({0.5, 1.2}, {0, 1}, {1, 1}) == doctest::Approx(solved + unrolled).epsilon(1e-9));
}

namespace {

/// z -> rate z + drive for a batch that is one system.
struct Coupled {
  static constexpr bool couples_samples = true;
  template <class V>
  V operator()(const V& z, const V& rate, const V& drive) const {
    return rate * z + drive;
  }
};

}  // namespace

TEST_CASE("a batch that is one system is unrolled, or dropped, as a whole") {
  for (const fp::OnFail on_fail : {fp::OnFail::unroll, fp::OnFail::drop_sample}) {
    Tape<double> tape;
    const Var<double> x = tape.leaf(Tensor<double>(Shape{3, 1}, 1.0)), zero(Tensor<double>(Shape{3, 1}, 0.0));
    const fp::Options options{.stop = fp::Steps{3}, .adjoint = fp::Neumann{}, .on_fail = on_fail};
    const auto solution = fp::solve(Coupled{}, options, zero, column<double>({0.5, 1.5, 0.25}), x);
    const auto gradient = to_doubles(grad(sum(solution.z), {x}).front().value());
    const std::vector<double> unrolled{1.75, 4.75, 1.3125}, dropped(3, 0.0);
    CHECK(gradient == (on_fail == fp::OnFail::unroll ? unrolled : dropped));
  }
}

TEST_CASE("the released series tells the samples' verdicts apart") {
  fp::Options options{.stop = fp::Residual{}, .adjoint = fp::ReleasedNeumann{}, .on_fail = fp::OnFail::drop_sample};
  const auto clean = solve_linear<double>({0.3, 0.3}, {0.1, 0.1}, options);
  const auto three = solve_linear<double>({0.3, 0.3, 0.3}, {0.1, 0.1, broken}, options);
  CHECK(three.report.samples ==
        std::vector{fp::Verdict::steps_done, fp::Verdict::steps_done, fp::Verdict::nonfinite});
  CHECK(three.gradient == std::vector<double>{clean.gradient[0], clean.gradient[1], 0});
  CHECK(three.dropped == 1);
  // Its rule of rejection stays what it is.
  options.stop = fp::Steps{3};
  const auto growing = solve_linear<double>({1.5}, {0.01}, options);
  const auto beside = solve_linear<double>({1.5, 0.3}, {0.01, broken}, options);
  CHECK(growing.gradient[0] == doctest::Approx(0.01));
  CHECK(beside.gradient[0] == growing.gradient[0]);
}

TEST_CASE("an argument as long as the batch that is none is known for one, wherever the iteration starts") {
  const auto step = [](const Var<double>& z, const Var<double>& w, const Var<double>& x) {
    return map([](auto u, auto drive) { return tanh(u + drive); }, conv(z, w), x);
  };
  const Shape shape{3, 3, 1, 1};
  Random random(2);
  const Var<double> w = uniform<double>(shape, -0.3, 0.3, random), zero(Tensor<double>(shape, 0.0));
  std::vector<double> drives(9, 0.0);
  drives[0] = 0.5, drives[1] = 1, drives[2] = -1;  // the other samples are solved at the start
  const Var<double> x(Tensor<double>(shape, drives));
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-8}};
  const auto found = fp::solve(step, options, zero, w, x);
  const auto shared = fp::solve(step, options, zero, fp::shared(w), x);
  const auto whole = fp::solve(step, {.stop = fp::Residual{.rtol = 1e-8, .compact = false}}, zero, fp::shared(w), x);
  CHECK(to_doubles(found.z.value()) == to_doubles(whole.z.value()));
  CHECK(to_doubles(shared.z.value()) == to_doubles(whole.z.value()));
  CHECK(found.report->forward.sample_steps < whole.report->forward.sample_steps);

  // The same where a sample is left out at the end; one that fails in its adjoint leaves the others where they are.
  const auto scaled = [](const Var<double>& z, const Var<double>& rate, const Var<double>& drive) {
    return map([](auto u, auto r, auto d) { return r * u + d; }, z, rate, drive);
  };
  const auto dropping = [&](bool forward, bool share) {
    Tape<double> tape;
    const Var<double> rates = tape.leaf(Tensor<double>(Shape{2}, {0.1, 0.5}));
    const Var<double> drive(Tensor<double>(Shape{2, 2}, {forward ? broken : 1, 1, 1, 1}));
    const Var<double> start(Tensor<double>(Shape{2, 2}, 0.0));
    const fp::Options drop{.stop = fp::Steps{40}, .on_fail = fp::OnFail::drop_sample};
    const auto solution = share ? fp::solve(scaled, drop, start, fp::shared(rates), drive)
                                : fp::solve(scaled, drop, start, rates, drive);
    const Var<double> c(Tensor<double>(Shape{2, 2}, {forward ? 1 : broken, 1, 1, 1}));
    const auto gradient = grad(sum(solution.z * c), {rates}).front();
    CHECK(solution.report->dropped == 1);
    return to_doubles(gradient.value());
  };
  for (const auto& gradient :
       {dropping(true, true), dropping(true, false), dropping(false, true), dropping(false, false)}) {
    CHECK(gradient[0] == doctest::Approx(1 / 0.81).epsilon(1e-5));  // of the second sample alone
    CHECK(gradient[1] == doctest::Approx(4).epsilon(1e-5));
  }
}

TEST_CASE("whichever sample is dropped, the others keep their gradients") {
  const fp::Options options{.stop = fp::Steps{60}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::drop_sample};
  for (std::size_t dropped = 0; dropped < 3; ++dropped)
    for (const bool forward : {false, true}) {
      CAPTURE(dropped);
      CAPTURE(forward);
      std::vector<double> rates{0.5, 0.25, 0.75}, cotangents{1, 1, 1};
      (forward ? rates : cotangents)[dropped] = broken;
      const auto found = solve_linear<double>(rates, cotangents, options);
      CHECK(found.dropped == 1);
      const double expected[] = {2, 4. / 3, 4};
      for (std::size_t s = 0; s < 3; ++s)
        CHECK(found.gradient[s] == doctest::Approx(s == dropped ? 0 : expected[s]).epsilon(1e-5));
    }
  // A recorded gradient cannot leave it out.
  Tape<double> tape;
  const Shape shape{2, 1};
  const Var<double> x = tape.leaf(Tensor<double>(shape, 1.0)), zero(Tensor<double>(shape, 0.0));
  const fp::Options steps{.stop = fp::Steps{6}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::drop_sample};
  const auto solution = fp::solve<2>(linear, steps, zero, column<double>({0.5, 1.2}), x);
  CHECK(contains(error_of([&] { (void)grad(sum(solution.z), {x}, {.create_graph = true}); }), "cannot be recorded"));
}

TEST_CASE("a warm spectral hinge sees a sample that had no cotangent") {
  const auto penalties = [](double of_second) {
    Random random(1);
    const Tensor<double> w = uniform<double>(Shape{8, 8}, -0.4, 0.4, random);
    const Tensor<double> x = uniform<double>(Shape{2, 8}, -0.1, 0.1, random);
    const auto step = [](const Var<double>& z, const Var<double>& weight, const Var<double>& drive) {
      return map([](auto u, auto d) { return tanh(u + d); }, matmul(z, weight), drive);
    };
    fp::Warm<Var<double>> warm{Var<double>(Tensor<double>(Shape{2, 8}, 0.0))};
    std::vector<double> out;
    for (int pass = 0; pass < 3; ++pass) {
      Tape<double> tape;
      const Var<double> weight = tape.leaf(w);
      const auto solution = fp::solve(step,
                                      {.stop = fp::Residual{},
                                       .adjoint = fp::Gmres{},
                                       .penalty = fp::SpectralHinge{.target = 0.1, .products = 60}},
                                      warm, weight, Var<double>(x));
      (void)grad(sum(solution.z * column<double>({1, of_second})) + solution.penalty, {weight});
      out.push_back(solution.penalty.item());
    }
    return out;
  };
  const auto both = penalties(1), first = penalties(0);
  for (std::size_t pass = 0; pass < 3; ++pass) {  // from where power iterations get to in one pass: not to the end
    CHECK(first[pass] > 0.8 * both[pass]);
    CHECK(first[pass] < 1.2 * both[pass]);
  }
}

TEST_CASE("a dual weight takes what is not a number for far too large, wherever it stands") {
  std::vector<double> weights;
  for (const int place : {0, 2, 3, 10, 19}) {
    fp::Report report;
    for (int k = 0; k < 19; ++k) report.adjoint.spectral_radius.push_back(0.1 + 0.05 * (k * 7 % 19));
    report.adjoint.spectral_radius.insert(report.adjoint.spectral_radius.begin() + place, broken);
    fp::DualWeight weight;
    for (int update = 0; update < 50; ++update) weight.update(report);
    weights.push_back(weight.weight());
  }
  for (const double weight : weights) CHECK(weight == weights.front());
}
