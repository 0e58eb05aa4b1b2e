#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

/// The gradient in x of sum(c z*) for z* = W z* + x, as the node computes it; that is (I - W)^-T c.
template <class T>
std::vector<double> adjoint_of(const Matrix& w, const std::vector<double>& c, const fp::Options& options,
                               std::shared_ptr<const fp::Report>* report = nullptr) {
  Tape<T> tape;
  const Shape shape{1, w.n, 1, 1};
  const Var<T> weight = tape.leaf(w.weight<T>()), x = tape.leaf(Tensor<T>(shape, T{0}));
  const auto solution = fp::solve(Affine{}, options, Var<T>(Tensor<T>(shape, T{0})), weight, x);
  if (report) *report = solution.report;
  const Var<T> cotangent = Tensor<T>(shape, std::vector<T>(c.begin(), c.end()));
  return to_doubles(grad(sum(solution.z * cotangent), {x}).front().value());
}

struct Scaled {
  Var<double> a;
  void parameters(auto&& visit) { visit("a", a); }
  Var<double> operator()(const Var<double>& z, const Var<double>& x) const { return a * z + x; }
};
struct Prepared : Scaled {
  Var<double> prepare(const Var<double>& x) const { return x * x; }
};

}  // namespace

TEST_CASE("A1: every exact policy agrees with a dense (I - J)^-T to 1e-8 in double and 1e-4 in float") {
  struct Case {
    const char* name;
    Matrix w;
    bool contractive;
  };
  Matrix expanding = symmetric_matrix(20, 0.8, 6);
  expanding(0, 0) += 3;  // an eigenvalue near 3, I - J regular
  const Case cases[] = {{"random", scaled_to_radius(random_matrix(20, 1), 0.9), true},
                        {"symmetric", symmetric_matrix(20, 0.9, 2), true},
                        {"non-normal, |J| = 20, rho 0.5", non_normal_matrix(20, 0.5, 20), true},
                        {"complex pairs", rotation_matrix(20, 0.9, 1.2), true},
                        {"rho 0.99", symmetric_matrix(20, 0.99, 3), true},
                        {"rho above 1", expanding, false}};
  for (const bool single : {false, true}) {
    const double rtol = single ? 1e-6 : 1e-11;
    const std::pair<const char*, fp::Adjoint> policies[] = {
        {"Neumann", fp::Neumann{.max_products = 4000, .rtol = rtol}},
        {"Gmres", fp::Gmres{.restart = 30, .max_products = 300, .rtol = rtol}},
        {"BiCgStab", fp::BiCgStab{.max_products = 400, .rtol = rtol}},
        {"NormalCg", fp::NormalCg{.max_products = 20000, .rtol = rtol}},
        {"AdjointAnderson", fp::AdjointAnderson{.solver = {.depth = 20}, .max_products = 600, .rtol = rtol}},
        {"Dense", fp::Dense{}},
        {"Auto", fp::Auto{.first = {.max_products = 4000, .rtol = rtol}, .then = {.max_products = 300, .rtol = rtol}}}};
    for (const Case& c : cases) {
      const auto cotangent = random_vector(20, 4);
      const auto expected = c.w.transposed().resolvent(cotangent);
      for (const auto& entry : policies) {
        const char* name = entry.first;
        const fp::Adjoint& policy = entry.second;
        CAPTURE(c.name);
        CAPTURE(name);
        CAPTURE(single);
        // One step from 0: the map is affine, so that J is the same everywhere.
        const fp::Options options{.stop = fp::Steps{1}, .adjoint = policy, .on_fail = fp::OnFail::report};
        std::shared_ptr<const fp::Report> report;
        const auto g = single ? adjoint_of<float>(c.w, cotangent, options, &report)
                              : adjoint_of<double>(c.w, cotangent, options, &report);
        const fp::AdjointReport& adjoint = report->adjoint;
        if (!c.contractive && std::holds_alternative<fp::Neumann>(policy)) {
          CHECK(adjoint.verdict == fp::Verdict::diverged);
          continue;
        }
        CHECK(adjoint.verdict == fp::Verdict::converged);
        CHECK(relative_error(g, expected) <= (single ? 1e-4 : 1e-8));
      }
    }
  }
}

