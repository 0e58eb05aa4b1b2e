#include <doctest/doctest.h>

#include <numbers>

#include "problems.hpp"
#include "settle/nn/conv_lstm.hpp"
#include "settle/nn/hgru.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

/// The penalty of an affine step with the given matrix, through the node.
double penalty_of(const Matrix& w, const fp::Penalty& penalty) {
  const Shape shape{1, w.n, 1, 1};
  const Var<double> weight = w.weight(), zero = Tensor<double>(shape, 0.0);
  return fp::solve(Affine{}, {.stop = fp::Steps{2}, .penalty = penalty}, zero, weight, zero).penalty.item();
}

/// What a backward pass of sum(c z) for z = W z + x reports, and the adjoint it found.
std::pair<fp::AdjointReport, std::vector<double>> adjoint_report(const Matrix& w, const std::vector<double>& c,
                                                                 const fp::Options& options) {
  Tape<double> tape;
  const Shape shape{1, w.n, 1, 1};
  const Var<double> weight = w.weight(), x = tape.leaf(Tensor<double>(shape, 0.0));
  const auto solution = fp::solve(Affine{}, options, Var<double>(Tensor<double>(shape, 0.0)), weight, x);
  const auto g = grad(sum(solution.z * Var<double>(Tensor<double>(shape, c))), {x}).front();
  return {solution.report->adjoint, to_doubles(g.value())};
}

}  // namespace

TEST_CASE("R4: the LCP is the published one on fixed matrices, and blind to -5 I") {
  Matrix w(3);
  w.a = {0.5, 1.0, -2.0,   //
         0.7, 0.1, 0.25,   //
         0.2, 0.3, -1.0};  // column sums 1.4, 1.4, -2.75
  CHECK(penalty_of(w, fp::Lcp{.lambda = 0.9}) == doctest::Approx(2 * 0.25 / 3).epsilon(1e-12));
  CHECK(penalty_of(w, fp::Lcp{.lambda = 0.9, .reduction = fp::Reduction::sum}) ==
        doctest::Approx(2 * 0.25).epsilon(1e-12));
  CHECK(penalty_of(w, fp::Lcp{.lambda = 0.9, .two_sided = true}) ==
        doctest::Approx((2 * 0.25 + 1.85 * 1.85) / 3).epsilon(1e-12));
  Matrix negative(3);
  for (int i = 0; i < 3; ++i) negative(i, i) = -5;
  CHECK(penalty_of(negative, fp::Lcp{}) == 0);
  CHECK(penalty_of(negative, fp::Lcp{.two_sided = true}) == doctest::Approx(4.1 * 4.1).epsilon(1e-12));
}

TEST_CASE("R4: the gradient of every penalty agrees with differences of its value to 1e-7") {
  const Shape shape{2, 4, 1, 1};
  Random random(3);
  const Tensor<double> w0 = random_matrix(4, 5).times(2.0).weight(), x0 = normal<double>(shape, 0, 0.5, random);
  const fp::Penalty penalties[] = {
      fp::Lcp{.lambda = 0.2}, fp::Lcp{.lambda = 0.2, .two_sided = true},
      fp::Lcp{.lambda = 0.2, .route = fp::Route::forward_over_reverse},
      fp::Lcp{.lambda = 0.2, .two_sided = true, .route = fp::Route::forward_over_reverse},
      fp::Hutchinson{.probes = 2, .seed = 5},
      // Without power iterations, whose end the differences would move: they are held constant.
      fp::SpectralHinge{.target = 0.3, .products = 0, .seed = 5}, fp::Movement{}};
  for (const fp::Penalty& penalty : penalties) {
    for (const double weight : {0.0, 1.0}) {  // the penalty alone, and beside a loss that goes through the node too
      CAPTURE(penalty.index());
      const fp::Options options{.stop = fp::Steps{1}, .adjoint = fp::Terms{0}, .penalty = penalty};
      const Var<double> z0 = normal<double>(shape, 0, 0.5, random);
      const auto objective = [&](const Var<double>& w, const Var<double>& x) {
        const auto solution = fp::solve(Tanh{}, options, z0, w, x);
        return weight * sum(solution.z * solution.z) + solution.penalty;
      };
      Tape<double> tape;
      const Var<double> w = tape.leaf(w0), x = tape.leaf(x0);
      CHECK(fp::solve(Tanh{}, options, z0, w, x).penalty.item() > 0);
      const auto gradients = grad(objective(w, x), {w, x});
      const auto in_w = central_differences([&](const Tensor<double>& v) { return objective(v, x0).item(); }, w0, 1e-6);
      const auto in_x = central_differences([&](const Tensor<double>& v) { return objective(w0, v).item(); }, x0, 1e-6);
      CHECK(relative_error(to_doubles(gradients[0].value()), in_w) <= 1e-7);
      CHECK(relative_error(to_doubles(gradients[1].value()), in_x) <= 1e-7);
    }
  }
}

