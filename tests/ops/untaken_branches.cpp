#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "derivatives.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"

using namespace settle;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// Compares values, first and second derivatives at one point.
template <class F>
void check_at(F f, double x, double value, double first, double second) {
  const auto same = [](double got, double expected) {
    return (std::isnan(expected) && std::isnan(got)) || got == expected ||
           std::abs(got - expected) <= 1e-6 * std::abs(expected);
  };
  const auto got = derivatives<double>(f, {x});
  CAPTURE(x);
  CAPTURE(got[0][0]);
  CAPTURE(got[1][0]);
  CAPTURE(got[2][0]);
  CHECK(same(got[0][0], value));
  CHECK(same(got[1][0], first));
  CHECK(same(got[2][0], second));
}

/// The same for a pointwise function.
template <class F>
void check_map(F f, double x, double value, double first, double second) {
  check_at([f](const auto& v) { return map(f, v); }, x, value, first, second);
}

}  // namespace

TEST_CASE("a branch that is not taken gives no gradient, whatever its derivative is") {
  const auto root = [](auto v) { return select(v > 0., sqrt(v), v); };
  check_map(root, -1, -1, 1, 0);
  check_map(root, -4, -4, 1, 0);
  check_map(root, 0, 0, 1, 0);
  check_map(root, 4, 2, 0.25, -1. / 32);
  const auto softplus_by_hand = [](auto v) { return select(v > 30., v, log(1. + exp(v))); };
  check_map(softplus_by_hand, 1000, 1000, 1, 0);
  check_map(softplus_by_hand, infinity, infinity, 1, 0);
  check_map(softplus_by_hand, 0, std::log(2.), 0.5, 0.25);
  check_map([](auto v) { return select(v > 0., v * log(v), 0.); }, 0, 0, 0, 0);
  check_map([](auto v) { return select(v == 0., 1., sin(v) / v); }, 0, 1, 0, 0);
  check_map([](auto v) { return select(v == 0., 0., exp(-1. / (v * v))); }, 0, 0, 0, 0);
  check_map([](auto v) { return select(v < 1., v * v, 1. / (v - 0.5)); }, 0.5, 0.25, 1, 2);
  check_map([](auto v) { return select(v > 0., rsqrt(v), 3. * v); }, 0, 0, 3, 0);
  check_map([](auto v) { return select(v > 0., pow(v, -0.5), v); }, 0, 0, 1, 0);
  check_map([](auto v) { return select(v > 0., pow(v, 0.5), v); }, -2, -2, 1, 0);
  check_map([](auto v) { return select(v > -1., log1p(v), v); }, -1, -1, 1, 0);
  check_map([](auto v) { return select(v < 10., expm1(v), v); }, 1000, 1000, 1, 0);
  check_map([](auto v) { return select(v < 10., exp(v) * v, v); }, 1000, 1000, 1, 0);
}

TEST_CASE("masks of numbers that are none give no gradient") {
  for (const double bad : {none, infinity, -infinity}) {
    check_map([](auto v) { return select(v - v == 0., v * v, 0.); }, bad, 0, 0, 0);
    check_map([](auto v) { return select(v - v == 0., tanh(v) * sigmoid(v), 7.); }, bad, 7, 0, 0);
    check_map([](auto v) { return select(v - v == 0., sin(v) + softplus(v), 0.); }, bad, 0, 0, 0);
    check_map([](auto v) { return select(v - v == 0., gelu(v) / v, 0.); }, bad, 0, 0, 0);
    check_map([](auto v) { return select(v - v == 0., abs(v) * erf(v), 0.); }, bad, 0, 0, 0);
  }
  check_map([](auto v) { return select(v == v, max(v, 0.) * v, 1.); }, none, 1, 0, 0);
}