TEST_CASE("A10: a captured taped variable is an error that names the cure") {
  Tape<double> tape;
  const Var<double> z0 = Tensor<double>(Shape{1, 2}, 0.0), x = tape.leaf(Tensor<double>(Shape{1, 2}, 1.0)),
                    hidden = tape.leaf(Tensor<double>(Shape{1, 2}, 0.5));
  const auto step = [&](const Var<double>& z, const Var<double>& u) { return hidden * z + u; };
  for (const int steps : {1, 3})
    CHECK(error_of([&] {
            (void)fp::solve(step, {.stop = fp::Steps{steps}}, z0, x);
          }).find("pass it to solve as an argument or declare it in the step's parameters") != std::string::npos);
}

TEST_CASE(
    "the released series ends at the first rejected term, and in the other release returns g of the last rejection") {
  // J = rho I in n = 1: v_k = rho^k b, all by hand.
  const auto gradient = [](double rho, double b, fp::ReleasedNeumann policy, fp::AdjointReport& report) {
    Matrix w(1);
    w(0, 0) = rho;
    std::shared_ptr<const fp::Report> full;
    const double g = adjoint_of<double>(w, {b}, {.stop = fp::Steps{1}, .adjoint = policy}, &full).front();
    report = full->adjoint;
    return g;
  };
  fp::AdjointReport report;
  // Far below the bound: all terms.
  CHECK(gradient(0.5, 1e-3, {.terms = 15}, report) ==
        doctest::Approx(1e-3 * (1 - std::pow(0.5, 16)) / 0.5).epsilon(1e-12));
  CHECK(report.terms == 15);
  CHECK(report.end == fp::SeriesEnd::all_terms);
  // 0.6 (1 + 1/2) <= 1 < 0.6 (1 + 1/2 + 1/4): no; 0.6 + 0.3 = 0.9 is kept, 1.05 is not.
  CHECK(gradient(0.5, 0.6, {.terms = 15}, report) == doctest::Approx(0.9).epsilon(1e-12));
  CHECK(report.terms == 1);
  CHECK(report.products == 2);
  CHECK(report.end == fp::SeriesEnd::norm_above_one);
  // Growth at the first term: one-step truncation.
  CHECK(gradient(1.5, 1e-3, {.terms = 15}, report) == 1e-3);
  CHECK(report.end == fp::SeriesEnd::growth);
  // 1e-3 0.1^k falls below 1e-9 at k = 7.
  CHECK(gradient(0.1, 1e-3, {.terms = 15}, report) ==
        doctest::Approx(1e-3 * (1 - std::pow(0.1, 7)) / 0.9).epsilon(1e-12));
  CHECK(report.terms == 6);
  CHECK(report.end == fp::SeriesEnd::vanished);
  // The other release: terms keep being computed; the last rejection is the last product, at which g is 0.9 still
  // (0.9 + 0.6 0.5^k > 1 for k = 2 only): then 0.9 + 0.075 = 0.975 is accepted, 0.975 + 0.0375 = 1.0125 rejected, ...
  double g = 0.6, v = 0.6, last = 0.6;
  for (int k = 1; k <= 15; ++k) {
    v *= 0.5;
    if (g + v > 1)
      last = g;
    else
      g += v;
  }
  CHECK(gradient(0.5, 0.6, {.terms = 15, .rejected = fp::Rejected::continue_}, report) ==
        doctest::Approx(last).epsilon(1e-12));
  CHECK(report.products == 15);
}

TEST_CASE("a state of two tensors: the full adjoint couples both, the released convLSTM's only the first") {
  // h' = a h + b c + x, c' = d h + e c (numbers): everything in closed form.
  struct Pair {
    std::tuple<Var<double>, Var<double>> operator()(const std::tuple<Var<double>, Var<double>>& z,
                                                    const Var<double>& x) const {
      const auto& [h, c] = z;
      return {map([](auto u, auto v, auto w) { return 0.5 * u + 0.3 * v + w; }, h, c, x),
              map([](auto u, auto v) { return 0.2 * u + 0.4 * v; }, h, c)};
    }
  };
  const auto gradient = [](fp::AdjointState coupling) {
    Tape<double> tape;
    const Var<double> zero = Tensor<double>(Shape{1, 1}, 0.0), x = tape.leaf(Tensor<double>(Shape{1, 1}, 1.0));
    const auto solution = fp::solve(Pair{},
                                    {.stop = fp::Residual{.rtol = 1e-13, .max_steps = 500},
                                     .adjoint = fp::Neumann{.max_products = 500, .rtol = 1e-13},
                                     .adjoint_state = coupling},
                                    std::tuple(zero, zero), x);
    CHECK(std::get<0>(solution.z).item() == doctest::Approx(0.6 / 0.24).epsilon(1e-11));
    CHECK(std::get<1>(solution.z).item() == doctest::Approx(0.2 / 0.24).epsilon(1e-11));
    return grad(sum(std::get<0>(solution.z)), {x}).front().item();
  };
  CHECK(gradient(fp::AdjointState::full) == doctest::Approx(0.6 / 0.24).epsilon(1e-11));
  CHECK(gradient(fp::AdjointState::first_part) == doctest::Approx(1 / 0.5).epsilon(1e-11));
}

