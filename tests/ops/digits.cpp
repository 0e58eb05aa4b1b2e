#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "derivatives.hpp"
#include "settle/core/denormals.hpp"
#include "settle/cpu/packet_math.hpp"
#include "settle/nn/batch_norm.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/pixel_loss.hpp"
#include "settle/optim/adam.hpp"
#include "settle/optim/sgd.hpp"

using namespace settle;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Real = long double;
using Function = Real (*)(Real);

/// Numbers of both signs and all sizes.
template <class T>
std::vector<T> numbers(double largest) {
  std::vector<T> out{0};
  for (double x = sizeof(T) == 4 ? 1e-30 : 1e-290; x < largest; x *= x < 1e-20 || x > 1e4 ? 1e7 : x < 0.01 ? 13 : 1.21)
    for (const double sign : {1, -1}) out.push_back(static_cast<T>(sign * x));
  return out;
}

/// Compares a function's values and derivatives with formulas in long double, in units of T's precision.
template <class T, class F>
void compare(const char* name, F f, std::vector<T> at, Function value, Function first, Function second, double units) {
  const auto got = derivatives<T>([f](const auto& x) { return map(f, x); }, at);
  const Function expected[3] = {value, first, second};
  CAPTURE(std::string(name));
  for (std::size_t order = 0; order < 3; ++order)
    for (std::size_t k = 0; k < at.size(); ++k) {
      const Real right = expected[order](static_cast<Real>(at[k]));
      if (std::abs(right) < 4 * std::numeric_limits<T>::min()) continue;  // denormal results are zeros
      if (std::abs(right) > static_cast<Real>(std::numeric_limits<T>::max())) {
        CHECK(static_cast<Real>(got[order][k]) == std::copysign(static_cast<Real>(infinity), right));
        continue;
      }
      const double error = static_cast<double>(std::abs(static_cast<Real>(got[order][k]) - right) / std::abs(right));
      CAPTURE(order);
      CAPTURE(at[k]);
      CAPTURE(got[order][k]);
      CHECK(error <= units * static_cast<double>(std::numeric_limits<T>::epsilon()));
    }
}

Real sech2(Real x) { return 1 / (std::cosh(x) * std::cosh(x)); }
Real logistic(Real x) { return 1 / (1 + std::exp(-x)); }
Real logistic_slope(Real x) { return 1 / (2 + std::exp(x) + std::exp(-x)); }

template <class T>
void compare_saturating_functions() {
  const auto x = numbers<T>(80);
  compare<T>(
      "tanh", [](auto v) { return tanh(v); }, x, std::tanh, sech2, [](Real v) { return -2 * std::tanh(v) * sech2(v); },
      12);
  compare<T>(
      "sigmoid", [](auto v) { return sigmoid(v); }, x, logistic, logistic_slope,
      [](Real v) { return -logistic_slope(v) * std::tanh(v / 2); }, 12);
  compare<T>(
      "softplus", [](auto v) { return softplus(v); }, x,
      [](Real v) { return v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v)); }, logistic, logistic_slope,
      12);
  const Real c = 2 / std::sqrt(std::acos(Real(-1)));
  static const Real two_over_root_pi = c;
  compare<T>(
      "erf", [](auto v) { return erf(v); }, numbers<T>(4), std::erf,
      [](Real v) { return two_over_root_pi * std::exp(-v * v); },
      [](Real v) { return -2 * v * two_over_root_pi * std::exp(-v * v); }, 60);
  compare<T>(
      "expm1", [](auto v) { return expm1(v); }, x, std::expm1, std::exp, std::exp, 12);
}

template <class T>
struct Single {
  Var<T> p;
  void parameters(auto&& visit) { visit("p", p); }
};