TEST_CASE("branches within branches, and values that several of them use") {
  const auto nested = [](auto v) { return select(v > 0., select(v > 1., log(v - 1.), sqrt(v)), -v); };
  check_map(nested, -1, 1, -1, 0);
  check_map(nested, 0, 0, -1, 0);
  check_map(nested, 0.25, 0.5, 1, -2);
  check_map(nested, 1, 1, 0.5, -0.25);
  check_map(nested, 2, 0, 1, -1);
  const auto shared = [](auto v) {
    const auto root = sqrt(v);
    return select(v > 0., root * root, v) + select(v > 4., root, 0.) + v;
  };
  check_map(shared, -1, -2, 2, 0);
  check_map(shared, 1, 2, 2, 0);
  check_map(shared, 16, 36, 2.125, -1. / 256);
  // A condition that is a number of the program itself, and one that has a derivative.
  const auto by_number = [](auto v) { return select(v, 1. / v, 2. * v); };
  check_map(by_number, 0, 0, 2, 0);
  check_map(by_number, 2, 0.5, -0.25, 0.25);
}

TEST_CASE("what loses against a bound gives no gradient") {
  check_map([](auto v) { return clamp(1. / v, -3., 3.); }, 0, 3, 0, 0);
  check_map([](auto v) { return clamp(1. / v, -3., 3.); }, -0.0, -3, 0, 0);
  check_map([](auto v) { return clamp(1. / v, -3., 3.); }, 0.5, 2, -4, 16);
  check_map([](auto v) { return max(log(v), -5.); }, 0, -5, 0, 0);
  check_map([](auto v) { return min(-log(v), 5.); }, 0, 5, 0, 0);
  check_map([](auto v) { return max(sqrt(v), 0.1); }, 0, 0.1, 0, 0);
  check_map([](auto v) { return min(rsqrt(v), 10.); }, 0, 10, 0, 0);
  check_map([](auto v) { return min(exp(v), 1.); }, 1000, 1, 0, 0);
  check_map([](auto v) { return min(abs(1. / v), 10.); }, 0, 10, 0, 0);
  check_map([](auto v) { return relu(log(v)); }, 0, 0, 0, 0);
  check_map([](auto v) { return relu(v * -infinity); }, 1, 0, 0, 0);
}

TEST_CASE("functions that saturate have derivative 0 where their arguments are infinite") {
  check_map([](auto v) { return gelu(v); }, -infinity, 0, 0, 0);
  check_map([](auto v) { return gelu(v); }, infinity, infinity, 1, 0);
  check_map([](auto v) { return v * sigmoid(v); }, -infinity, 0, 0, 0);
  check_map([](auto v) { return sigmoid(v) * v; }, infinity, infinity, 1, 0);
  check_map([](auto v) { return silu(v); }, 0, 0, 0.5, 0.5);
  check_map([](auto v) { return silu(v); }, -2000, 0, 0, 0);
  check_map([](auto v) { return silu(v); }, 2000, 2000, 1, 0);
  check_map([](auto v) { return silu(v) + gelu(v); }, none, none, none, none);
  check_map([](auto v) { return sigmoid(v) + tanh(v); }, -infinity, -1, 0, 0);
  check_map([](auto v) { return softplus(v) + softplus_cut(v); }, infinity, infinity, 2, 0);
  check_map([](auto v) { return log_sigmoid(v); }, infinity, 0, 0, 0);
  check_map([](auto v) { return log_sigmoid(v); }, -infinity, -infinity, 1, 0);
  check_map([](auto v) { return erf(v) + exp(-abs(v)); }, infinity, 1, 0, 0);
  for (const auto& first :
       {derivatives<double>([](const auto& x) { return map([](auto v) { return tanh(1. / v); }, x); }, {0}),
        derivatives<double>([](const auto& x) { return map([](auto v) { return sigmoid(1. / v); }, x); }, {0})}) {
    CHECK(first[0][0] == 1);
    CHECK(first[1][0] == 0);
  }
}