TEST_CASE("R4: the two routes of the LCP give the same gradient to 1e-13, on a state of two tensors too") {
  using Pair = std::tuple<Var<double>, Var<double>>;
  const auto step = [](const Pair& z, const Var<double>& w, const Var<double>& x) {
    const auto& [h, c] = z;
    return Pair{Tanh{}(h + c, w, x), map([](auto u, auto v) { return sigmoid(u) * v + u * v; }, h, conv(c, w))};
  };
  const Shape shape{2, 4, 1, 1};
  Random random(3);
  const Tensor<double> w0 = random_matrix(4, 5).times(2.0).weight(), x0 = normal<double>(shape, 0, 0.5, random);
  const Pair z0{normal<double>(shape, 0, 0.5, random), normal<double>(shape, 0, 0.5, random)};
  for (const fp::Blocks blocks : {fp::Blocks::full, fp::Blocks::diagonal}) {
    double values[2];
    std::vector<double> gradients[2];
    for (const fp::Route route : {fp::Route::second_order_tape, fp::Route::forward_over_reverse}) {
      Tape<double> tape;
      const Var<double> w = tape.leaf(w0);
      const auto solution =
          fp::solve(step, {.stop = fp::Steps{1}, .penalty = fp::Lcp{.lambda = 0.1, .blocks = blocks, .route = route}},
                    z0, w, Var<double>(x0));
      const auto k = static_cast<std::size_t>(route);
      values[k] = solution.penalty.item();
      gradients[k] = to_doubles(grad(solution.penalty, {w}).front().value());
    }
    CHECK(values[0] > 0);
    CHECK(std::abs(values[0] - values[1]) <= 1e-13 * values[0]);
    CHECK(relative_error(gradients[1], gradients[0]) <= 1e-13);
  }
}

TEST_CASE("R4: the two routes of the LCP give the same gradient to 1e-10 for the hGRU and the convLSTM") {
  const auto compare = [](const auto& cell) {
    Random random(5);
    const Var<double> x = normal<double>({2, 4, 5, 5}, 0, 1, random);
    std::vector<double> gradients[2];
    double values[2];
    for (const fp::Route route : {fp::Route::second_order_tape, fp::Route::forward_over_reverse}) {
      Tape<double> tape;
      const auto taped = on_tape(cell, tape);
      const auto solution = fp::solve(
          taped,
          {.stop = fp::Steps{3}, .penalty = fp::Lcp{.lambda = 0.01, .route = route}, .on_fail = fp::OnFail::report},
          cell.initial_state(x), x);
      const auto k = static_cast<std::size_t>(route);
      values[k] = solution.penalty.item();
      for (const auto& g : grad(solution.penalty, parameters<Var<double>>(taped)))
        for (const double v : g.value().values()) gradients[k].push_back(v);
    }
    CHECK(values[0] > 0);
    CHECK(std::abs(values[0] - values[1]) <= 1e-12 * values[0]);
    CHECK(relative_error(gradients[1], gradients[0]) <= 1e-10);
  };
  ParameterStreams streams(3);
  compare(HgruCell<double>::initial(4, 3, streams));
  compare(ConvLstmCell<double>::initial(4, 3, streams));
}