/// One step of an optimiser from 0 with a gradient.
template <class T, class Optimiser = Adam<T>>
double first_step(double gradient, typename Optimiser::Options options = {}) {
  Single<T> net{Tensor<T>(Shape{}, T{0})};
  Optimiser(options).step(net, {Var<T>(Tensor<T>(Shape{}, static_cast<T>(gradient)))});
  return static_cast<double>(net.p.value().item());
}

/// log_softmax of a row, in float.
std::vector<float> log_softmax_of(const std::vector<float>& row) {
  const auto y = log_softmax(Var<float>(Tensor<float>({1, static_cast<Index>(row.size())}, row)), 1);
  return {y.value().values().begin(), y.value().values().end()};
}

}  // namespace

TEST_CASE("functions that saturate keep their digits, values and derivatives, near 0 and far from it") {
  compare_saturating_functions<double>();
  compare_saturating_functions<float>();
  const auto tiny = derivatives<double>([](const auto& x) { return map([](auto v) { return tanh(v); }, x); }, {1e-17});
  CHECK(tiny[2][0] == doctest::Approx(-2e-17).epsilon(1e-14));
}

TEST_CASE("gelu and the normal distribution function keep their digits in both tails") {
  const auto cdf = [](Real v) { return std::erfc(-v * std::sqrt(0.5L)) / 2; };
  const auto density = [](Real v) { return std::exp(-v * v / 2) / std::sqrt(2 * std::acos(Real(-1))); };
  const auto check = [&]<class T>(T, const std::vector<T>& at) {
    const auto tails = derivatives<T>([](const auto& x) { return map([](auto v) { return normal_cdf(v); }, x); }, at);
    const auto got = derivatives<T>([](const auto& x) { return map([](auto v) { return gelu(v); }, x); }, at);
    const double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
    for (std::size_t k = 0; k < at.size(); ++k) {
      const Real v = static_cast<Real>(at[k]);
      CAPTURE(at[k]);
      const double exponent = static_cast<double>(v * v);  // the rounding of which is in the density's
      const auto close = [&](T y, Real right, double units) {
        CHECK(static_cast<double>(std::abs(static_cast<Real>(y) - right) / std::max(std::abs(right), 1e-300L)) <=
              units * unit);
      };
      close(tails[0][k], cdf(v), 8);
      close(got[0][k], v * cdf(v), 9);
      close(tails[1][k], density(v), 4 + exponent);
      close(tails[2][k], -v * density(v), 5 + exponent);
      close(got[1][k], cdf(v) + v * density(v), 40 + 4 * exponent);
      close(got[2][k], (2 - v * v) * density(v), 40 + 4 * exponent);
    }
  };
  check(0.0f, {-12, -9, -6, -5, -3.3f, -2, -1.1f, -0.71f, -0.3f, -1e-10f, 0, 1e-5f, 0.5f, 0.72f, 1, 2, 5, 11});
  check(0.0, {-37, -30, -20, -9, -6, -5, -3.3, -2, -1.1, -0.71, -0.3, -1e-10, 0, 1e-5, 0.5, 0.72, 1, 2, 5, 11, 30});
}

TEST_CASE("roots and powers keep their digits for numbers of every size") {
  const auto x = [] {
    std::vector<double> positive;
    for (const double v : numbers<double>(1e290))
      if (v > 0) positive.push_back(v);
    return positive;
  }();
  compare<double>(
      "log", [](auto v) { return log(v); }, x, std::log, [](Real v) { return 1 / v; },
      [](Real v) { return -1 / (v * v); }, 4);
  compare<double>(
      "sqrt", [](auto v) { return sqrt(v); }, x, std::sqrt, [](Real v) { return 0.5L / std::sqrt(v); },
      [](Real v) { return -0.25L / (v * std::sqrt(v)); }, 8);
}