TEST_CASE("declared parameters are arguments, and prepare runs once on the tape") {
  Tape<double> tape;
  const Var<double> zero = Tensor<double>(Shape{1}, 0.0), a = tape.leaf(Tensor<double>(Shape{1}, 0.25)),
                    x = tape.leaf(Tensor<double>(Shape{1}, 3.0));
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-14, .max_steps = 200},
                            .adjoint = fp::Neumann{.max_products = 200, .rtol = 1e-14}};
  const auto plain = grad(sum(fp::solve(Scaled{a}, options, zero, x).z), {a, x});  // z = x / (1 - a)
  CHECK(plain[0].item() == doctest::Approx(3.0 / (0.75 * 0.75)).epsilon(1e-12));
  CHECK(plain[1].item() == doctest::Approx(1 / 0.75).epsilon(1e-12));
  const auto prepared = grad(sum(fp::solve(Prepared{{a}}, options, zero, x).z), {a, x});  // z = x² / (1 - a)
  CHECK(prepared[0].item() == doctest::Approx(9.0 / (0.75 * 0.75)).epsilon(1e-12));
  CHECK(prepared[1].item() == doctest::Approx(6 / 0.75).epsilon(1e-12));
}

TEST_CASE("A2: the difference to unrolled back-propagation falls as rho^K, and Checkpointed equals it to 1e-13") {
  const Matrix w = symmetric_matrix(6, 0.8, 7);
  const Shape shape{2, 6, 1, 1};
  Random random(8);
  const Tensor<double> x0 = normal<double>(shape, 0, 1, random), c0 = normal<double>(shape, 0, 1, random);
  const auto unrolled = [&](int steps) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(x0);
    Var<double> z = Tensor<double>(shape, 0.1);
    for (int k = 0; k < steps; ++k) z = Tanh{}(z, weight, x);
    return to_doubles(grad(sum(z * Var<double>(c0)), {weight}).front().value());
  };
  double rho = 0;  // of the Jacobian at the fixed point, the largest that a solver reported for the two samples
  const auto through_node = [&](const fp::Options& options) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(x0);
    const auto solution = fp::solve(Tanh{}, options, Var<double>(Tensor<double>(shape, 0.1)), weight, x);
    const auto out = to_doubles(grad(sum(solution.z * Var<double>(c0)), {weight}).front().value());
    for (const double radius : solution.report->adjoint.spectral_radius) rho = std::max(rho, radius);
    return out;
  };
  const auto exact = through_node({.stop = fp::Residual{.rtol = 1e-14, .max_steps = 1000}, .adjoint = fp::Dense{}});
  // The sum of the terms from K on is about rho^K, and so is z_K - z*, which enters K terms: K rho^K.
  double previous = relative_error(unrolled(20), exact);
  for (const int steps : {28, 36, 44}) {
    const double error = relative_error(unrolled(steps), exact), factor = std::pow(rho, 8);
    CHECK(error <= 1.1 * steps / (steps - 8) * factor * previous);
    CHECK(error >= 0.5 * factor * previous);
    previous = error;
  }
  CHECK(relative_error(unrolled(150), exact) <= 1e-11);
  for (const int steps : {1, 2, 3, 10, 17})
    CHECK(relative_error(through_node({.stop = fp::Steps{steps}, .adjoint = fp::Checkpointed{}}), unrolled(steps)) <=
          1e-13);
}

TEST_CASE("S3: back-propagation through time of a 3-step net equals Checkpointed, with damping too") {
  const Matrix w = random_matrix(5, 3);
  const Shape shape{3, 5, 1, 1};
  Random random(5);
  const Tensor<double> x0 = normal<double>(shape, 0, 1, random);
  for (const double damping : {0.0, 0.25}) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(x0);
    Var<double> z = Tensor<double>(shape, 0.1);
    for (int k = 0; k < 3; ++k) {
      const Var<double> next = Tanh{}(z, weight, x);
      z = k == 2 ? next : damping * z + (1 - damping) * next;
    }
    const auto expected = grad(sum(z * z), {weight, x});
    const auto solution =
        fp::solve(Tanh{}, {.forward = fp::Plain{damping}, .stop = fp::Steps{3}, .adjoint = fp::Checkpointed{}},
                  Var<double>(Tensor<double>(shape, 0.1)), weight, x);
    const auto actual = grad(sum(solution.z * solution.z), {weight, x});
    for (std::size_t k = 0; k < 2; ++k)
      CHECK(relative_error(to_doubles(actual[k].value()), to_doubles(expected[k].value())) <= 1e-13);
  }
}

