#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "problems.hpp"
#include "settle/optim/clip.hpp"

// What a solve and its report say where numbers are extreme, a start far off, an option senseless, or the error hidden.

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

/// z -> a z + x elementwise: J = diag(a).
struct Diagonal {
  template <class V>
  V operator()(const V& z, const V& a, const V& x) const {
    return a * z + x;
  }
};

const std::vector<fp::Adjoint>& adjoint_policies() {
  static const std::vector<fp::Adjoint> all{fp::Auto{},
                                            fp::Neumann{.max_products = 200},
                                            fp::Terms{0},
                                            fp::Terms{15},
                                            fp::Phantom{},
                                            fp::Gmres{},
                                            fp::BiCgStab{},
                                            fp::NormalCg{},
                                            fp::AdjointAnderson{},
                                            fp::ReleasedNeumann{}};
  return all;
}

}  // namespace

TEST_CASE("a stability profile sees a Jacobian again that was zero for a step") {
  const auto step = [](const Var<double>& z) {
    return map([](auto v) { return max(0.9 * v + 1., 3.) - 1000. * max(v - 100., 0.); }, z);
  };
  const auto none = [](const Var<double>&) { return 0.0; };
  for (const int products : {1, 2, 4})
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{2, 1, 3, 1}}) {
      const auto profile = fp::stability_profile(step, {.steps = 6, .products = products},
                                                 Var<double>(Tensor<double>(shape, 101.0)), none);
      CHECK(profile[0].spectral_radius == 0);
      for (std::size_t k = 1; k < profile.size(); ++k)
        CHECK(profile[k].spectral_radius == doctest::Approx(0.9).epsilon(1e-12));
    }
}

TEST_CASE("a stability profile sees what an earlier step's Jacobian sent to nothing") {
  // J = diag(0.9, 0, 0) and diag(0, 0.8, 0) by turns: the last number is a clock.
  using V = Var<double>;
  using Z = std::array<V, 3>;
  const auto step = [](const Z& z) {
    const auto& [u, v, clock] = z;
    return Z{map([](auto a, auto c) { return select(c > 0., 0.9 * a, 0. * a); }, u, clock),
             map([](auto a, auto c) { return select(c > 0., 0. * a, 0.8 * a); }, v, clock),
             map([](auto c) { return select(c > 0., 0. * c - 1., 0. * c + 1.); }, clock)};
  };
  const V one = Tensor<double>(Shape{1, 2}, 1.0);
  for (const auto& point : fp::stability_profile(step, {.steps = 6}, Z{one, one, one}, [](const Z&) { return 0.0; })) {
    CAPTURE(point.step);
    CHECK(point.spectral_radius == doctest::Approx(point.step % 2 ? 0.8 : 0.9).epsilon(1e-12));
  }
}

TEST_CASE("a warm spectral hinge goes on to see what no loss depends on") {
  for (const double largest : {2.0, -2.0, 1.05}) {
    CAPTURE(largest);
    const Tensor<double> rates(Shape{1, 3}, {0.3, 0.6, largest}), x(Shape{1, 3}, 1.0);
    fp::Warm warm{Var<double>(Tensor<double>(Shape{1, 3}, {1 / 0.7, 1 / 0.4, 1 / (1 - largest)}))};
    for (int pass = 1; pass <= 4; ++pass) {
      CAPTURE(pass);
      Tape<double> tape;
      const Var<double> a = tape.leaf(rates);
      const auto solution = fp::solve(
          Diagonal{}, {.stop = fp::Residual{}, .adjoint = fp::Gmres{}, .penalty = fp::SpectralHinge{.target = 0.9}},
          warm, a, Var<double>(x));
      const double above = std::abs(largest) - 0.9;
      if (pass > 1) CHECK(solution.penalty.item() == doctest::Approx(above * above).epsilon(1e-6));
      const Var<double> weights = Tensor<double>(Shape{1, 3}, {1.0 * pass, 4.0 - pass, 0.0});
      const auto g = grad(sum(solution.z * weights) + solution.penalty, {a}).front();
      if (pass > 1) CHECK(std::abs(g.value().data()[2]) == doctest::Approx(2 * above).epsilon(1e-6));
    }
  }
}

TEST_CASE("a stability profile refuses counts below 0") {
  const auto profile = [](const fp::StabilitySettings& settings) {
    (void)fp::stability_profile([](const Var<double>& z) { return 0.5 * z; }, settings,
                                Var<double>(Tensor<double>(Shape{1, 2}, 1.0)), [](const Var<double>&) { return 0.0; });
  };
  for (const fp::StabilitySettings& bad : {fp::StabilitySettings{.steps = -1}, fp::StabilitySettings{.reference = -1},
                                           fp::StabilitySettings{.products = -1}})
    CHECK_THROWS_AS(profile(bad), Error);
}