TEST_CASE("numbers below the smallest normal one are read as they are") {
  const FlushDenormals flush;
  const auto check = [](auto tiny, auto f, auto expected) {
    using T = decltype(tiny);
    const T got = f(cpu::splat(tiny))[0];
    CAPTURE(tiny);
    const double right = static_cast<double>(expected(static_cast<Real>(tiny)));
    if (std::isnan(right))
      CHECK(std::isnan(got));
    else
      CHECK(static_cast<double>(got) == doctest::Approx(right).epsilon(4 * std::numeric_limits<T>::epsilon()));
  };
  const auto check_all = [&](auto tiny) {
    check(
        tiny, [](auto v) { return cpu::pow(v, 0.5f); }, [](Real v) { return std::sqrt(v); });
    check(
        tiny, [](auto v) { return cpu::pow(v, -0.5f); }, [](Real v) { return 1 / std::sqrt(v); });
    check(
        tiny, [](auto v) { return cpu::pow(v, 0.25f); }, [](Real v) { return std::pow(v, 0.25L); });
    check(
        tiny, [](auto v) { return cpu::sqrt(v); }, [](Real v) { return std::sqrt(v); });
    check(
        tiny, [](auto v) { return cpu::rsqrt(v); }, [](Real v) { return 1 / std::sqrt(v); });
    check(
        tiny, [](auto v) { return cpu::log(v); }, [](Real v) { return std::log(v); });
    check(
        tiny, [](auto v) { return cpu::exp(v); }, [](Real v) { return std::exp(v); });
    check(
        tiny, [](auto v) { return cpu::cos(v); }, [](Real v) { return std::cos(v); });
  };
  for (const double v : {1e-310, 5e-324, 2.2e-308, -1e-310, -5e-324}) check_all(v);
  for (const float v : {1e-40f, 1e-45f, 1.17e-38f, -1e-40f, -1e-45f}) check_all(v);
  // And in a map.
  const auto roots = map([](auto v) { return outputs(pow(v, 0.5), pow(v, -0.5)); },
                         Var<double>(Tensor<double>({2}, {1e-310, -1e-310})));
  CHECK(roots[0].value().data()[0] == doctest::Approx(1e-155));
  CHECK(roots[1].value().data()[0] == doctest::Approx(1e155));
  CHECK(std::isnan(roots[0].value().data()[1]));
  CHECK(
      std::isnan(map([](auto v) { return pow(v, 0.5); }, Var<float>(Tensor<float>(Shape{}, -1e-40f))).value().item()));
}

TEST_CASE("log_softmax keeps its digits however large the logits are") {
  for (const float large : {0.0f, 1e4f, -1e4f, 1e8f, -1e8f, 1e30f, 3e38f})
    for (const float y : log_softmax_of({large, large})) CHECK(y == doctest::Approx(-0.69314718f).epsilon(1e-6));
  for (const float y : log_softmax_of({1e6f, 1e6f, 1e6f})) CHECK(y == doctest::Approx(-1.0986123f).epsilon(1e-6));
  const auto apart = log_softmax_of({1e4f, 1e4f + 1});
  CHECK(apart[0] == doctest::Approx(-1.3132617f).epsilon(1e-6));
  CHECK(apart[1] == doctest::Approx(-0.3132617f).epsilon(1e-6));
  CHECK(log_softmax_of({-1e30f, 0})[0] == -1e30f);
  CHECK(log_softmax_of({-std::numeric_limits<float>::infinity(), 0})[1] == 0);
}

TEST_CASE("log_softmax's derivatives at large logits are those at small ones") {
  const auto jacobian = [](float base) {
    Tape<float> tape;
    const Var<float> x = tape.leaf(Tensor<float>({1, 3}, {base, base + 1, base + 3}));
    const Var<float> weight = Tensor<float>({1, 3}, {1, -2, 4});
    const Var<float> first = grad(sum(log_softmax(x, 1) * weight), {x}, {.create_graph = true}).front();
    const Var<float> second = grad(sum(first * weight), {x}).front();
    std::vector<float> out(first.value().values().begin(), first.value().values().end());
    out.insert(out.end(), second.value().values().begin(), second.value().values().end());
    return out;
  };
  const auto small = jacobian(0), large = jacobian(65536);
  for (std::size_t k = 0; k < small.size(); ++k) CHECK(large[k] == doctest::Approx(small[k]).epsilon(1e-5));
}