TEST_CASE("R4: Hutchinson's estimate of the squared Frobenius norm is unbiased within 3 standard errors") {
  const Matrix w = random_matrix(8, 2);
  double exact = 0;
  for (double v : w.a) exact += v * v;
  for (const bool rademacher : {true, false}) {
    const int count = 400;
    double mean = 0, square = 0;
    for (int k = 0; k < count; ++k) {
      const double p = penalty_of(
          w, fp::Hutchinson{
                 .rademacher = rademacher, .seed = static_cast<std::uint64_t>(k), .reduction = fp::Reduction::sum});
      mean += p / count;
      square += p * p / count;
    }
    const double error = std::sqrt((square - mean * mean) / count);
    CHECK(error < 0.1 * exact);
    CHECK(std::abs(mean - exact) <= 3 * error);
  }
  CHECK(penalty_of(w, fp::Hutchinson{.probes = 4, .reduction = fp::Reduction::mean}) * 8 ==
        doctest::Approx(penalty_of(w, fp::Hutchinson{.probes = 4, .reduction = fp::Reduction::sum})).epsilon(1e-12));
}

TEST_CASE("R4: SpectralHinge sees the spectral radius where the LCP is blind, within 2 %") {
  Matrix negative(3);
  for (int i = 0; i < 3; ++i) negative(i, i) = -5;
  CHECK(penalty_of(negative, fp::SpectralHinge{.target = 0.9}) == doctest::Approx(4.1 * 4.1).epsilon(1e-12));
  const Matrix rotation = rotation_matrix(6, 1.3, 1.0), symmetric = symmetric_matrix(10, 1.2, 3);
  CHECK(std::sqrt(penalty_of(rotation, fp::SpectralHinge{.target = 0.9})) == doctest::Approx(0.4).epsilon(1e-12));
  CHECK(0.9 + std::sqrt(penalty_of(symmetric, fp::SpectralHinge{.target = 0.9, .products = 60})) ==
        doctest::Approx(1.2).epsilon(0.02).scale(0));
  CHECK(penalty_of(rotation_matrix(6, 0.85, 1.0), fp::SpectralHinge{.target = 0.9}) == 0);
}

TEST_CASE(
    "R4: Movement is the square of the relative residual, sees rotations to which the LCP is blind, and is 0 at rest") {
  const double radius = 0.85, quarter = std::numbers::pi / 2;
  const Matrix rotation = rotation_matrix(6, radius, quarter);
  const Shape shape{2, 6, 1, 1};
  Random random(9);
  const Var<double> weight = rotation.weight(), zero = Tensor<double>(shape, 0.0);
  const Var<double> z0 = normal<double>(shape, 0, 1, random);
  const auto solve = [&](const fp::Penalty& penalty, const Var<double>& from) {
    return fp::solve(Affine{}, {.stop = fp::Steps{7}, .penalty = penalty, .on_fail = fp::OnFail::report}, from, weight,
                     zero);
  };
  CHECK(solve(fp::Lcp{.lambda = 0.9, .two_sided = true}, z0).penalty.item() == 0);
  const auto moving = solve(fp::Movement{}, z0);
  CHECK(moving.penalty.item() == doctest::Approx((1 + radius * radius) / (radius * radius)).epsilon(1e-12));
  CHECK(moving.report->forward.relative.size() == 2);
  for (const double relative : moving.report->forward.relative)
    CHECK(relative * relative == doctest::Approx(moving.penalty.item()).epsilon(1e-12));
  CHECK(solve(fp::Movement{}, zero).penalty.item() == 0);
}

