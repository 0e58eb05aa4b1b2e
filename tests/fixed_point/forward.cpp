#include <doctest/doctest.h>

#include <limits>

#include "problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

Var<double> column(const std::vector<double>& values) {
  return Tensor<double>(Shape{1, static_cast<Index>(values.size()), 1, 1}, values);
}

/// z -> rotation z + x: a fixed point that plain iteration circles for ever when rho = 1.
fp::Solution<Var<double>> solve_affine(const Matrix& m, const std::vector<double>& x, const fp::Options& options) {
  return fp::solve(Affine{}, options, column(std::vector<double>(x.size(), 0.0)), Var<double>(m.weight()), column(x));
}

/// Each sample is z -> rate z + 1 with a rate of its own; a rate above 1 diverges.
struct Rates {
  Var<double> operator()(const Var<double>& z, const Var<double>& rate) const {
    return map([](auto u, auto r) { return r * u + 1.; }, z, rate);
  }
};

Tensor<double> rates_of(const std::vector<double>& rates) {
  return Tensor<double>(Shape{static_cast<Index>(rates.size()), 1}, rates);
}

// Like batch statistics: each sample sees the batch's mean.
struct Coupled {
  Var<double> operator()(const Var<double>& z, const Var<double>& rate) const {
    return map([](auto u, auto r, auto m) { return r * u + 0.1 * m + 1.; }, z, rate, mean(z));
  }
};
struct Declared : Coupled {
  static constexpr bool couples_samples = true;
};

const fp::Forward solvers[] = {fp::Plain{}, fp::Plain{.damping = 0.3}, fp::Anderson{}, fp::Broyden{}};

}  // namespace

TEST_CASE("F1: analytic fixed points are met to 1e-10 by every solver") {
  const Matrix w = scaled_to_radius(random_matrix(8, 3), 0.8);
  const std::vector<double> x{1, -2, 3, 0.5, 0, 1, -1, 2};
  for (const auto& solver : solvers) {
    const fp::Options options{.forward = solver, .stop = fp::Residual{.rtol = 1e-13, .max_steps = 1000}};
    const auto t = Var<double>(Tensor<double>(Shape{3, 1}, {0.5, -2, 7}));
    const auto half = fp::solve([](const Var<double>& z, const Var<double>& u) { return 0.5 * z + u; }, options,
                                Var<double>(Tensor<double>(Shape{3, 1}, 0.0)), t);
    for (std::size_t k = 0; k < 3; ++k)
      CHECK(half.z.value().values()[k] == doctest::Approx(2 * t.value().values()[k]).epsilon(1e-10));

    const auto cosine = fp::solve([](const Var<double>& z) { return map([](auto u) { return cos(u); }, z); }, options,
                                  Var<double>(Tensor<double>(Shape{1, 1}, 1.0)));
    CHECK(cosine.z.item() == doctest::Approx(0.73908513321516064).epsilon(1e-10));

    // Newton's map for the square root, from 1.
    const auto root = fp::solve(
        [](const Var<double>& z, const Var<double>& a) {
          return map([](auto u, auto v) { return 0.5 * (u + v / u); }, z, a);
        },
        options, Var<double>(Tensor<double>(Shape{1, 1}, 1.0)), Var<double>(Tensor<double>(Shape{1, 1}, 2.0)));
    CHECK(root.z.item() == doctest::Approx(std::sqrt(2.0)).epsilon(1e-10));

    const auto affine = solve_affine(w, x, options);
    CHECK(relative_error(to_doubles(affine.z.value()), w.resolvent(x)) <= 1e-10);
    CHECK(affine.report->forward.verdict == fp::Verdict::converged);
  }
}

TEST_CASE("F1: in float an affine map's fixed point is met to 1e-5 by every solver") {
  const Matrix w = scaled_to_radius(random_matrix(8, 3), 0.8);
  const std::vector<double> x{1, -2, 3, 0.5, 0, 1, -1, 2};
  const Tensor<float> drive(Shape{1, 8, 1, 1}, std::vector<float>(x.begin(), x.end()));
  for (const auto& solver : solvers) {
    const auto solution =
        fp::solve(Affine{}, {.forward = solver, .stop = fp::Residual{.rtol = 1e-6, .max_steps = 1000}},
                  Var<float>(Tensor<float>(drive.shape(), 0.f)), Var<float>(w.weight<float>()), Var<float>(drive));
    CHECK(relative_error(to_doubles(solution.z.value()), w.resolvent(x)) <= 1e-5);
  }
}