TEST_CASE_TEMPLATE("with Certify an estimate is at least half of the error along what b hardly excites", T, double,
                   float) {
  // Without, the estimate of the first of these is 2e-6, and its error 8e-4.
  const Judged plain = judge<double>(diagonal_matrix({-0.6, 0, 0.999}), {-0.7, 1, 1e-6}, {});
  CHECK(plain.report.adjoint.verdict == fp::Verdict::converged);
  CHECK(plain.error > 1e-4);
  CHECK(plain.estimate < 1e-5);

  Random random(1);
  const double slack = sizeof(T) == 8 ? 1.1 : 4;  // no wild pessimism either
  const auto check = [&](const std::vector<double>& rates, const std::vector<double>& b) {
    const Matrix w = diagonal_matrix(rates);
    const double amplification = 1 / (1 - *std::max_element(rates.begin(), rates.end()));
    for (const fp::Adjoint& policy : adjoint_policies()) {
      const Judged judged = judge<T>(w, b, {.adjoint = policy, .certify = fp::Certify{}});
      CAPTURE(w.n);
      CAPTURE(policy.index());
      CAPTURE(judged.error);
      CAPTURE(judged.estimate);
      CHECK(judged.estimate >= 0.5 * judged.error);
      CHECK(judged.report.adjoint.amplification.at(0) <= slack * amplification);
    }
  };
  check({-0.6, 0, 0.999}, {-0.7, 1, 1e-6});
  for (const double a : {0.9, 0.99, 0.999, 0.9999})
    for (const double share : {1e-2, 1e-5, 1e-8})
      for (const int others : {0, 2, 25}) {
        std::vector<double> rates{a}, b{share};
        for (int k = 0; k < others; ++k) rates.push_back(random.uniform(-0.9, 0.9)), b.push_back(random.normal());
        check(rates, b);
      }
}

TEST_CASE_TEMPLATE("with Certify an estimate is at least half of the error for Jordan blocks", T, double, float) {
  const auto check = [&](const Matrix& w, const std::vector<double>& b) {
    for (const fp::Adjoint& policy : adjoint_policies()) {
      const Judged judged = judge<T>(w, b, {.adjoint = policy, .certify = fp::Certify{}});
      CAPTURE(w.n);
      CAPTURE(policy.index());
      CAPTURE(judged.error);
      CAPTURE(judged.estimate);
      CHECK(judged.estimate >= 0.5 * judged.error);
    }
  };
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    check(jordan_blocks(1, 20, 0.5, 1), random_vector(20, seed));
    check(jordan_blocks(2, 20, 0.5, 1), random_vector(40, seed));
    check(jordan_blocks(4, 6, 0.8, 1), random_vector(24, seed));
    check(jordan_blocks(1, 12, -0.5, 2), random_vector(12, seed));
    check(jordan_blocks(3, 3, 0.9, 0.5), random_vector(9, seed));
    check(non_normal_matrix(40, 0.5, 20), random_vector(40, seed));
  }
}

TEST_CASE_TEMPLATE("a Lipschitz constant's bound holds in any precision: what rounding hides belongs to it", T, double,
                   float) {
  Random random(2);
  for (const double lipschitz : {0.3, 0.9, 0.99})
    for (const int n : {1, 3, 20})
      for (int trial = 0; trial < 10; ++trial) {
        std::vector<double> a, b;
        for (int k = 0; k < n; ++k)
          a.push_back(static_cast<double>(
              std::nextafter(static_cast<T>(k == 0 ? lipschitz : random.uniform(-lipschitz, lipschitz)), T{0}))),
              b.push_back(random.normal() * std::pow(10, random.uniform(-8, 0)));
        for (const fp::Adjoint& policy : adjoint_policies()) {
          const Judged judged = judge<T>(diagonal_matrix(a), b, {.adjoint = policy, .lipschitz = lipschitz});
          CAPTURE(policy.index());
          CAPTURE(lipschitz);
          CHECK(judged.error <= judged.estimate);
        }
      }
}