TEST_CASE("log_softmax and logsumexp of nothing") {
  const Var<double> x = Tensor<double>(Shape{2, 0});
  CHECK(log_softmax(x, 1).shape() == Shape{2, 0});
  CHECK(log_softmax(x, -1).shape() == Shape{2, 0});
  const Tensor<double> sums = logsumexp(x, {1}).value();
  for (const double v : sums.values()) CHECK(v == -infinity);
  CHECK(sum(x, {1}).value().data()[1] == 0);
  Tape<double> tape;
  const Var<double> leaf = tape.leaf(x.value());
  CHECK(grad(sum(logsumexp(leaf, {1})), {leaf}).front().shape() == Shape{2, 0});
  CHECK(grad(sum(log_softmax(leaf, 1)), {leaf}).front().shape() == Shape{2, 0});
}

TEST_CASE("Adam's first step is the rate, whatever its betas and the gradient's size") {
  for (const double beta2 : {0.9, 0.999, 0.99999, 0.999999, 0.9999999})
    for (const double beta1 : {0.0, 0.9, 0.999, 0.99999}) {
      CAPTURE(beta1);
      CAPTURE(beta2);
      CHECK(first_step<float>(1, {.beta1 = beta1, .beta2 = beta2}) == doctest::Approx(-1e-3).epsilon(1e-6));
      CHECK(first_step<double>(1, {.beta1 = beta1, .beta2 = beta2}) == doctest::Approx(-1e-3).epsilon(1e-6));
    }
  for (const double g : {1e4, 1e18, 1e20, 1e25, 3e38}) {
    CAPTURE(g);
    CHECK(first_step<float>(g) == doctest::Approx(-1e-3).epsilon(1e-6));
    CHECK(first_step<float>(-g) == doctest::Approx(1e-3).epsilon(1e-6));
    CHECK(first_step<float, AdamW<float>>(g) == doctest::Approx(-1e-3).epsilon(1e-6));
  }
  for (const double g : {1e100, 1e160, 1e300}) CHECK(first_step<double>(g) == doctest::Approx(-1e-3).epsilon(1e-6));
  CHECK(first_step<float>(0) == 0);
  CHECK(std::isnan(first_step<float>(infinity)));  // not hidden
  CHECK(std::isnan(first_step<float>(std::nan(""))));
}

TEST_CASE("batch norm of a channel that is constant, or all but, keeps its digits in float") {
  for (const float level : {0.0f, 1.0f, 1e4f, -1e4f, 12345.678f, 1e7f}) {
    CAPTURE(level);
    Tape<float> tape;
    const Index pixels = 3 * 7 * 5;
    std::vector<float> flat(static_cast<std::size_t>(pixels), level), weights;
    for (Index k = 0; k < pixels; ++k)
      weights.push_back(static_cast<float>(std::sin(1.0 + 3.0 * static_cast<double>(k))));
    const Var<float> x = tape.leaf(Tensor<float>({3, 1, 7, 5}, flat));
    const Var<float> g = Tensor<float>({3, 1, 7, 5}, weights);
    const auto norm = BatchNorm<float>::initial(1, 1, 0.25, 1e-5);
    const Var<float> y = norm(x);
    for (const float v : y.value().values()) CHECK(v == 0.25f);
    const Var<float> first = grad(sum(y * g), {x}, {.create_graph = true}).front();
    double mean = 0;
    for (const float w : weights) mean += static_cast<double>(w) / static_cast<double>(pixels);
    for (Index k = 0; k < pixels; ++k) {
      const double right = (static_cast<double>(weights[static_cast<std::size_t>(k)]) - mean) / std::sqrt(1e-5);
      CHECK(static_cast<double>(first.value().data()[k]) == doctest::Approx(right).epsilon(1e-4).scale(100));
    }
    const Var<float> second = grad(sum(first * g), {x}).front();
    for (const float v : second.value().values()) CHECK(v == 0);
  }
}