TEST_CASE("F2: on a rotation plain iteration reports max_steps, Anderson and Broyden converge") {
  const Matrix w = rotation_matrix(2, 1.0, 1.5707963267948966);
  const std::vector<double> x{1, 2}, expected = w.resolvent(x);
  fp::Options options{.stop = fp::Residual{.rtol = 1e-9, .max_steps = 40}, .on_fail = fp::OnFail::report};
  const auto plain = solve_affine(w, x, options);
  CHECK(plain.report->forward.verdict == fp::Verdict::max_steps);
  CHECK_FALSE(plain.report->ok());
  for (const fp::Forward& solver : {fp::Forward(fp::Anderson{}), fp::Forward(fp::Broyden{})}) {
    options.forward = solver;
    const auto solution = solve_affine(w, x, options);
    CHECK(solution.report->forward.verdict == fp::Verdict::converged);
    CHECK(solution.report->forward.steps <= 12);
    CHECK(relative_error(to_doubles(solution.z.value()), expected) <= 1e-8);
  }
  options.on_fail = fp::OnFail::throw_error;
  options.forward = fp::Plain{};
  CHECK(error_of([&] { (void)solve_affine(w, x, options); }).find("1 max steps") != std::string::npos);
}

TEST_CASE("F3: the same tolerance gives the same true residual for damping 0, 0.5, 0.9 and 0.99") {
  const Matrix w = symmetric_matrix(6, 0.9, 4);
  const std::vector<double> x{1, 2, 3, 4, 5, 6};
  for (const double damping : {0.0, 0.5, 0.9, 0.99}) {
    const auto solution = solve_affine(w, x,
                                       {.forward = fp::Plain{.damping = damping},
                                        .stop = fp::Residual{.rtol = 1e-6, .max_steps = 100000, .patience = 1000}});
    // z is f of the point that was accepted, one undamped step on: |f(z) - z| <= 0.9 of what was accepted there.
    std::vector<double> z = to_doubles(solution.z.value()), next = w.times(z);
    for (std::size_t k = 0; k < z.size(); ++k) next[k] += x[k];
    CHECK(relative_error(next, z) <= 1e-6);
    CHECK(solution.report->forward.relative.front() <= 1e-6);
    CHECK(solution.report->forward.relative.front() >= 1e-6 * 0.8);
  }
}

TEST_CASE("F4: at rho 0.99 Anderson needs fewer steps than plain iteration at every tolerance down to 1e-9") {
  const Matrix w = symmetric_matrix(40, 0.99, 5);
  std::vector<double> x(40);
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = std::sin(static_cast<double>(k));
  const auto steps = [&](const fp::Forward& solver, double rtol) {
    const auto solution =
        solve_affine(w, x, {.forward = solver, .stop = fp::Residual{.rtol = rtol, .max_steps = 10000}});
    return solution.report->forward.steps;
  };
  for (const double rtol : {1e-3, 1e-6, 1e-9}) {
    CHECK(3 * steps(fp::Anderson{}, rtol) <= steps(fp::Plain{}, rtol));
    CHECK(3 * steps(fp::Broyden{}, rtol) <= steps(fp::Plain{}, rtol));
  }
}

TEST_CASE("F5: NaN, divergence and a 2-cycle have three distinct verdicts, and throw by default") {
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-6, .max_steps = 200}, .on_fail = fp::OnFail::report};
  const auto verdict = [&](const auto& step, const fp::Options& o) {
    return fp::solve(step, o, Var<double>(Tensor<double>(Shape{1, 1}, 1.0))).report->forward.verdict;
  };
  const auto nan = [](const Var<double>& z) { return map([](auto u) { return log(u) - 1.; }, z); };
  const auto grows = [](const Var<double>& z) { return 1.5 * z; };
  const auto flips = [](const Var<double>& z) { return map([](auto u) { return 3. - u; }, z); };
  CHECK(verdict(nan, options) == fp::Verdict::nonfinite);
  CHECK(verdict(grows, options) == fp::Verdict::diverged);
  CHECK(verdict(flips, options) == fp::Verdict::stalled);
  CHECK(error_of([&] { verdict(nan, {.stop = fp::Residual{}}); }).find("1 non-finite") != std::string::npos);
  CHECK(error_of([&] { verdict(grows, {.stop = fp::Residual{}}); }).find("1 diverged") != std::string::npos);
  CHECK(error_of([&] { verdict(flips, {.stop = fp::Residual{}}); }).find("1 stalled") != std::string::npos);
  CHECK(error_of([&] { verdict(nan, {.stop = fp::Steps{6}}); }).find("1 non-finite") != std::string::npos);
}