TEST_CASE("R1: with a known Lipschitz constant the adjoint's error is at most what is reported") {
  // |W| is the root of the spectral radius of Wᵀ W; of a symmetric W it is its spectral radius.
  const auto norm_is = [](const Matrix& m, double norm) {
    Matrix square(m.n);
    for (int i = 0; i < m.n; ++i)
      for (int j = 0; j < m.n; ++j)
        for (int k = 0; k < m.n; ++k) square(i, j) += m(k, i) * m(k, j);
    return m.times(norm / std::sqrt(square.spectral_radius()));
  };
  const auto c = random_vector(20, 1);
  for (const Matrix& w : {symmetric_matrix(20, 0.9, 3), norm_is(random_matrix(20, 4), 0.9)})
    for (const fp::Adjoint& policy : {fp::Adjoint(fp::Terms{0}), fp::Adjoint(fp::Terms{5}), fp::Adjoint(fp::Terms{30}),
                                      fp::Adjoint(fp::Gmres{.rtol = 1e-3}), fp::Adjoint(fp::Neumann{.rtol = 1e-3}),
                                      fp::Adjoint(fp::Phantom{}), fp::Adjoint(fp::NormalCg{.rtol = 1e-2})}) {
      const auto exact = w.transposed().resolvent(c);
      auto [report, g] = adjoint_report(w, c, {.stop = fp::Steps{1}, .adjoint = policy, .lipschitz = 0.9});
      for (std::size_t k = 0; k < g.size(); ++k) g[k] -= exact[k];
      const double error = norm_of(g) / norm_of(c);
      CHECK(error <= report.error_estimates.front());
      CHECK(report.error_estimates.front() <= 100 * error);
    }
}

TEST_CASE("R2: the loss-error estimate is loss(z*) - loss(z) to three digits") {
  const Matrix w = scaled_to_radius(random_matrix(30, 2), 0.6);
  const Shape shape{2, 30, 1, 1};
  Random random(4);
  const Tensor<double> x0 = normal<double>(shape, 0, 1, random), target = normal<double>(shape, 0, 0.01, random);
  const auto run = [&](int steps) {
    Tape<double> tape;
    const Var<double> weight = tape.leaf(w.weight()), x = x0;
    const auto solution = fp::solve(Tanh{}, {.stop = fp::Steps{steps}, .adjoint = fp::Gmres{.rtol = 1e-12}},
                                    Var<double>(Tensor<double>(shape, 0.0)), weight, x);
    const Var<double> loss = sum(map([](auto z, auto y) { return sin(z + y); }, solution.z, Var<double>(target)));
    (void)grad(loss, {weight});
    return std::pair(loss.item(), solution.report->adjoint.loss_error_estimate);
  };
  const double exact = run(300).first;
  for (const int steps : {10, 14, 18}) {
    const auto [loss, estimate] = run(steps);
    CHECK(std::abs(exact - loss) > 1e-9);
    CHECK(std::abs(estimate - (exact - loss)) <= 5e-4 * std::abs(exact - loss));
  }
}

TEST_CASE(
    "R3: the spectral radius from the adjoint's products is within 5 % on rotations, Jordan blocks and random J (20 % "
    "from the five differences of Anderson's)") {
  Matrix jordan(6);
  for (int i = 0; i < 6; ++i) jordan(i, i) = 0.9;
  jordan(0, 1) = jordan(2, 3) = jordan(4, 5) = 1;
  struct Case {
    Matrix w;
    double rho;
  };
  for (const Case& c : {Case{rotation_matrix(6, 0.95, 1.5), 0.95}, Case{jordan, 0.9},
                        Case{scaled_to_radius(random_matrix(60, 2), 0.95), 0.95},
                        Case{symmetric_matrix(20, 0.9, 1), 0.9}, Case{non_normal_matrix(20, 0.5, 20), 0.5}}) {
    const auto b = random_vector(c.w.n, 5);
    const auto within = [&](const fp::Adjoint& policy, double share) {
      const double radius =
          adjoint_report(c.w, b, {.stop = fp::Steps{1}, .adjoint = policy}).first.spectral_radius.at(0);
      CAPTURE(policy.index());
      CAPTURE(radius);
      CHECK(std::abs(radius - c.rho) <= share * c.rho);
    };
    within(fp::Terms{60}, 0.05);
    within(fp::Gmres{.restart = 60, .rtol = 1e-9}, 0.05);
    within(fp::Auto{}, 0.05);
    within(fp::Dense{}, 0.02);
    // Five differences do not see the radius of sixty spread eigenvalues.
    within(fp::AdjointAnderson{}, c.w.n == 60 ? 0.2 : 0.05);
    // Solvers whose products do not tell say nothing rather than something else.
    for (const fp::Adjoint& silent :
         {fp::Adjoint(fp::BiCgStab{}), fp::Adjoint(fp::NormalCg{}), fp::Adjoint(fp::Phantom{})})
      CHECK(adjoint_report(c.w, b, {.stop = fp::Steps{1}, .adjoint = silent}).first.spectral_radius.empty());
  }
}

