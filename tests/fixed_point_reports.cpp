#include <doctest/doctest.h>

#include "fixed_point_problems.hpp"

using namespace problems;
namespace fp = settle::fixed_point;

namespace {

/// The penalty of an affine step with the given matrix, through the node.
double lcp_of(const Matrix& w, const fp::Lcp& lcp) {
  const Shape shape{1, w.n, 1, 1};
  const Var<double> weight = w.weight(), zero = Tensor<double>(shape, 0.0);
  return fp::solve(Affine{}, {.stop = fp::Steps{2}, .penalty = lcp}, zero, weight, zero).penalty.item();
}

}  // namespace

TEST_CASE("R4: the LCP is the published one on fixed matrices, and blind to -5 I") {
  Matrix w(3);
  w.a = {0.5, 1.0, -2.0,   //
         0.7, 0.1, 0.25,   //
         0.2, 0.3, -1.0};  // column sums 1.4, 1.4, -2.75
  CHECK(lcp_of(w, {.lambda = 0.9}) == doctest::Approx(2 * 0.25 / 3).epsilon(1e-12));
  CHECK(lcp_of(w, {.lambda = 0.9, .reduction = fp::Reduction::sum}) == doctest::Approx(2 * 0.25).epsilon(1e-12));
  CHECK(lcp_of(w, {.lambda = 0.9, .two_sided = true}) == doctest::Approx((2 * 0.25 + 1.85 * 1.85) / 3).epsilon(1e-12));
  Matrix negative(3);
  for (int i = 0; i < 3; ++i) negative(i, i) = -5;
  CHECK(lcp_of(negative, {}) == 0);
  CHECK(lcp_of(negative, {.two_sided = true}) == doctest::Approx(4.1 * 4.1).epsilon(1e-12));
}

TEST_CASE("R4: the gradient of the LCP agrees with differences of its value to 1e-7") {
  const Shape shape{2, 4, 1, 1};
  Random random(3);
  const Tensor<double> w0 = random_matrix(4, 5).times(2.0).weight(), x0 = normal<double>(shape, 0, 0.5, random);
  for (const bool two_sided : {false, true}) {
    for (const double weight : {0.0, 1.0}) {  // the penalty alone, and beside a loss that goes through the node too
      const fp::Options options{.stop = fp::Steps{1},
                                .adjoint = fp::ReleasedNeumann{.terms = 0},
                                .penalty = fp::Lcp{.lambda = 0.2, .two_sided = two_sided}};
      const Var<double> z0 = normal<double>(shape, 0, 0.5, random);
      const auto objective = [&](const Var<double>& w, const Var<double>& x) {
        const auto solution = fp::solve(Tanh{}, options, z0, w, x);
        return weight * sum(solution.z * solution.z) + solution.penalty;
      };
      Tape<double> tape;
      const Var<double> w = tape.leaf(w0), x = tape.leaf(x0);
      const auto gradients = grad(objective(w, x), {w, x});
      const auto in_w = central_differences([&](const Tensor<double>& v) { return objective(v, x0).item(); }, w0, 1e-6);
      const auto in_x = central_differences([&](const Tensor<double>& v) { return objective(w0, v).item(); }, x0, 1e-6);
      CHECK(relative_error(to_doubles(gradients[0].value()), in_w) <= 1e-7);
      CHECK(relative_error(to_doubles(gradients[1].value()), in_x) <= 1e-7);
    }
  }
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