TEST_CASE("A3: central differences of the solved loss approach the gradient as h² until rounding") {
  const Shape shape{2, 5, 1, 1};
  Random random(5);
  const Tensor<double> w0 = scaled_to_radius(random_matrix(5, 6), 0.9).weight(),
                       x0 = normal<double>(shape, 0, 1, random);
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-15, .max_steps = 2000, .patience = 2000},
                            .adjoint = fp::Gmres{.rtol = 1e-13},
                            .on_fail = fp::OnFail::report};
  const auto loss = [&](const Var<double>& w) {
    const auto z = fp::solve(Tanh{}, options, Var<double>(Tensor<double>(shape, 0.0)), w, Var<double>(x0)).z;
    return sum(z * z);
  };
  Tape<double> tape;
  const Var<double> w = tape.leaf(w0);
  const auto gradient = to_doubles(grad(loss(w), {w}).front().value());
  std::vector<double> errors;
  for (const double h : {1e-2, 1e-3, 1e-4, 1e-5})
    errors.push_back(
        relative_error(central_differences([&](const Tensor<double>& v) { return loss(v).item(); }, w0, h), gradient));
  CHECK(errors[1] <= 0.015 * errors[0]);
  CHECK(errors[2] <= 0.015 * errors[1]);
  CHECK(errors[3] <= 1e-8);
}

TEST_CASE("A4: scaling the loss by powers of two from 2^-40 to 2^40 scales the gradient bit by bit") {
  const Matrix w = scaled_to_radius(random_matrix(12, 1), 0.95);
  const std::pair<const char*, fp::Adjoint> policies[] = {
      {"Neumann", fp::Neumann{}},   {"Terms", fp::Terms{5}},      {"Gmres", fp::Gmres{}},
      {"BiCgStab", fp::BiCgStab{}}, {"NormalCg", fp::NormalCg{}}, {"AdjointAnderson", fp::AdjointAnderson{}},
      {"Phantom", fp::Phantom{}},   {"Dense", fp::Dense{}},       {"Auto", fp::Auto{}}};
  const auto c = random_vector(12, 4);
  for (const auto& entry : policies) {
    const char* name = entry.first;
    const fp::Adjoint& policy = entry.second;
    CAPTURE(name);
    const fp::Options options{.stop = fp::Steps{1}, .adjoint = policy, .on_fail = fp::OnFail::report};
    const auto reference = adjoint_of<float>(w, c, options);
    for (const int exponent : {-40, -7, 1, 40}) {
      std::vector<double> scaled = c;
      for (double& v : scaled) v = std::ldexp(static_cast<float>(v), exponent);
      auto g = adjoint_of<float>(w, scaled, options);
      for (double& v : g) v = std::ldexp(v, -exponent);
      CHECK(g == reference);
    }
  }
}

TEST_CASE("A5: damped and undamped iterations have the same gradient to 1e-9") {
  const Matrix w = scaled_to_radius(random_matrix(6, 1), 0.9);
  const Shape shape{1, 6, 1, 1};
  const auto gradient = [&](double damping) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(Tensor<double>(shape, 0.5));
    const auto z = fp::solve(Tanh{},
                             {.forward = fp::Plain{damping},
                              .stop = fp::Residual{.rtol = 1e-13, .max_steps = 5000},
                              .adjoint = fp::Neumann{.max_products = 1000, .rtol = 1e-13}},
                             Var<double>(Tensor<double>(shape, 0.0)), weight, x)
                       .z;
    return to_doubles(grad(sum(z * z), {weight}).front().value());
  };
  CHECK(relative_error(gradient(0.7), gradient(0)) <= 1e-9);
}