TEST_CASE_TEMPLATE("a state's scale changes neither steps nor verdicts nor digits", T, double, float) {
  const std::vector<double> a{0.5, 0.9, -0.3}, x{1, -0.2, 0.7};
  const auto solve = [&](const fp::Options& options, double scale) {
    std::vector<double> drive = x;
    for (double& v : drive) v *= scale;
    return fp::solve(Diagonal{}, options, sample<T>({0, 0, 0}), sample<T>(a), sample<T>(drive));
  };
  const bool is_double = sizeof(T) == 8;
  for (const fp::Forward& forward : {fp::Forward(fp::Plain{}), fp::Forward(fp::Plain{.damping = 0.2}),
                                     fp::Forward(fp::Anderson{}), fp::Forward(fp::Broyden{})}) {
    const fp::Options options{.forward = forward, .stop = fp::Residual{.rtol = 1e-4, .max_steps = 300}};
    const auto unit = solve(options, 1);
    CHECK(unit.report->forward.verdict == fp::Verdict::converged);
    for (const int power :
         is_double ? std::vector<int>{-990, -515, -300, 300, 515, 990} : std::vector<int>{-90, -76, 67, 100}) {
      CAPTURE(forward.index());
      CAPTURE(power);
      const auto scaled = solve(options, std::ldexp(1.0, power));
      CHECK(scaled.report->forward.verdict == fp::Verdict::converged);
      CHECK(scaled.report->forward.steps == unit.report->forward.steps);
      CHECK(scaled.report->forward.relative.at(0) ==
            doctest::Approx(unit.report->forward.relative.at(0)).epsilon(1e-3));
      for (int k = 0; k < 3; ++k)
        CHECK(static_cast<double>(scaled.z.value().data()[k]) ==
              doctest::Approx(std::ldexp(static_cast<double>(unit.z.value().data()[k]), power)).epsilon(1e-5).scale(0));
    }
  }
  // The numbers in a step: 1e-155 was "converged" after one of them, 1e155 "non-finite".
  for (const double scale :
       is_double ? std::vector<double>{1e-155, 1e155, 1e-290, 1e290} : std::vector<double>{1e-23, 1e20}) {
    const auto solution = solve({.stop = fp::Residual{.rtol = 1e-6, .max_steps = 300}}, scale);
    CHECK(solution.report->forward.verdict == fp::Verdict::converged);
    for (int k = 0; k < 3; ++k)
      CHECK(static_cast<double>(solution.z.value().data()[k]) ==
            doctest::Approx(scale * x[static_cast<std::size_t>(k)] / (1 - a[static_cast<std::size_t>(k)]))
                .epsilon(1e-4)
                .scale(0));
  }
}

TEST_CASE("a batch may hold states of all scales") {
  const std::vector<double> scales{1e-290, 1e-155, 0, 1, 1e155, 1e290};
  Tensor<double> x(Shape{6, 2});
  for (std::size_t k = 0; k < 12; ++k) x.mutable_data()[k] = (k % 2 ? -0.4 : 1) * scales[k / 2];
  for (const fp::Forward& forward :
       {fp::Forward(fp::Plain{}), fp::Forward(fp::Anderson{}), fp::Forward(fp::Broyden{})}) {
    Tape<double> tape;
    const Var<double> drive = tape.leaf(x);
    const auto solution = fp::solve([](const Var<double>& z, const Var<double>& u) { return 0.6 * z + u; },
                                    {.forward = forward, .stop = fp::Residual{.rtol = 1e-8, .max_steps = 200}},
                                    Var<double>(Tensor<double>(Shape{6, 2}, 0.0)), drive);
    for (const fp::Verdict v : solution.report->forward.samples) CHECK(v == fp::Verdict::converged);
    for (std::size_t k = 0; k < 12; ++k)
      CHECK(std::abs(solution.z.value().data()[k] - 2.5 * x.data()[k]) <= 1e-6 * std::abs(x.data()[k]));
    // Cotangents of all scales.
    const auto g = grad(sum(solution.z * Var<double>(x)), {drive}).front();
    for (std::size_t k = 0; k < 12; ++k)
      CHECK(std::abs(g.value().data()[k] - 2.5 * x.data()[k]) <= 1e-5 * std::abs(x.data()[k]));
    CHECK(solution.report->ok());
  }
}