TEST_CASE("batch norm in float agrees with double where a channel's mean is far from 0") {
  const auto all = []<class T>(T) {
    Tape<T> tape;
    const Index pixels = 2 * 6 * 7;
    std::vector<T> values, weights;
    for (Index k = 0; k < pixels; ++k) {
      values.push_back(static_cast<T>(8192 + k * 37 % 64));  // whole numbers: the same in both
      weights.push_back(static_cast<T>(k * 11 % 16) / 8 - 1);
    }
    const Var<T> x = tape.leaf(Tensor<T>({2, 1, 6, 7}, values));
    const Var<T> g = Tensor<T>({2, 1, 6, 7}, weights);
    const Var<T> y = BatchNorm<T>::initial(1, 1, 0, 1e-5)(x);
    const Var<T> first = grad(sum(y * g), {x}, {.create_graph = true}).front();
    const Var<T> second = grad(sum(first * g * g), {x}).front();
    std::vector<std::vector<double>> out;
    for (const Var<T>& v : {y, first, second}) out.emplace_back(v.value().values().begin(), v.value().values().end());
    return out;
  };
  const auto single = all(0.0f), exact = all(0.0);
  for (std::size_t order = 0; order < 3; ++order) {
    double largest = 0;
    for (const double v : exact[order]) largest = std::max(largest, std::abs(v));
    for (std::size_t k = 0; k < exact[order].size(); ++k)
      CHECK(std::abs(single[order][k] - exact[order][k]) <= 2e-5 * largest);
  }
}

TEST_CASE("losses keep their digits at large logits of the right and the wrong class") {
  for (const float margin : {-80.0f, -20.0f, -1.0f, 0.0f, 1.0f, 20.0f, 80.0f}) {
    CAPTURE(margin);
    Tape<float> tape;
    const Var<float> logits = tape.leaf(Tensor<float>({1, 2, 1, 1}, {1000.0f - margin / 2, 1000.0f + margin / 2}));
    const Tensor<float> target({1, 1, 1}, 1.0f);
    const Var<float> loss = cross_entropy(logits, target);
    const double m = margin, right = m > 0 ? std::log1p(std::exp(-m)) : -m + std::log1p(std::exp(m));
    CHECK(static_cast<double>(loss.item()) == doctest::Approx(right).epsilon(1e-5));
    const double slope = static_cast<double>(grad(loss, {logits}).front().value().data()[1]);
    CHECK(slope == doctest::Approx(-1 / (1 + std::exp(m))).epsilon(1e-5));
  }
}

TEST_CASE("losses of any number of classes keep their digits where all logits are large") {
  for (const float size : {0.0f, 1e4f, -1e4f, 1e8f}) {
    CAPTURE(size);
    for (const Index classes : {2, 5}) {
      const Var<float> logits = Tensor<float>({1, classes, 1, 1}, size);
      const Tensor<float> target({1, 1, 1}, 1.0f);
      const auto right = doctest::Approx(std::log(static_cast<double>(classes))).epsilon(1e-7);
      CHECK(static_cast<double>(cross_entropy(logits, target, CrossEntropyOptions{}).item()) == right);
      CHECK(static_cast<double>(cross_entropy(logits, target, {.label_smoothing = 0.3}).item()) == right);
      CHECK(static_cast<double>(pixel_loss(logits, target, {}, 0).item()) == right);
    }
  }
  const Var<double> z = Tensor<double>({1}, 100.0);  // softplus(100) - 100 has no digits left
  CHECK(binary_cross_entropy_with_logits(z, Tensor<double>({1}, 1.0)).item() ==
        doctest::Approx(std::exp(-100.0)).epsilon(1e-12));
}