TEST_CASE("A6: Terms are the partial sums of the series, and Phantom without damping is truncated back-propagation") {
  const Matrix w = random_matrix(6, 3), transposed = w.transposed();
  const auto c = random_vector(6, 2);
  std::vector<double> term = c, expected = c;
  for (int k = 0; k <= 4; ++k) {
    const auto g = adjoint_of<double>(w, c, {.stop = fp::Steps{1}, .adjoint = fp::Terms{k}});
    if (k == 0) CHECK(g == c);  // the one-step gradient
    CHECK(relative_error(g, expected) <= 1e-14);
    term = transposed.times(term);
    for (std::size_t i = 0; i < term.size(); ++i) expected[i] += term[i];
  }
  CHECK(fp::terms<3>.count == 3);

  // At a fixed point, k steps recorded from z* are what Phantom computes from one.
  const Matrix contractive = scaled_to_radius(w, 0.7);
  const Shape shape{1, 6, 1, 1};
  for (const double damping : {0.0, 0.5}) {
    const fp::Options options{.stop = fp::Residual{.rtol = 1e-15, .max_steps = 1000, .patience = 1000},
                              .adjoint = fp::Phantom{.steps = 4, .damping = damping},
                              .on_fail = fp::OnFail::report};
    Tape<double> tape;
    const Var<double> weight = tape.leaf(contractive.weight()), x = tape.leaf(Tensor<double>(shape, 0.5));
    const auto z = fp::solve(Tanh{}, options, Var<double>(Tensor<double>(shape, 0.0)), weight, x).z;
    Var<double> unrolled = stop_gradient(z);
    for (int k = 0; k < 4; ++k) unrolled = damping * unrolled + (1 - damping) * Tanh{}(unrolled, weight, x);
    const auto actual = grad(sum(z * z), {weight}), wanted = grad(sum(unrolled * unrolled), {weight});
    CHECK(relative_error(to_doubles(actual.front().value()), to_doubles(wanted.front().value())) <= 1e-10);
  }
}

TEST_CASE("A7: a singular I - J has a verdict for every policy, not a number") {
  Matrix w = symmetric_matrix(8, 0.7, 3);
  Matrix eigen(8);  // the eigenvalue of (1, ..., 1) / sqrt 8 becomes exactly 1
  std::vector<double> ones(8, 1.0);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) {
      double projected = 0;  // P w P + 1 1ᵀ / 8
      for (int k = 0; k < 8; ++k)
        for (int l = 0; l < 8; ++l) projected += ((i == k) - 0.125) * w(k, l) * ((l == j) - 0.125);
      eigen(i, j) = projected + 0.125;
    }
  const auto c = random_vector(8, 1);
  for (const fp::Adjoint& policy :
       {fp::Adjoint(fp::Neumann{}), fp::Adjoint(fp::Gmres{}), fp::Adjoint(fp::BiCgStab{}), fp::Adjoint(fp::NormalCg{}),
        fp::Adjoint(fp::AdjointAnderson{}), fp::Adjoint(fp::Dense{}), fp::Adjoint(fp::Auto{})}) {
    std::shared_ptr<const fp::Report> report;
    CAPTURE(policy.index());
    adjoint_of<double>(eigen, c, {.stop = fp::Steps{1}, .adjoint = policy, .on_fail = fp::OnFail::report}, &report);
    CHECK(failed(report->adjoint.verdict));
    CHECK(error_of([&] {
            adjoint_of<double>(eigen, c, {.stop = fp::Steps{1}, .adjoint = policy});
          }).find("the adjoint solve failed for 1 of 1 system") != std::string::npos);
  }
}

TEST_CASE("A8: for J = diag(3, 0.5) Neumann reports divergence and GMRES gives -0.5 and 2") {
  Matrix w(2);
  w(0, 0) = 3;
  w(1, 1) = 0.5;
  std::shared_ptr<const fp::Report> report;
  const auto neumann = adjoint_of<double>(
      w, {1, 1}, {.stop = fp::Steps{1}, .adjoint = fp::Neumann{}, .on_fail = fp::OnFail::report}, &report);
  CHECK(report->adjoint.verdict == fp::Verdict::diverged);
  CHECK(neumann == std::vector<double>{1, 1});  // fell back on the one-step gradient
  for (const fp::Adjoint& policy : {fp::Adjoint(fp::Gmres{}), fp::Adjoint(fp::Auto{}), fp::Adjoint(fp::BiCgStab{})}) {
    const auto g = adjoint_of<double>(w, {1, 1}, {.stop = fp::Steps{1}, .adjoint = policy}, &report);
    CHECK(g[0] == doctest::Approx(-0.5).epsilon(1e-10));
    CHECK(g[1] == doctest::Approx(2).epsilon(1e-10));
    const auto single = adjoint_of<float>(w, {1, 1}, {.stop = fp::Steps{1}, .adjoint = policy}, &report);
    CHECK(single[0] == doctest::Approx(-0.5).epsilon(1e-5));
    CHECK(single[1] == doctest::Approx(2).epsilon(1e-5));
  }
}