TEST_CASE_TEMPLATE("the price of what moves does not depend on the state's scale", T, double, float) {
  const auto price = [](const Tensor<T>& drive) {
    Tape<T> tape;
    const Var<T> x = tape.leaf(drive);
    const auto solution =
        fp::solve([](const Var<T>& z, const Var<T>& u) { return 0.5 * z + u; },
                  {.stop = fp::Steps{5}, .penalty = fp::Movement{}}, Var<T>(Tensor<T>(drive.shape(), T{0})), x);
    return std::pair(static_cast<double>(solution.penalty.item()),
                     to_doubles(grad(solution.penalty, {x}).front().value()));
  };
  // From 15 / 8 to 31 / 16 of x in the last step.
  const double slope = 2 * (1.0 / 16) * (15.0 / 8) / std::pow(31.0 / 16, 3);
  const bool is_double = sizeof(T) == 8;
  const auto value_at = [&](double scale) { return price(Tensor<T>(Shape{1, 1}, static_cast<T>(scale))); };
  for (const int power :
       is_double ? std::vector<int>{-900, -40, 0, 40, 900} : std::vector<int>{-100, -40, 0, 40, 100}) {
    CAPTURE(power);
    const auto found = value_at(std::ldexp(1.0, power));
    CHECK(found.first == value_at(1).first);
    CHECK(found.first == doctest::Approx(1.0 / 961).epsilon(1e-6));
    CHECK(std::ldexp(found.second.front(), power) == doctest::Approx(slope).epsilon(1e-5));
  }
  // Samples of all scales, one of which rests at 0.
  const double small = is_double ? 1e-290 : 1e-23, large = is_double ? 1e290 : 1e20;
  const Tensor<T> mixed(Shape{4, 1}, {T{1}, static_cast<T>(small), T{0}, static_cast<T>(large)});
  const auto found = price(mixed);
  CHECK(found.first == doctest::Approx(3.0 / 4 / 961).epsilon(1e-5));
  for (const std::size_t k : {0u, 1u, 3u})
    CHECK(found.second[k] * static_cast<double>(mixed.data()[k]) == doctest::Approx(slope / 4).epsilon(1e-5));
}

TEST_CASE("the global norm of gradients neither over- nor underflows, and clipping keeps their direction") {
  for (const double scale : {1e-290, 1e-155, 1.0, 1e155, 1e290}) {
    std::vector<Var<double>> g{Tensor<double>(Shape{2}, {3 * scale, 0.0}), Tensor<double>(Shape{1}, -4 * scale)};
    CHECK(global_norm(g) == doctest::Approx(5 * scale).epsilon(1e-14).scale(0));
    CHECK(clip_global_norm(g, scale / 10) == doctest::Approx(5 * scale).epsilon(1e-14).scale(0));
    if (scale >= 1) CHECK(g[1].value().data()[0] == doctest::Approx(-0.08 * scale).epsilon(1e-5).scale(0));
  }
  std::vector<Var<float>> large{Tensor<float>(Shape{100}, 3e38f)};  // a norm, and a factor, that are no floats
  CHECK(clip_global_norm(large, 1.0) == doctest::Approx(3e39));
  CHECK(large[0].value().data()[99] == doctest::Approx(0.1));
}

TEST_CASE("a report has doubts about a state that did not settle, or seems to have") {
  const auto report_of = [](double a, double x0, double z0, const fp::Options& options) {
    Tape<double> tape;
    const Var<double> rate = tape.leaf(Tensor<double>(Shape{1, 1}, a)), x = Tensor<double>(Shape{1, 1}, x0);
    const auto solution = fp::solve(Diagonal{}, options, Var<double>(Tensor<double>(Shape{1, 1}, z0)), rate, x);
    (void)grad(sum(solution.z), {rate});
    return *solution.report;
  };
  for (const double a : {1.5, 1.01, 2.0, -1.5, 30.0, 0.99}) {
    CAPTURE(a);
    const fp::Report report = report_of(a, 1, 0, {});
    CHECK_FALSE(report.ok());
    CHECK(report.doubts().find("has not settled") != std::string::npos);
    CHECK_FALSE(fp::failed(report.forward.verdict));
  }
  for (const double slow : {1e-9, 1e-8, 5e-8}) {  // the fixed point is 1000
    CAPTURE(slow);
    const fp::Report report = report_of(1 - slow, 1000 * slow, 1, {.stop = fp::Residual{}});
    CHECK(report.forward.verdict == fp::Verdict::converged);
    CHECK_FALSE(report.ok());
  }
  // Where the state has settled there are none, even where J is large.
  for (const double a : {0.0, 0.5, -0.9}) CHECK(report_of(a, 1, 0, {.stop = fp::Residual{}}).doubts() == "");
  CHECK(report_of(0.5, 1, 0, {}).ok());
  CHECK(report_of(1.5, 1, -2, {}).ok());  // a start at the fixed point
  for (const double a : {3.0, -1.5})
    CHECK(report_of(a, 1, 0, {.forward = fp::Anderson{}, .stop = fp::Residual{.rtol = 1e-8}}).ok());
  // A gradient that is not that of the fixed point.
  CHECK_FALSE(report_of(0.9, 1, 0, {.stop = fp::Residual{}, .adjoint = fp::Terms{0}}).ok());
  CHECK(report_of(0.9, 1, 0, {.stop = fp::Residual{}, .adjoint = fp::Terms{0}}).doubts().find("adjoint") !=
        std::string::npos);
  CHECK(report_of(0.01, 1, 0, {.stop = fp::Residual{}, .adjoint = fp::Terms{0}}).ok());
  CHECK_FALSE(report_of(0.5, 1, 0, {}).ok(1e-9));  // by a tolerance of the caller's
  // An adjoint that nobody looked at, cut short or beside a state that creeps; that of the steps taken needs no look.
  const fp::Options unchecked{.stop = fp::Residual{}, .check_adjoint = false};
  fp::Options cut_short = unchecked;
  cut_short.adjoint = fp::Terms{0};
  for (const fp::Report& report : {report_of(0.9, 1, 0, cut_short), report_of(1 - 1e-8, 1e-5, 1, unchecked)})
    CHECK(report.doubts() == "the adjoint was not checked: check_adjoint is false");
  CHECK(report_of(0.5, 1, 0, {.adjoint = fp::Checkpointed{}, .check_adjoint = false}).ok());
  // Before the backward pass the residual alone can speak.
  Tape<double> tape;
  const Var<double> rate = tape.leaf(Tensor<double>(Shape{1, 1}, 1.5)), one = Tensor<double>(Shape{1, 1}, 1.0);
  CHECK_FALSE(fp::solve(Diagonal{}, {}, one, rate, one).report->ok());
}