TEST_CASE("a cotangent of zero gives zero across operations, whatever the derivative there") {
  const auto masked = [](auto f) {
    return [f](const auto& v) {
      return map([](auto y, auto x) { return select(x > 0., y, 0.); }, map(f, v), stop_gradient(v));
    };
  };
  for (const double x : {0.0, -1.0, -infinity}) {
    check_at(masked([](auto v) { return log(v); }), x, 0, 0, 0);
    check_at(masked([](auto v) { return sqrt(v); }), x, 0, 0, 0);
    check_at(masked([](auto v) { return rsqrt(v); }), x, 0, 0, 0);
    check_at(masked([](auto v) { return 1. / v; }), x, 0, 0, 0);
    check_at(masked([](auto v) { return pow(v, 1.5); }), x, 0, 0, 0);
    check_at(masked([](auto v) { return v * v; }), x, 0, 0, 0);
    check_at(masked([](auto v) { return exp(-1000. * v) * v; }), x, 0, 0, 0);
  }
  check_at(masked([](auto v) { return v * tanh(v); }), -infinity, 0, 0, 0);
}

TEST_CASE("where one result of a map has no cotangent, the other's gradient stands") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({3}, {0, 1, 4}));
  const auto [root, square] = map([](auto v) { return outputs(sqrt(v), v * v); }, x);
  const Var<double> weight = Tensor<double>({3}, {0, 1, 1});
  const auto g = grad(sum(root * weight) + sum(square), {x}, {.create_graph = true}).front();
  CHECK(g.value().data()[0] == 0);
  CHECK(g.value().data()[1] == 2.5);
  CHECK(g.value().data()[2] == 8.25);
  const auto second = grad(sum(g), {x}).front();
  CHECK(second.value().data()[0] == 2);
  CHECK(second.value().data()[1] == 1.75);
}

TEST_CASE("the derivative with respect to a cotangent is the local derivative, at a cotangent of 0 too") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {4, 0})), c = tape.leaf(Tensor<double>({2}, {0, 0}));
  const Var<double> y = map([](auto v) { return sqrt(v) + 3. * v * v; }, x);
  const auto g = grad(sum(y * c), {x}, {.create_graph = true}).front();
  CHECK(g.value().data()[0] == 0);
  CHECK(g.value().data()[1] == 0);
  const auto both = grad(sum(g), {c, x});
  CHECK(both[0].value().data()[0] == 24.25);
  CHECK(both[0].value().data()[1] == infinity);
  CHECK(both[1].value().data()[0] == 0);  // the cotangent is a factor of it
  CHECK(both[1].value().data()[1] == 0);
}

TEST_CASE("kept local derivatives obey the same rule") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({4}, {0, 1, 4, -1})), w = tape.leaf(Tensor<double>(Shape{}, 2.0));
  const Var<double> y = map([](auto v, auto s) { return sqrt(v) * s; }, x, w);
  Pullback<double> pull({y}, {x, w}, true);
  for (int round = 0; round < 3; ++round) {
    const auto g = pull({Var<double>(Tensor<double>({4}, {0, 1, 1, 0}))});
    CHECK(g[0].value().data()[0] == 0);
    CHECK(g[0].value().data()[1] == 1);
    CHECK(g[0].value().data()[2] == 0.5);
    CHECK(g[0].value().data()[3] == 0);
    CHECK(g[1].value().item() == 3);
    const auto nothing = pull({Var<double>(Tensor<double>({4}, {0, 0, 0, 0}))});
    for (const double v : nothing[0].value().values()) CHECK(v == 0);
    CHECK(nothing[1].value().item() == 0);
  }
}

TEST_CASE("a row that is all minus infinity and masked out takes no part in a loss") {
  for (const bool softmax : {false, true}) {
    CAPTURE(softmax);
    Tape<double> tape;
    const Var<double> x = tape.leaf(Tensor<double>({2, 2}, {-infinity, -infinity, 0, 0}));
    const Var<double> rows = softmax ? reduce([](auto v) { return v; }, {1}, log_softmax(x, 1)) : logsumexp(x, {1});
    const Var<double> wanted = Tensor<double>({2, 1}, {0, 1});
    const Var<double> loss = sum(map([](auto r, auto k) { return select(k, r * r, 0.); }, rows, wanted));
    const Var<double> g = grad(loss, {x}, {.create_graph = true}).front();
    for (Index k = 0; k < 2; ++k) CHECK(g.value().data()[k] == 0);
    const double expected = softmax ? 0 : std::log(2.);
    for (Index k = 2; k < 4; ++k) CHECK(g.value().data()[k] == doctest::Approx(expected));
    const Var<double> second = grad(sum(g * g), {x}).front();
    for (Index k = 0; k < 2; ++k) CHECK(second.value().data()[k] == 0);
    for (Index k = 2; k < 4; ++k) CHECK(std::isfinite(second.value().data()[k]));
  }
}