TEST_CASE("R3: Anderson's adjoint tells each sample's spectral radius, or none where a sample was done for long") {
  // Two samples of three numbers, z -> rate z: the first is done at once, the second after three products more.
  const Tensor<double> rates(Shape{2, 3}, {0.1, 0.1, 0.1, 0.9, 0.5, -0.7});
  const auto radii = [&](int depth) {
    Tape<double> tape;
    const Var<double> x = tape.leaf(Tensor<double>(Shape{2, 3}, 1.0)), zero = Tensor<double>(Shape{2, 3}, 0.0);
    const auto solution =
        fp::solve([](const Var<double>& z, const Var<double>& rate, const Var<double>& u) { return rate * z + u; },
                  {.stop = fp::Steps{1}, .adjoint = fp::AdjointAnderson{.solver = {.depth = depth}}}, zero,
                  Var<double>(rates), x);
    (void)grad(sum(solution.z), {x});
    return solution.report->adjoint.spectral_radius;
  };
  const auto both = radii(5);
  REQUIRE(both.size() == 2);
  CHECK(both[0] == doctest::Approx(0.1).epsilon(1e-6).scale(0));
  CHECK(both[1] == doctest::Approx(0.9).epsilon(1e-6));
  CHECK(radii(1).empty());
}

TEST_CASE("R3: a short last cycle of GMRES does not spoil the spectral radius that a longer one saw") {
  const Matrix w = symmetric_matrix(40, 0.99, 3);
  const auto report =
      adjoint_report(w, random_vector(40, 5), {.stop = fp::Steps{1}, .adjoint = fp::Gmres{.rtol = 1e-7}}).first;
  CHECK(report.products > 31);  // a second cycle
  CHECK(std::abs(report.spectral_radius.front() - 0.99) <= 1e-3);
}

TEST_CASE(
    "an adjoint error's estimate, relative to the solution found, is at least half of the true error, relative to the "
    "exact solution") {
  const Matrix cases[] = {scaled_to_radius(random_matrix(40, 1), 0.5), symmetric_matrix(40, 0.9, 2),
                          symmetric_matrix(40, 0.99, 3), non_normal_matrix(40, 0.5, 20),
                          rotation_matrix(40, 0.95, 1.2)};
  const fp::Adjoint policies[] = {fp::Terms{0}, fp::Terms{15},  fp::Phantom{},  fp::Neumann{},        fp::Gmres{},
                                  fp::Auto{},   fp::BiCgStab{}, fp::NormalCg{}, fp::AdjointAnderson{}};
  for (const Matrix& w : cases)
    for (const fp::Adjoint& policy : policies)
      for (const std::uint64_t seed : {1u, 5u, 7u}) {
        const auto c = random_vector(40, seed);
        const auto [report, g] =
            adjoint_report(w, c, {.stop = fp::Steps{1}, .adjoint = policy, .on_fail = fp::OnFail::report});
        const double error = relative_error(g, w.transposed().resolvent(c)),
                     estimate = report.error_estimates.front() * norm_of(c) / norm_of(g);
        CAPTURE(policy.index());
        CAPTURE(&w - cases);
        CAPTURE(error);
        CHECK(estimate >= 0.5 * error);
        if (error > 1e-13 && &w - cases < 2) CHECK(estimate <= 30 * error);  // where J is mild, no wild pessimism
      }
}