TEST_CASE(
    "F5: where there is no fixed point no solver says that it converged, though z runs away and the residual does "
    "not") {
  Matrix w(2);
  w(0, 0) = 1;  // z0 <- z0 + 1
  w(1, 1) = 0.5;
  for (const auto& solver : solvers)
    CHECK(failed(
        solve_affine(
            w, {1, 1},
            {.forward = solver, .stop = fp::Residual{.rtol = 1e-3, .max_steps = 5000}, .on_fail = fp::OnFail::report})
            .report->forward.verdict));
}

TEST_CASE("F6: a sample's result is the same bits alone, among easy samples and beside a diverging one") {
  for (const fp::Forward& solver : solvers) {
    const fp::Options options{
        .forward = solver, .stop = fp::Residual{.rtol = 1e-8, .max_steps = 2000}, .on_fail = fp::OnFail::report};
    const auto first = [&](const std::vector<double>& rates) {
      const Tensor<double> r = rates_of(rates);
      const auto solution = fp::solve(Rates{}, options, Var<double>(Tensor<double>(r.shape(), 0.0)), Var<double>(r));
      CHECK(solution.report->forward.samples.front() == fp::Verdict::converged);
      return solution.z.value().values()[0];
    };
    const double alone = first({0.9});
    CHECK(alone == doctest::Approx(10).epsilon(1e-6));
    CHECK(first({0.9, 0.1, 0.2, 0.3, 0.4}) == alone);
    CHECK(first({0.9, 0.1, 1.5}) == alone);
    CHECK(first({0.9, 0.1, std::numeric_limits<double>::quiet_NaN()}) == alone);
  }
}

TEST_CASE("F6: freezing and compaction cut the evaluations by more than half, and change no result") {
  std::vector<double> rates;
  for (int k = 0; k < 64; ++k) rates.push_back(0.3 + 0.69 * std::pow(k / 63.0, 6));
  const Tensor<double> r = rates_of(rates);
  const auto solve = [&](bool compact) {
    return fp::solve(Rates{}, {.stop = fp::Residual{.rtol = 1e-6, .max_steps = 5000, .compact = compact}},
                     Var<double>(Tensor<double>(r.shape(), 0.0)), Var<double>(r));
  };
  const auto whole = solve(false), compacted = solve(true);
  CHECK(whole.report->forward.sample_steps == static_cast<std::size_t>(64 * whole.report->forward.steps));
  CHECK(4 * compacted.report->forward.sample_steps <= whole.report->forward.sample_steps);
  CHECK(to_doubles(whole.z.value()) == to_doubles(compacted.z.value()));
}

TEST_CASE("F6: a step that couples samples is found out at compaction, and is one system when it says so") {
  const Tensor<double> r = rates_of({0.1, 0.1, 0.1, 0.1, 0.8});
  const Var<double> z0 = Tensor<double>(r.shape(), 0.0), rate = r;
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-8, .max_steps = 500}};
  CHECK(error_of([&] { (void)fp::solve(Coupled{}, options, z0, rate); }).find("couples_samples = true") !=
        std::string::npos);
  const auto solution = fp::solve(Declared{}, options, z0, rate);
  CHECK(solution.report->couples_samples);
  CHECK(solution.report->forward.samples.size() == 1);
  CHECK(solution.report->ok());
}

TEST_CASE("F7: a warm start at the fixed point costs one evaluation, and z0 gets no gradient") {
  const Matrix w = scaled_to_radius(random_matrix(5, 9), 0.6);
  Tape<double> tape;
  const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(Tensor<double>(Shape{1, 5, 1, 1}, 1.0));
  const Var<double> cold = tape.leaf(Tensor<double>(Shape{1, 5, 1, 1}, 0.0));
  int evaluations = 0;
  const auto counted = [&](const Var<double>& z, const Var<double>& m, const Var<double>& u) {
    ++evaluations;
    return Affine{}(z, m, u);
  };
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-10, .max_steps = 500}};
  const auto first = fp::solve(counted, options, cold, weight, x);
  CHECK(evaluations == first.report->forward.steps + 1);  // the last point's is recorded
  CHECK(to_doubles(grad(sum(first.z), {cold}).front().value()) == std::vector<double>(5, 0.0));
  evaluations = 0;
  const auto second = fp::solve(counted, options, first.z, weight, x);
  CHECK(evaluations == 1);
  CHECK(second.report->forward.steps == 1);
  fp::Warm warm{stop_gradient(cold)};
  (void)fp::solve(counted, options, warm, weight, x);
  evaluations = 0;
  (void)fp::solve(counted, options, warm, weight, x);
  CHECK(evaluations == 1);
}