TEST_CASE("A9: two forwards before one backward, a node used twice, and a solve inside a solve") {
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-14, .max_steps = 500},
                            .adjoint = fp::Neumann{.max_products = 500, .rtol = 1e-14}};
  const auto step = [](const Var<double>& z, const Var<double>& a, const Var<double>& x) { return a * z + x; };
  const Var<double> zero = Tensor<double>(Shape{1, 1}, 0.0);
  Tape<double> tape;
  const Var<double> a = tape.leaf(Tensor<double>(Shape{}, 0.5)), x = tape.leaf(Tensor<double>(Shape{1, 1}, 1.0)),
                    y = tape.leaf(Tensor<double>(Shape{1, 1}, 3.0));
  // z1 = x / (1 - a), z2 = y / (1 - a); the loss z1² z2 uses the first node twice.
  const auto z1 = fp::solve(step, options, zero, a, x).z, z2 = fp::solve(step, options, zero, a, y).z;
  const auto gradient = grad(sum(z1 * z1 * z2), {a, x, y});
  CHECK(gradient[0].item() == doctest::Approx(3 * 3.0 / std::pow(0.5, 4)).epsilon(1e-12));
  CHECK(gradient[1].item() == doctest::Approx(2 * 3.0 / std::pow(0.5, 3)).epsilon(1e-12));
  CHECK(gradient[2].item() == doctest::Approx(1 / std::pow(0.5, 3)).epsilon(1e-12));

  // Outer: z = 0.5 inner(z) with inner w = a w + z + x, so w = (z + x) / (1 - a); z = 0.25 w: by hand
  // z = 0.25 (z + x) / (1 - a), z = 0.25 x / (0.75 - a).
  const auto outer = [&](const Var<double>& z, const Var<double>& rate, const Var<double>& u) {
    const Var<double> start = Tensor<double>(Shape{1, 1}, 0.0);
    return 0.25 * fp::solve(step, options, start, rate, z + u).z;
  };
  const auto nested = fp::solve(outer, options, zero, a, x).z;
  CHECK(nested.item() == doctest::Approx(1).epsilon(1e-12));
  const auto inner_gradient = grad(sum(nested), {a, x});
  CHECK(inner_gradient[0].item() == doctest::Approx(0.25 / std::pow(0.25, 2)).epsilon(1e-11));
  CHECK(inner_gradient[1].item() == doctest::Approx(1).epsilon(1e-11));
}

TEST_CASE("A11: without solve<2> a second derivative is an error, with it it agrees with differences to 1e-6") {
  const Shape shape{2, 4, 1, 1};
  Random random(12);
  const Tensor<double> w0 = scaled_to_radius(random_matrix(4, 6), 0.8).weight(),
                       x0 = normal<double>(shape, 0, 1, random), direction = normal<double>(w0.shape(), 0, 1, random);
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-15, .max_steps = 2000, .patience = 2000},
                            .adjoint = fp::Gmres{.rtol = 1e-13},
                            .penalty = fp::Lcp{.lambda = 0.1},
                            .on_fail = fp::OnFail::report};
  const Var<double> z0 = Tensor<double>(shape, 0.0);
  {
    Tape<double> tape;
    const Var<double> w = tape.leaf(w0);
    const auto z = fp::solve(Tanh{}, options, z0, w, Var<double>(x0)).z;
    CHECK(error_of([&] { grad(sum(z * z), {w}, {.create_graph = true}); }).find("solve<2>") != std::string::npos);
  }
  const auto first_order = [&](const Tensor<double>& weight, Tape<double>& tape, Var<double>& w, bool graph) {
    w = tape.leaf(weight);
    const auto solution = fp::solve<2>(Tanh{}, options, z0, w, Var<double>(x0));
    return grad(sum(solution.z * solution.z * solution.z) + 3.0 * solution.penalty, {w}, {.create_graph = graph})
        .front();
  };
  Tape<double> tape;
  Var<double> w;
  const Var<double> gradient = first_order(w0, tape, w, true);
  const auto product = to_doubles(grad(sum(gradient * Var<double>(direction)), {w}).front().value());
  // The penalty's gradient holds z constant, so it is no gradient of a function: differences of its projection, not of
  // it.
  const auto projected = [&](const Tensor<double>& weight) {
    Tape<double> local;
    Var<double> leaf;
    return sum(first_order(weight, local, leaf, false) * Var<double>(direction)).item();
  };
  CHECK(relative_error(product, central_differences(projected, w0, 1e-5)) <= 1e-6);
}