TEST_CASE_TEMPLATE("a fixed point at 0 is reached without an absolute tolerance", T, double, float) {
  const auto settle_from = [](const Var<T>& z0, const std::vector<double>& a, const std::vector<double>& x,
                              const fp::Forward& forward) {
    return fp::solve(Diagonal{}, {.forward = forward, .stop = fp::Residual{}, .on_fail = fp::OnFail::report}, z0,
                     sample<T>(a), sample<T>(x));
  };
  for (const fp::Forward& forward : {fp::Forward(fp::Plain{}), fp::Forward(fp::Anderson{}), fp::Forward(fp::Broyden{})})
    for (const double start : {1.0, 1e-12, 1e12}) {
      const auto one = settle_from(sample<T>({start}), {0.5}, {0}, forward);
      CHECK(one.report->forward.verdict == fp::Verdict::converged);
      CHECK(one.report->ok());
      CHECK(std::abs(static_cast<double>(one.z.value().data()[0])) <= 1e-6 * start);
      const auto two = settle_from(sample<T>({start, -start}), {-0.7, 0.1}, {0, 0}, forward);
      CHECK(two.report->forward.verdict == fp::Verdict::converged);
    }
  // Samples that end at different times, of a step that has no other arguments.
  const Var<T> starts = Tensor<T>(Shape{3, 2}, {T(1), T(-1), T(0), T(0), T(1e-9), T(1e9)});
  const auto batch = fp::solve([](const Var<T>& z) { return 0.4 * z; }, {.stop = fp::Residual{}}, starts);
  for (const fp::Verdict v : batch.report->forward.samples) CHECK(v == fp::Verdict::converged);
  // A start far off does not make a residual look small.
  const auto far = settle_from(sample<T>({1e6, 1e6}), {0.5, 0.3}, {1, 1}, fp::Plain{});
  CHECK(far.report->forward.verdict == fp::Verdict::converged);
  CHECK(static_cast<double>(far.z.value().data()[0]) == doctest::Approx(2).epsilon(3e-4).scale(0));
  // In a fixed number of steps too.
  const auto counted =
      fp::solve(Diagonal{}, {.stop = fp::Steps{80}}, sample<T>({1.0}), sample<T>({0.5}), sample<T>({0}));
  CHECK(counted.report->forward.verdict == fp::Verdict::converged);
}

TEST_CASE("a solve with a shared inverse says how it went, and gets to a fixed point at 0") {
  const auto report_of = [](const fp::SharedInverse& options, const std::vector<double>& x) {
    const auto solution = fp::solve_with_shared_inverse(Diagonal{}, options, sample<double>({1, 1, 1, 1}),
                                                        sample<double>({0.9, 0.5, -0.3, 0.1}), sample<double>(x));
    return *solution.report;
  };
  const auto at_zero = report_of({}, {0, 0, 0, 0}), elsewhere = report_of({}, {1, 1, 1, 1});
  for (const fp::SharedInverseReport& report : {at_zero, elsewhere}) {
    CHECK(report.verdict == fp::Verdict::converged);
    CHECK(report.steps < 12);
    CHECK(report.residual <= 1e-4);
  }
  const auto stopped = report_of({.max_steps = 2}, {1, 1, 1, 1});
  CHECK(stopped.verdict == fp::Verdict::max_steps);
  CHECK(stopped.steps == 2);
  CHECK(stopped.residual > 1e-4);
  const auto broken = report_of({}, {1, std::numeric_limits<double>::quiet_NaN(), 1, 1});
  CHECK(broken.verdict == fp::Verdict::nonfinite);
  CHECK(broken.steps == 1);
}

