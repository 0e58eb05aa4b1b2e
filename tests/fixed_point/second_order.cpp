#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "problems.hpp"
#include "settle/autodiff/checkpoint.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/ops/matmul.hpp"

// Gradients of gradients: through fixed points, penalties, and steps with checkpoints inside.
namespace fp = settle::fixed_point;
using namespace problems;

namespace {

Var<double> linear_layer(const Var<double>& z, const Var<double>& w) { return matmul(z, w); }

/// z -> tanh(z w) + x, plainly or with all of it in a checkpoint.
struct Layer {
  bool saving;
  Var<double> operator()(const Var<double>& z, const Var<double>& w, const Var<double>& x) const {
    const auto layer = [](const Var<double>& u, const Var<double>& v, const Var<double>& drive) {
      return map([](auto h, auto d) { return tanh(h) + d; }, matmul(u, v), drive);
    };
    return saving ? checkpoint(layer, z, w, x) : layer(z, w, x);
  }
};

const fp::Options exact{.stop = fp::Residual{.rtol = 1e-14, .max_steps = 400}, .adjoint = fp::Gmres{.rtol = 1e-14}};

}  // namespace

TEST_CASE("a penalty has its gradient through a checkpoint inside the step, by either route") {
  const auto step = [](const Var<double>& z, const Var<double>& w) { return checkpoint(linear_layer, z, w); };
  for (const fp::Route route : {fp::Route::second_order_tape, fp::Route::forward_over_reverse}) {
    Tape<double> tape;
    const Var<double> w = tape.leaf(Tensor<double>(Shape{2, 2}, {0.5, 0.7, 0.6, 0.2}));  // the transpose of W
    fp::Options options{.stop = fp::Steps{3}, .penalty = fp::Lcp{.lambda = 0.1, .route = route}};
    const auto solution = fp::solve(step, options, Var<double>(Tensor<double>(Shape{1, 2}, 1.0)), w);
    CHECK(solution.penalty.item() == doctest::Approx((1.1 * 1.1 + 0.7 * 0.7) / 2).epsilon(1e-12));
    const auto gradient = to_doubles(grad(solution.penalty, {w}).front().value());
    const std::vector<double> expected{1.1, 1.1, 0.7, 0.7};
    for (std::size_t k = 0; k < 4; ++k) CHECK(gradient[k] == doctest::Approx(expected[k]).epsilon(1e-12));
  }
}

TEST_CASE("every penalty agrees with finite differences, with and without a checkpoint inside the step") {
  Random random(4);
  const std::vector<Tensor<double>> point{uniform<double>({3, 3}, -0.5, 0.5, random),
                                          uniform<double>({2, 3}, -0.5, 0.5, random)};
  // A penalty's gradient takes the state for a constant, as a single step from z does.
  const Var<double> z(uniform<double>({2, 3}, -0.5, 0.5, random));
  for (const fp::Penalty& penalty :
       {fp::Penalty(fp::Lcp{.lambda = 0.1}), fp::Penalty(fp::Lcp{.lambda = 0.1, .two_sided = true}),
        fp::Penalty(fp::Lcp{.lambda = 0.1, .route = fp::Route::forward_over_reverse}),
        fp::Penalty(fp::Hutchinson{.probes = 2, .seed = 3}), fp::Penalty(fp::SpectralHinge{.target = 0.1})})
    for (const bool saving : {false, true}) {
      CAPTURE(penalty.index());
      CAPTURE(saving);
      const fp::Options options{.stop = fp::Steps{1}, .penalty = penalty};
      const auto f = [&](const std::vector<Var<double>>& in) {
        return fp::solve<2>(Layer{saving}, options, z, in[0], in[1]).penalty;
      };
      if (!std::holds_alternative<fp::SpectralHinge>(penalty)) {  // its direction is held constant: see below
        const auto first = gradcheck(f, point, {.tolerance = 1e-8});
        CHECK_MESSAGE(first.passed, first.message);
      }
      const auto gradients = [&](bool with_checkpoint) {
        Tape<double> tape;
        const std::vector<Var<double>> in{tape.leaf(point[0]), tape.leaf(point[1])};
        const auto value = fp::solve(Layer{with_checkpoint}, options, z, in[0], in[1]).penalty;
        return to_doubles(grad(value, in).front().value());
      };
      CHECK(relative_error(gradients(saving), gradients(false)) < 1e-13);
      CHECK(norm_of(gradients(saving)) > 1e-3);
    }
}

TEST_CASE("second derivatives of a fixed point agree with finite differences, whatever is asked for first") {
  Random random(7);
  const std::vector<Tensor<double>> point{uniform<double>({3, 3}, -0.5, 0.5, random),
                                          uniform<double>({2, 3}, -0.5, 0.5, random)};
  const Var<double> zero(Tensor<double>(Shape{2, 3}, 0.0));
  for (const bool saving : {false, true}) {
    CAPTURE(saving);
    const auto f = [&](const std::vector<Var<double>>& in) {
      return fp::solve<2>(Layer{saving}, exact, zero, in[0], in[1]).z;
    };
    const auto first = gradcheck(f, point);
    CHECK_MESSAGE(first.passed, first.message);
    const auto second = gradcheck_second_order(f, point);
    CHECK_MESSAGE(second.passed, second.message);
  }
}

TEST_CASE("the gradient of a penalty at a fixed point can be differentiated again, whatever is asked for first") {
  Random random(7);
  const std::vector<Tensor<double>> point{uniform<double>({3, 3}, -0.5, 0.5, random),
                                          uniform<double>({2, 3}, -0.5, 0.5, random)};
  const Var<double> zero(Tensor<double>(Shape{2, 3}, 0.0));
  for (const fp::Penalty& penalty :
       {fp::Penalty(fp::Lcp{.lambda = 0.01, .two_sided = true}),
        fp::Penalty(fp::Lcp{.lambda = 0.01, .two_sided = true, .route = fp::Route::forward_over_reverse}),
        fp::Penalty(fp::Hutchinson{.probes = 2, .seed = 3})})
    for (const bool saving : {false, true}) {
      CAPTURE(penalty.index());
      CAPTURE(saving);
      fp::Options options = exact;
      options.penalty = penalty;
      const auto f = [&](const std::vector<Var<double>>& in) {
        return fp::solve<2>(Layer{saving}, options, zero, in[0], in[1]).penalty;
      };
      const auto second = gradcheck_second_order(f, point);
      CHECK_MESSAGE(second.passed, second.message);
    }
}