namespace {

/// The value, the gradient and that of the gradient's squares' sum.
template <class Loss>
void check_loss(const Loss& loss, const Tensor<double>& logits, double value, const std::vector<double>& slopes) {
  Tape<double> tape;
  const Var<double> z = tape.leaf(logits);
  const Var<double> y = loss(z);
  CHECK(y.item() == doctest::Approx(value).epsilon(1e-14));
  const Var<double> g = grad(y, {z}, {.create_graph = true}).front();
  const Var<double> second = grad(sum(g * g), {z}).front();
  for (std::size_t k = 0; k < slopes.size(); ++k) {
    CAPTURE(k);
    CHECK(g.value().values()[k] == doctest::Approx(slopes[k]).epsilon(1e-14));
    CHECK(std::isfinite(second.value().values()[k]));
  }
}

}  // namespace

TEST_CASE("a class that another label leaves out, or a pixel that is ignored, takes no part in a loss") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto entropy = [](Tensor<double> labels, CrossEntropyOptions options = {}) {
    return [=](const Var<double>& z) { return cross_entropy(z, labels, options); };
  };
  check_loss(entropy(Tensor<double>({1}, 1.0)), Tensor<double>({1, 2}, {-infinity, 0}), 0, {0, 0});
  check_loss(entropy(Tensor<double>({1}, 2.0)), Tensor<double>({1, 3}, {0, -infinity, 0}), std::log(2.), {.5, 0, -.5});
  for (const double nothing : {-infinity, infinity, nan}) {
    CAPTURE(nothing);
    check_loss(entropy(Tensor<double>({2}, {255, 0}), {.ignore = 255}),
               Tensor<double>({2, 2}, {nothing, nothing, 0, 0}), std::log(2.), {0, 0, -.5, .5});
    for (const double gamma : {0., 2.}) {
      CAPTURE(gamma);
      const double factor = gamma == 0 ? 1 : .25;  // (1 - p) squared, held constant
      check_loss(
          [=](const Var<double>& z) {
            return pixel_loss(z, Tensor<double>({1, 1, 2}, 0.0), Tensor<double>({1, 1, 2}, {1, 0}), gamma);
          },
          Tensor<double>({1, 2, 1, 2}, {nothing, 0, nothing, 0}), factor * std::log(2.),
          {0, -.5 * factor, 0, .5 * factor});
    }
  }
  check_loss([](const Var<double>& z) { return pixel_loss(z, Tensor<double>({1, 1, 1}, 1.0), {}, 0); },
             Tensor<double>({1, 2, 1, 1}, {-infinity, 0}), 0, {0, 0});
  check_loss(
      [](const Var<double>& z) {
        return binary_cross_entropy_with_logits(z, Tensor<double>({3}, {0, 1, .5}), LossReduction::sum);
      },
      Tensor<double>({3}, {-infinity, infinity, 0}), std::log(2.), {0, 0, 0});
}

TEST_CASE("the largest value of a row with NaN that is left out has no gradient") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2, 2}, {std::numeric_limits<double>::quiet_NaN(), 1, 2, 3}));
  const Var<double> kept = Tensor<double>({2, 1}, {0, 1});
  for (const bool largest : {true, false}) {
    const Var<double> y = largest ? max(x, {1}) : min(x, {1});
    const Var<double> g = grad(sum(map([](auto v, auto k) { return select(k, v, 0.); }, y, kept)), {x}).front();
    const std::vector<double> right = largest ? std::vector<double>{0, 0, 0, 1} : std::vector<double>{0, 0, 1, 0};
    for (std::size_t k = 0; k < 4; ++k) CHECK(g.value().values()[k] == right[k]);
  }
}