TEST_CASE("an option that makes no sense is an error that names it") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const auto message = [](const fp::Options& options) {
    return error_of([&] {
      (void)fp::solve([](const Var<double>& z) { return 0.5 * z; }, options,
                      Var<double>(Tensor<double>(Shape{1, 2}, 1.0)));
    });
  };
  const auto refused = [&](const fp::Options& options, const char* name) {
    const std::string text = message(options);
    CAPTURE(text);
    CHECK(text.starts_with("[fixed_point] expected "));
    CHECK(text.find(name) != std::string::npos);
  };
  for (const double bad : {-0.1, 1.0, nan, inf}) refused({.forward = fp::Plain{.damping = bad}}, "damping");
  for (const int bad : {0, -3}) {
    refused({.forward = fp::Anderson{.depth = bad}}, "depth");
    refused({.forward = fp::Broyden{.rank = bad}}, "rank");
    refused({.stop = fp::Steps{bad}}, "step");
    refused({.stop = fp::Residual{.max_steps = bad}}, "max_steps");
    refused({.stop = fp::Residual{.patience = bad}}, "patience");
    refused({.adjoint = fp::Gmres{.restart = bad}}, "restart");
    refused({.adjoint = fp::Phantom{.steps = bad}}, "step");
    refused({.penalty = fp::Hutchinson{.probes = bad}}, "probes");
    refused({.certify = fp::Certify{.products = bad}}, "products");
    for (const fp::Adjoint& adjoint :
         {fp::Adjoint(fp::Neumann{.max_products = bad}), fp::Adjoint(fp::Gmres{.max_products = bad}),
          fp::Adjoint(fp::BiCgStab{.max_products = bad}), fp::Adjoint(fp::NormalCg{.max_products = bad}),
          fp::Adjoint(fp::AdjointAnderson{.solver = {}, .max_products = bad}),
          fp::Adjoint(fp::Auto{.first = {.max_products = bad}}), fp::Adjoint(fp::Auto{.then = {.max_products = bad}})})
      refused({.adjoint = adjoint}, "max_products");
  }
  refused({.adjoint = fp::Terms{-1}}, "count");
  refused({.adjoint = fp::ReleasedNeumann{.terms = -1}}, "terms");
  refused({.adjoint = fp::AdjointAnderson{.solver = {.depth = 0}}}, "depth");
  refused({.penalty = fp::SpectralHinge{.products = -1}}, "products");
  for (const double bad : {-1e-3, nan, inf}) {
    refused({.forward = fp::Anderson{.ridge = bad}}, "ridge");
    refused({.stop = fp::Steps{.count = 3, .rtol = bad}}, "rtol");
    refused({.stop = fp::Residual{.rtol = bad}}, "rtol");
    refused({.stop = fp::Residual{.atol = bad}}, "atol");
    refused({.adjoint = fp::NormalCg{.eta = bad}}, "eta");
    refused({.adjoint = fp::Auto{.worth = bad}}, "worth");
    refused({.penalty = fp::SpectralHinge{.target = bad}}, "target");
    for (const fp::Adjoint& adjoint :
         {fp::Adjoint(fp::Neumann{.rtol = bad}), fp::Adjoint(fp::Gmres{.rtol = bad}),
          fp::Adjoint(fp::BiCgStab{.rtol = bad}), fp::Adjoint(fp::NormalCg{.rtol = bad}),
          fp::Adjoint(fp::AdjointAnderson{.solver = {}, .rtol = bad}), fp::Adjoint(fp::Auto{.first = {.rtol = bad}}),
          fp::Adjoint(fp::Auto{.then = {.rtol = bad}})})
      refused({.adjoint = adjoint}, "rtol");
  }
  for (const double bad : {0.0, -1.0, 1.5, nan}) refused({.forward = fp::Anderson{.mixing = bad}}, "mixing");
  for (const double bad : {0.0, 0.5, -1.0, nan}) {
    refused({.forward = fp::Anderson{.safeguard = bad}}, "safeguard");
    refused({.forward = fp::Broyden{.safeguard = bad}}, "safeguard");
    refused({.stop = fp::Residual{.divergence = bad}}, "divergence");
  }
  for (const double bad : {1.0, 1.5, -0.1, nan, inf}) refused({.lipschitz = bad}, "lipschitz");
  for (const double bad : {-0.1, nan, inf}) refused({.penalty = fp::Lcp{.lambda = bad}}, "lambda");
  CHECK(message({.certify = fp::Certify{}, .check_adjoint = false}).find("check_adjoint") != std::string::npos);
  // The edges of what is allowed.
  CHECK(message({.forward = fp::Anderson{.ridge = 0, .mixing = 1, .safeguard = inf},
                 .stop = fp::Residual{.rtol = 0, .atol = 1e-3, .patience = 1, .divergence = inf},
                 .adjoint = fp::Terms{0},
                 .penalty = fp::Lcp{.lambda = 0},
                 .lipschitz = 0.999}) == "no error");

  const auto shared_refused = [](const fp::SharedInverse& options, const char* name) {
    const std::string text = error_of([&] {
      (void)fp::solve_with_shared_inverse([](const Var<double>& z) { return 0.5 * z; }, options,
                                          Var<double>(Tensor<double>(Shape{1, 2}, 1.0)));
    });
    CAPTURE(text);
    CHECK(text.starts_with("[fixed_point] expected "));
    CHECK(contains(text, name));
  };
  for (const double bad : {0.0, -1e-3, nan, inf}) shared_refused({.rtol = bad}, "rtol");
  for (const double bad : {0.5, nan}) shared_refused({.solver = {.safeguard = bad}}, "safeguard");
  shared_refused({.solver = {.rank = 0}}, "rank");
  shared_refused({.max_steps = 0}, "max_steps");
  shared_refused({.products = -1}, "products");

  for (const double bad : {-0.1, nan, inf}) {
    Tape<double> tape;
    const Var<double> z = tape.leaf(Tensor<double>(Shape{1, 2}, 1.0));
    CHECK(contains(error_of([&] { (void)fp::lcp(0.5 * z, z, {.lambda = bad}); }), "expected a finite lambda >= 0"));
  }
  for (const auto& bad :
       {fp::DualWeight::Settings{.target = nan}, fp::DualWeight::Settings{.quantile = 1.5},
        fp::DualWeight::Settings{.quantile = -0.1}, fp::DualWeight::Settings{.quantile = nan},
        fp::DualWeight::Settings{.gain = inf}, fp::DualWeight::Settings{.initial = inf},
        fp::DualWeight::Settings{.smallest = 2, .largest = 1}, fp::DualWeight::Settings{.smoothing = 1}})
    CHECK_THROWS_AS(fp::DualWeight{bad}, Error);
  CHECK_THROWS_AS((fp::SigmoidGate{.width = 0}.loss_weight(1)), Error);
}