TEST_CASE("F8: a state of two tensors gives the same numbers as their concatenation, to 1e-11") {
  const Matrix w = scaled_to_radius(random_matrix(6, 8), 0.7);
  const std::vector<double> x{1, 2, 3, 4, 5, 6};
  const auto block = [&](int i0, int j0) {
    Matrix b(3);
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) b(i, j) = w(i0 + i, j0 + j);
    return Var<double>(b.weight());
  };
  using Pair = std::array<Var<double>, 2>;
  const auto step = [&](const Pair& z, const Pair& u) {
    return Pair{conv(z[0], block(0, 0)) + conv(z[1], block(0, 3)) + u[0],
                conv(z[0], block(3, 0)) + conv(z[1], block(3, 3)) + u[1]};
  };
  for (const fp::Forward& solver : solvers) {
    const fp::Options options{
        .forward = solver, .stop = fp::Residual{.rtol = 1e-13, .max_steps = 1000}, .adjoint = fp::Gmres{.rtol = 1e-13}};
    Tape<double> tape;
    const Pair zero{column({0, 0, 0}), column({0, 0, 0})},
        u{tape.leaf(column({1, 2, 3}).value()), tape.leaf(column({4, 5, 6}).value())};
    const auto split = fp::solve(step, options, zero, u);
    const auto gradient = grad(sum(split.z[0] * split.z[0]) + sum(split.z[1]), {u[0], u[1]});
    const auto whole_z = w.resolvent(x);
    std::vector<double> both = to_doubles(split.z[0].value()), second = to_doubles(split.z[1].value());
    both.insert(both.end(), second.begin(), second.end());
    CHECK(relative_error(both, whole_z) <= 1e-11);
    const auto whole_g = w.transposed().resolvent({2 * whole_z[0], 2 * whole_z[1], 2 * whole_z[2], 1, 1, 1});
    std::vector<double> g = to_doubles(gradient[0].value()), g1 = to_doubles(gradient[1].value());
    g.insert(g.end(), g1.begin(), g1.end());
    CHECK(relative_error(g, whole_g) <= 1e-11);
  }
}

TEST_CASE("F9: every solver gives the same bits twice, and allocates nothing in a second solve") {
  const Matrix w = scaled_to_radius(random_matrix(16, 2), 0.9);
  std::vector<double> x(16, 1.0);
  for (const fp::Forward& solver : solvers) {
    const fp::Options options{.forward = solver, .stop = fp::Residual{.rtol = 1e-9, .max_steps = 1000}};
    const auto first = to_doubles(solve_affine(w, x, options).z.value());
    const std::size_t before = Memory::instance().use().allocations;
    const auto second = to_doubles(solve_affine(w, x, options).z.value());
    CHECK(Memory::instance().use().allocations == before);
    CHECK(first == second);
  }
}

TEST_CASE("a result of another shape, or bad options, are errors that say what was expected") {
  const Var<double> z0 = Tensor<double>(Shape{2, 3}, 0.0);
  const auto text = [&](const auto& step, const fp::Options& options) {
    return error_of([&] { (void)fp::solve(step, options, z0); });
  };
  const auto same = [](const Var<double>& z) { return 0.5 * z; };
  CHECK(text([](const Var<double>& z) { return sum(z, {1}); }, {}) ==
        "[fixed_point] the step must keep the state's shape (2, 3), got (2, 1)");
  CHECK(text(same, {.stop = fp::Steps{0}}) == "[fixed_point] expected at least 1 step, got 0");
  CHECK(text(same, {.forward = fp::Plain{.damping = 1}}) == "[fixed_point] expected 0 <= damping < 1, got 1");
  CHECK(text(same, {.adjoint = fp::Gmres{.restart = 0}}) == "[fixed_point] expected restart >= 1, got 0");
  CHECK(text(same, {.forward = fp::Anderson{}, .adjoint = fp::Checkpointed{}}).find("Checkpointed") !=
        std::string::npos);
}

static_assert(fp::Step<Affine, Var<double>, Var<double>, Var<double>>);
static_assert(!fp::Step<Rates, Var<double>>, "a forgotten argument is no step");
static_assert(!fp::State<double>);