TEST_CASE("A12: the reported adjoint residual is the one recomputed by plain loops") {
  const Matrix w = scaled_to_radius(random_matrix(10, 1), 0.9), transposed = w.transposed();
  const auto c = random_vector(10, 3);
  for (const fp::Adjoint& policy :
       {fp::Adjoint(fp::Neumann{.max_products = 300, .rtol = 1e-3}), fp::Adjoint(fp::Terms{3}),
        fp::Adjoint(fp::Gmres{.rtol = 1e-2}), fp::Adjoint(fp::NormalCg{.rtol = 1e-2}),
        fp::Adjoint(fp::BiCgStab{.rtol = 1e-2}), fp::Adjoint(fp::Phantom{}),
        fp::Adjoint(fp::AdjointAnderson{.solver = {}, .rtol = 1e-2}), fp::Adjoint(fp::ReleasedNeumann{}),
        fp::Adjoint(fp::Auto{.first = {.rtol = 1e-2}, .then = {.rtol = 1e-2}})}) {
    std::shared_ptr<const fp::Report> report;
    const auto g = adjoint_of<double>(w, c, {.stop = fp::Steps{1}, .adjoint = policy}, &report);
    std::vector<double> residual = transposed.times(g);
    for (std::size_t k = 0; k < g.size(); ++k) residual[k] += c[k] - g[k];
    const double expected = norm_of(residual) / norm_of(c);
    CHECK(std::abs(report->adjoint.residuals.front() - expected) <= 1e-9 * expected + 1e-16);
  }
}

TEST_CASE("a dropped sample gets no gradient and spoils no other's; unroll replaces a failed adjoint") {
  const auto step = [](const Var<double>& z, const Var<double>& rate, const Var<double>& shift) {
    return map([](auto u, auto r, auto s) { return r * u + s; }, z, rate, shift);
  };
  const auto solve = [&](const Tensor<double>& rates, fp::OnFail on_fail, fp::Stop stop, fp::Adjoint adjoint,
                         std::shared_ptr<const fp::Report>& report) {
    Tape<double> tape;
    const Var<double> rate = tape.leaf(rates), shift = tape.leaf(Tensor<double>(Shape{}, 1.0));
    const auto solution = fp::solve(step, {.stop = stop, .adjoint = adjoint, .on_fail = on_fail},
                                    Var<double>(Tensor<double>(rates.shape(), 0.0)), rate, shift);
    const auto gradients = grad(sum(solution.z), {rate, shift});
    report = solution.report;
    return std::pair(to_doubles(gradients[0].value()), gradients[1].item());
  };
  const double nan = std::nan("");
  std::shared_ptr<const fp::Report> report;
  const fp::Residual stop{.rtol = 1e-13, .max_steps = 400};
  // 1 / (1 - r)² for each rate, 1 / (1 - r) for the shift.
  for (const double bad : {nan, 1.5}) {
    const auto [in_rate, in_shift] =
        solve(Tensor<double>(Shape{3, 1}, {0.5, bad, 0.25}), fp::OnFail::drop_sample, stop, fp::Auto{}, report);
    CHECK(in_rate[0] == doctest::Approx(4).epsilon(1e-5));
    CHECK(in_rate[1] == 0);
    CHECK(in_rate[2] == doctest::Approx(16. / 9).epsilon(1e-5));
    CHECK(in_shift == doctest::Approx(2 + 4. / 3).epsilon(1e-5));
    CHECK(report->dropped == 1);
    CHECK_FALSE(report->ok());
  }
  // The forward is fixed, the adjoint alone fails: rate 1.5.
  const auto [in_rate, in_shift] =
      solve(Tensor<double>(Shape{2, 1}, {0.5, 1.5}), fp::OnFail::drop_sample, fp::Steps{3}, fp::Neumann{}, report);
  CHECK(in_rate[1] == 0);
  CHECK(in_shift == doctest::Approx(2).epsilon(1e-4));
  CHECK(report->dropped == 1);
  // z3 = (r² + r + 1) s from 0: derivatives 2 r + 1 and r² + r + 1. The other sample's, at z2 = 1.5, are of the series.
  const auto unrolled =
      solve(Tensor<double>(Shape{2, 1}, {0.5, 1.5}), fp::OnFail::unroll, fp::Steps{3}, fp::Neumann{}, report);
  CHECK(unrolled.first[0] == doctest::Approx(3).epsilon(1e-4));
  CHECK(unrolled.first[1] == doctest::Approx(4).epsilon(1e-12));
  CHECK(unrolled.second == doctest::Approx(2 + 4.75).epsilon(1e-4));
  CHECK(report->adjoint.unrolled);
}