TEST_CASE("a state of scalars is one system") {
  using V = Var<double>;
  Tape<double> tape;
  const V x = tape.leaf(Tensor<double>(Shape{}, 1.0)), zero = Tensor<double>(Shape{}, 0.0);
  const auto step = [](const V& z, const V& u) { return map([](auto v, auto w) { return 0.5 * cos(v) + w; }, z, u); };
  for (const fp::OnFail on_fail : {fp::OnFail::throw_error, fp::OnFail::drop_sample, fp::OnFail::unroll})
    for (const fp::Penalty& penalty : {fp::Penalty(fp::NoPenalty{}), fp::Penalty(fp::Lcp{.lambda = 0.1}),
                                       fp::Penalty(fp::SpectralHinge{.target = 0.1})}) {
      const auto solution =
          fp::solve(step, {.stop = fp::Residual{.rtol = 1e-12}, .penalty = penalty, .on_fail = on_fail}, zero, x);
      const double z = solution.z.item();
      CHECK(z == doctest::Approx(0.5 * std::cos(z) + 1).epsilon(1e-11));
      CHECK(solution.report->forward.samples.size() == 1);
      CHECK(grad(solution.z, {x}).front().item() == doctest::Approx(1 / (1 + 0.5 * std::sin(z))).epsilon(1e-6));
    }
  using Z = std::array<V, 2>;
  const auto pair = fp::solve(
      [](const Z& z, const V& u) {
        return Z{0.5 * z[1] + u, 0.5 * z[0]};
      },
      {.stop = fp::Residual{.rtol = 1e-12, .max_steps = 200}}, Z{zero, zero}, x);
  CHECK(pair.z[0].item() == doctest::Approx(4.0 / 3).epsilon(1e-11));
  const std::string text = error_of([&] {
    (void)fp::solve([](const Z& z) { return z; }, {}, Z{zero, V(Tensor<double>(Shape{2}, 0.0))});
  });
  CHECK(text ==
        "[fixed_point] the state's parts must agree in axis 0, the batch, got () and (2): a scalar has none, "
        "unless all parts are scalars or the step declares couples_samples");
}