TEST_CASE("the dual weight grows above its dead band, shrinks below it and fades within, by bounded factors") {
  const fp::DualWeight::Settings settings{.target = 0.9, .dead_band = 0.05, .gain = 0.2, .initial = 2};
  const auto after_one = [&](double radius) {
    fp::DualWeight dual(settings);
    dual.update(radius);
    return dual.weight() / 2;
  };
  CHECK(after_one(1.05) == doctest::Approx(std::exp(0.2 * 0.1)).epsilon(1e-12));
  CHECK(after_one(0.75) == doctest::Approx(std::exp(-0.2 * 0.1)).epsilon(1e-12));
  CHECK(after_one(0.93) == doctest::Approx(std::exp(-0.01)).epsilon(1e-12));
  CHECK(after_one(5) == doctest::Approx(std::exp(0.05)).epsilon(1e-12));
  CHECK(after_one(std::nan("")) == doctest::Approx(std::exp(0.05)).epsilon(1e-12));
  fp::DualWeight falling(settings);
  falling.update(1.4);
  const double before = falling.weight();
  falling.update(1.2);  // smoothed 1.38, but on its way below the band: the weight keeps still
  CHECK(falling.weight() == before);
  fp::Report report;
  for (int k = 0; k <= 100; ++k) report.adjoint.spectral_radius.push_back(k / 100.0);
  fp::DualWeight quantile({.target = 0.5, .dead_band = 0, .gain = 0.1});
  quantile.update(report);  // the 95th percentile
  CHECK(quantile.weight() == doctest::Approx(std::exp(0.1 * 0.45)).epsilon(1e-12));
}

TEST_CASE("the dual weight brings a toy's radius to the band's edge, and stays bounded, from any start") {
  // A net of one number, its radius a: the task pulls it to 1.2, the penalty (a - 0.9)+² / 2 away, so that 0.93, the
  // band's upper edge, takes a weight of (1.2 - 0.93) / (0.93 - 0.9) = 9. `signs`: steps of one size, as Adam's.
  struct Toy {
    double rate;
    bool signs;
  };
  for (const Toy& toy : {Toy{0.05, false}, Toy{0.005, false}, Toy{0.0005, false}, Toy{0.001, true}})
    for (const double noise : {0.0, 0.03})
      for (const double start : {0.01, 1.0, 10.0}) {
        CAPTURE(toy.rate);
        CAPTURE(noise);
        CAPTURE(start);
        fp::DualWeight dual({.target = 0.9, .dead_band = 0.03, .initial = start});
        Random random(1);
        double a = 1.1, largest = 0, late_radius = 0, late_weight = 0;
        const int steps = 3000, late = 500;
        for (int k = 0; k < steps; ++k) {
          const double slope = a - 1.2 + dual.weight() * std::max(0.0, a - 0.9);
          a -= toy.rate * (toy.signs ? std::copysign(1.0, slope) : slope);
          dual.update(a + noise * random.normal());
          largest = std::max(largest, dual.weight());
          if (k >= steps - late) late_radius += a / late, late_weight += dual.weight() / late;
        }
        CHECK(largest <= 1000);
        CHECK(std::abs(late_radius - 0.93) <= 0.015);
        CHECK(late_weight >= 5);
        CHECK(late_weight <= 12);
      }
}

TEST_CASE("the sigmoid gate has the published logs' values") {
  const fp::SigmoidGate gate;
  CHECK(gate.loss_weight(0) == doctest::Approx(0.99253).epsilon(1e-5));
  CHECK(gate.loss_weight(1.65e-6) == doctest::Approx(0.5).epsilon(1e-12));
  CHECK(gate.loss_weight(3e-6) == doctest::Approx(0.018).epsilon(1e-2).scale(0));
  CHECK(gate.penalty_weight(1) == doctest::Approx(20));
}