TEST_CASE("a warm adjoint takes fewer products for the same result, and one for a repeated one") {
  const Matrix w = symmetric_matrix(20, 0.95, 3);
  const Shape shape{1, 20, 1, 1};
  fp::Warm warm{Var<double>(Tensor<double>(shape, 0.0))};
  const auto products = [&](double shift) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = tape.leaf(Tensor<double>(shape, 0.5 + shift));
    const auto solution =
        fp::solve(Tanh{}, {.stop = fp::Residual{.rtol = 1e-10, .max_steps = 1000}, .adjoint = fp::Gmres{.rtol = 1e-8}},
                  warm, weight, x);
    (void)grad(sum(solution.z), {x});
    return solution.report->adjoint.products;
  };
  const int cold = products(0), near = products(1e-4), same = products(1e-4);
  CHECK(near < cold);
  CHECK(same <= 3);
}

TEST_CASE("each system's largest magnitude is found in any place, and not-a-number is not lost") {
  using Values = fp::detail::Values<float>;
  CHECK(fp::detail::largest_magnitudes(Values{Tensor<float>(Shape{2, 0}, 1.0f)}, 2) == fp::detail::Numbers{0, 0});
  for (const Index size : {1, 31, 32, 8192, 8193, 20001})
    for (const Index at : {Index{0}, size / 2, size - 1})
      for (const Index system : {0, 1, 2}) {
        const Tensor<float> ones(Shape{3, 2}, 1.0f);
        Tensor<float> values(Shape{3, size}, -0.5f);
        fp::detail::Numbers expected(3, 1.0);
        for (const float special :
             {-3.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
          values.mutable_data()[system * size + at] = special;
          auto found = fp::detail::largest_magnitudes(Values{ones, values, ones}, 3);
          double& here = found[static_cast<std::size_t>(system)];
          CHECK((std::isnan(special) ? std::isnan(here) : here == std::abs(special)));
          here = 1;
          CHECK(found == expected);
        }
      }
}

TEST_CASE_TEMPLATE("how far a state moved and what is added to it are measured system by system", T, float, double) {
  using Values = fp::detail::Values<T>;
  Random random(31);
  for (const Index systems : {1, 3})
    for (const Index length : {0, 1, 31, 33, 8192, 20001}) {
      CAPTURE(systems);
      CAPTURE(length);
      const auto state = [&] {
        return Values{uniform<T>(Shape{systems, length}, -1, 1, random), uniform<T>(Shape{systems, 5}, -1, 1, random)};
      };
      const Values to = state(), from = state();
      Values sum = from;
      fp::detail::Numbers factors(static_cast<std::size_t>(systems), 0.5);
      if (systems == 3) factors = {1, 0, -2};
      const fp::detail::Moved moved = fp::detail::moved(to, from, systems);
      const fp::detail::Numbers sizes = fp::detail::add_measured(sum, to, factors);
      REQUIRE(sizes == moved.sizes);
      for (std::size_t s = 0; s < factors.size(); ++s) {
        long double distance = 0, size = 0;
        T worst = 0;
        for (std::size_t p = 0; p < to.size(); ++p)
          for (Index k = 0; k < to[p].size() / systems; ++k) {
            const Index at = static_cast<Index>(s) * (to[p].size() / systems) + k;
            const auto a = to[p].data()[at], b = from[p].data()[at];
            distance += (static_cast<long double>(a) - b) * (static_cast<long double>(a) - b);
            size += static_cast<long double>(a) * a;
            const T off = std::abs(sum[p].data()[at] - (b + static_cast<T>(factors[s]) * a));
            if (!(off <= worst)) worst = off;
          }
        CHECK(worst <= 4 * std::numeric_limits<T>::epsilon());
        CHECK(moved.distances[s] == doctest::Approx(static_cast<double>(std::sqrt(distance))).epsilon(1e-13));
        CHECK(moved.sizes[s] == doctest::Approx(static_cast<double>(std::sqrt(size))).epsilon(1e-13));
      }
    }
}