TEST_CASE("Auto solves an adjoint no further than its state is worth, if it is told to") {
  const Matrix w = symmetric_matrix(40, 0.97, 3);
  auto x0 = random_vector(40, 1);
  for (double& v : x0) v *= 0.05;  // tanh hardly bends there
  const auto target = random_vector(40, 2);
  struct Pass {
    std::vector<double> gradient;
    fp::Report report;
  };
  const auto pass = [&](const fp::Stop& stop, const fp::Adjoint& adjoint) {
    Tape<double> tape;
    const Var<double> x = tape.leaf(sample<double>(x0).value()), zero = Tensor<double>(x.shape(), 0.0);
    const auto solution = fp::solve(Tanh{}, {.stop = stop, .adjoint = adjoint}, zero, Var<double>(w.weight()), x);
    const Var<double> error = solution.z - sample<double>(target);
    auto gradient = to_doubles(grad(sum(error * error), {x}).front().value());
    return Pass{std::move(gradient), *solution.report};
  };
  const auto exact =
      pass(fp::Residual{.rtol = 1e-12, .max_steps = 5000}, fp::Gmres{.restart = 40, .rtol = 1e-12}).gradient;
  for (const int steps : {5, 10, 20}) {
    CAPTURE(steps);
    const Pass full = pass(fp::Steps{steps}, fp::Auto{}), worth = pass(fp::Steps{steps}, fp::Auto{.worth = 0.1});
    const double full_error = relative_error(full.gradient, exact), error = relative_error(worth.gradient, exact);
    CAPTURE(full_error);
    CHECK(error <= 1.2 * full_error);
    CAPTURE(worth.report.forward.relative.at(0));
    CHECK(4 * worth.report.adjoint.products <= 3 * full.report.adjoint.products);
    CHECK(worth.report.adjoint.verdict == fp::Verdict::converged);
    CHECK(worth.report.adjoint.residuals.at(0) <= 0.11 * worth.report.forward.relative.at(0));
    CHECK(worth.report.forward.seconds > 0);
    CHECK(worth.report.adjoint.seconds > 0);
    CHECK(worth.report.adjoint.probes == 0);
  }
  // A settled state is worth the tolerance that was asked for.
  const fp::Stop tight = fp::Residual{.rtol = 1e-9, .max_steps = 5000};
  CHECK(pass(tight, fp::Auto{.worth = 0.1}).gradient == pass(tight, fp::Auto{}).gradient);
}

TEST_CASE("what Certify says of a sample does not depend on the others, and its products are told apart") {
  const auto run = [](const std::vector<std::vector<double>>& rates) {
    const Index n = std::ssize(rates);
    Tensor<double> a(Shape{n, 3}), b(Shape{n, 3});
    for (Index s = 0; s < n; ++s)
      for (Index k = 0; k < 3; ++k) {
        a.mutable_data()[3 * s + k] = rates[static_cast<std::size_t>(s)][static_cast<std::size_t>(k)];
        b.mutable_data()[3 * s + k] = k == 2 ? 1e-6 : 1;
      }
    Tape<double> tape;
    const Var<double> x = tape.leaf(Tensor<double>(Shape{n, 3}, 0.0));
    const auto solution = fp::solve(Diagonal{}, {.stop = fp::Steps{1}, .certify = fp::Certify{.products = 8}},
                                    Var<double>(Tensor<double>(Shape{n, 3}, 0.0)), Var<double>(a), x);
    (void)grad(sum(solution.z * Var<double>(b)), {x});
    return solution.report->adjoint;
  };
  const std::vector<double> hidden{-0.6, 0, 0.999}, mild{0.1, 0.2, 0.3};
  const auto alone = run({hidden}), beside = run({mild, hidden, mild});
  CHECK(alone.amplification.at(0) == beside.amplification.at(1));
  CHECK(alone.amplification.at(0) == doctest::Approx(1000).epsilon(0.02));
  CHECK(beside.amplification.at(0) == doctest::Approx(1 / 0.7).epsilon(0.02));
  CHECK(alone.probes <= 6);  // the space has three dimensions
}

TEST_CASE("where Certify's products do not suffice it says so, and does not guess") {
  std::vector<double> rates, b;
  for (int k = 0; k < 150; ++k) rates.push_back(0.9999 * (2 * k / 149.0 - 1)), b.push_back(1);
  const auto judged = [&](int products) {
    return judge<double>(diagonal_matrix(rates), b, {.certify = fp::Certify{.products = products}});
  };
  CHECK(judged(20).estimate == std::numeric_limits<double>::infinity());
  CHECK_FALSE(judged(20).report.ok());
  const Judged enough = judged(150);
  CHECK(enough.report.adjoint.amplification.at(0) >= 0.9e4);
  CHECK(enough.report.adjoint.amplification.at(0) <= 3e4);
}