TEST_CASE("a sequence is tracked with fewer steps than from scratch, and its drift is the distance between frames") {
  const Matrix w = scaled_to_radius(random_matrix(8, 3), 0.9);
  const Shape shape{1, 8, 1, 1};
  Random random(2);
  const Tensor<double> base = normal<double>(shape, 0, 1, random), change = normal<double>(shape, 0, 0.001, random);
  std::vector<Var<double>> inputs;
  Tape<double> tape;
  for (int t = 0; t < 5; ++t)
    inputs.push_back(tape.leaf(
        map([](auto b, auto c, auto k) { return b + k * c; }, Var<double>(base), Var<double>(change), t).value()));
  const auto step = [&](const Var<double>& z, const Var<double>& x, const Var<double>& weight) {
    return Affine{}(z, weight, x);
  };
  const Var<double> zero = Tensor<double>(shape, 0.0), weight = tape.leaf(w.weight());
  const fp::Options options{.stop = fp::Residual{.rtol = 1e-8, .max_steps = 1000}, .adjoint = fp::Gmres{.rtol = 1e-8}};
  const auto sequence = fp::solve_sequence(step, options, zero, inputs, weight);
  REQUIRE(sequence.frames.size() == 5);
  std::vector<double> z[5];
  Var<double> loss = Tensor<double>(Shape{}, 0.0);
  for (std::size_t t = 0; t < 5; ++t) {
    z[t] = w.resolvent(to_doubles(inputs[t].value()));
    CHECK(relative_error(to_doubles(sequence.frames[t].z.value()), z[t]) <= 1e-6);
    if (t > 0) {
      CHECK(sequence.frames[t].report->forward.steps < sequence.frames[0].report->forward.steps);
      CHECK(sequence.drift[t] == doctest::Approx(relative_error(z[t - 1], z[t])).epsilon(1e-2).scale(0));
    }
    loss = loss + sum(sequence.frames[t].z);
  }
  const auto gradients = grad(loss, {inputs[0], weight});
  CHECK(relative_error(to_doubles(gradients[0].value()), w.transposed().resolvent(std::vector<double>(8, 1.0))) <=
        1e-7);
  CHECK(sequence.frames[0].report->adjoint.products < sequence.frames[4].report->adjoint.products);
}

TEST_CASE("a stability profile shows residual, distance, spectral radius and metric at every step") {
  const double rho = 0.8;
  const Var<double> z0 = Tensor<double>(Shape{1, 2, 1, 1}, 1.0), x = Tensor<double>(Shape{1, 2, 1, 1}, 0.0);
  const Var<double> w = rotation_matrix(2, rho, 0.7).weight();
  const auto profile = fp::stability_profile(
      Affine{}, {.steps = 12, .reference = 3}, z0, [](const Var<double>& z) { return z.value().values()[0]; }, w, x);
  REQUIRE(profile.size() == 12);
  // z_t = (0.8 R)^t z0: by hand.
  for (int t = 1; t <= 12; ++t) {
    const auto& point = profile[static_cast<std::size_t>(t - 1)];
    CHECK(point.step == t);
    CHECK(point.spectral_radius == doctest::Approx(rho).epsilon(1e-12));
    CHECK(point.metric == doctest::Approx(std::pow(rho, t) * (std::cos(0.7 * t) - std::sin(0.7 * t))).epsilon(1e-10));
    const double between = std::sqrt(std::pow(rho * std::cos(0.7) - 1, 2) + std::pow(rho * std::sin(0.7), 2)) / rho;
    CHECK(point.residual == doctest::Approx(between).epsilon(1e-10));
  }
  CHECK(profile[2].distance == doctest::Approx(0).epsilon(1e-12));
  CHECK(profile[3].distance ==
        doctest::Approx(std::hypot(rho * std::cos(0.7) - 1, rho * std::sin(0.7))).epsilon(1e-10));
}

TEST_CASE("the LCP on a tape is attached: its gradient goes through the state that it is taken at") {
  const Shape shape{1, 4, 1, 1};
  Random random(3);
  const Tensor<double> w0 = random_matrix(4, 5).times(2.0).weight(), x0 = normal<double>(shape, 0, 0.5, random);
  const auto penalty = [&](const Tensor<double>& weight, std::vector<double>* gradient) {
    Tape<double> tape;
    const Var<double> w = tape.leaf(weight), x = x0;
    const Var<double> first = Tanh{}(Var<double>(Tensor<double>(shape, 0.3)), w, x), second = Tanh{}(first, w, x);
    const Var<double> p = fp::lcp(second, first, {.lambda = 0.1});
    const double value = p.item();
    if (gradient) *gradient = to_doubles(grad(p, {w}).front().value());
    return value;
  };
  std::vector<double> gradient;
  CHECK(penalty(w0, &gradient) > 0);
  const auto expected = central_differences([&](const Tensor<double>& w) { return penalty(w, nullptr); }, w0, 1e-6);
  CHECK(relative_error(gradient, expected) <= 1e-7);
}
