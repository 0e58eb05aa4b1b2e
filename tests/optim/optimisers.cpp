// A hundred steps of each optimiser against PyTorch's, and parameters that are treated in groups.
#include <doctest/doctest.h>

#include <vector>

#include "errors.hpp"
#include "settle/optim/adam.hpp"
#include "settle/optim/adam.hpp"
#include "settle/optim/sgd.hpp"

using namespace settle;

namespace {

/// Two parameters of different shapes.
struct Pair {
  Var<double> a = Tensor<double>(Shape{3}, {1.0, -2.0, 0.5}), b = Tensor<double>(Shape{2, 1}, {0.25, 3.0});
  void parameters(auto&& visit) { visit("a", a), visit("layer.b", b); }
};

/// Takes 100 steps with gradients that change: (p + cos(step)) / (k + 1) for the k-th parameter.
template <class Optimiser>
std::vector<double> after_100_steps(Optimiser optimiser) {
  Pair p;
  for (int step = 0; step < 100; ++step) {
    const auto of = [&](const Var<double>& x, double divisor) {
      return map([](auto v, auto c, auto d) { return (v + cos(c)) / d; }, x, static_cast<double>(step), divisor);
    };
    optimiser.step(p, {of(p.a, 1), of(p.b, 2)});
  }
  std::vector<double> out(p.a.value().values().begin(), p.a.value().values().end());
  out.insert(out.end(), p.b.value().values().begin(), p.b.value().values().end());
  return out;
}

void check_close(const std::vector<double>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t k = 0; k < got.size(); ++k) CHECK(got[k] == doctest::Approx(expected[k]).epsilon(1e-12));
}

const std::vector<ParameterGroup> groups{{.pattern = "a", .rate_factor = 0.1, .weight_decay = 0.1},
                                         {.pattern = "layer.*", .weight_decay = 0},
                                         {.pattern = "*", .rate_factor = 100}};

}  // namespace

// Expected values: torch.optim 2.15 in double, on the same gradients.

TEST_CASE("Adam is PyTorch's after 100 steps") {
  check_close(after_100_steps(Adam<double>()),
              {0.9206195568522707, -1.9060191314700046, 0.44441109949894636, 0.21738123112774801, 2.903660033677354});
  check_close(
      after_100_steps(Adam<double>({.rate = 0.05, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3, .weight_decay = 0.1})),
      {0.015707548176786684, 0.015178902831516659, 0.015813098304060844, 0.015797970213097035, 0.05114297611577848});
}

TEST_CASE("AdamW is PyTorch's after 100 steps") {
  check_close(after_100_steps(AdamW<double>()),
              {0.9196806040528336, -1.9040855770597456, 0.4439585026046401, 0.21716077263318329, 2.9007273047422673});
  check_close(
      after_100_steps(AdamW<double>({.rate = 0.05, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3, .weight_decay = 0.1})),
      {0.015782597833954453, 0.015481706158993486, 0.015870979296623726, 0.01585860418970685, 0.028360612686316483});
}

TEST_CASE("gradient descent is PyTorch's after 100 steps, with momentum and Nesterov's") {
  check_close(
      after_100_steps(Sgd<double>({.rate = 0.05})),
      {0.050271122717652855, 0.032509535056650773, 0.04731085810748582, 0.04123784268293537, 0.2599103898029722});
  check_close(
      after_100_steps(Sgd<double>({.rate = 0.05, .momentum = 0.9, .weight_decay = 0.01})),
      {0.050721358480536584, 0.06504477034769424, 0.053108593791729636, 0.025511737911402127, 0.012133800380422381});
  check_close(
      after_100_steps(Sgd<double>({.rate = 0.05, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true})),
      {0.09786376716460003, 0.09902085482436354, 0.0980566151078939, 0.047083217132134106, 0.04414047774931444});
  Pair p;
  CHECK_THROWS_WITH(Sgd<double>({.nesterov = true}).step(p, {p.a, p.b}),
                    "[sgd] Nesterov's momentum needs a momentum above 0, got 0");
}

TEST_CASE("groups by name have PyTorch's rates and weight decays; the first that fits counts") {
  check_close(after_100_steps(AdamW<double>({.rate = 0.05, .groups = groups})),
              {0.6042230867273927, -1.4673931655678003, 0.2510338608022232, 0.007795269322442096, 0.11376413749499467});
  check_close(after_100_steps(Adam<double>({.rate = 0.05, .groups = groups})),
              {0.6277436644688099, -1.54444439740698, 0.25297604652350564, 0.007795269322442096, 0.11376413749499467});
  check_close(
      after_100_steps(Sgd<double>({.rate = 0.05, .momentum = 0.9, .nesterov = true, .groups = groups})),
      {0.00820871348709219, 0.01155702746357475, 0.008766765816505958, 0.04706860061029136, 0.04456346796477597});
}

TEST_CASE("AdamW goes on from its state as if it had not stopped") {
  AdamW<double> whole, half;
  Pair p, q;
  const auto step = [](auto& optimiser, Pair& pair, double factor) {
    optimiser.step(pair, {factor * pair.a, factor * pair.b});
  };
  for (int k = 1; k <= 10; ++k) step(whole, p, k);
  for (int k = 1; k <= 5; ++k) step(half, q, k);
  AdamW<double> rest;
  rest.restore(half.state(), q);
  for (int k = 6; k <= 10; ++k) step(rest, q, k);
  for (Index k = 0; k < 3; ++k) CHECK(p.a.value().data()[k] == q.a.value().data()[k]);
  CHECK(rest.steps() == 10);
}

TEST_CASE("a pattern's * stands for any characters and ? for one") {
  const auto check = [](const char* pattern, const char* name, bool fits) {
    CAPTURE(pattern);
    CAPTURE(name);
    CHECK(matches_pattern(pattern, name) == fits);
  };
  check("unit1.bn.0.weight", "unit1.bn.0.weight", true);
  check("*", "", true);
  check("", "", true);
  check("", "a", false);
  check("*.bias", "conv6.bias", true);
  check("*.bias", "conv6.bias.x", false);
  check("*bn*", "unit1.bn.0.weight", true);
  check("conv?.weight", "conv6.weight", true);
  check("conv?.weight", "conv16.weight", false);
  check("a*b*c", "aXbYbZc", true);
  check("a*b*c", "aXbYbZ", false);
  check("**a", "ba", true);
}

TEST_CASE("a pattern of no parameter is an error") {
  Pair p;
  AdamW<double> optimiser({.groups = {{.pattern = "layer.b"}, {.pattern = "layr.*"}}});
  CHECK_THROWS_WITH(optimiser.step(p, {p.a, p.b}),
                    "[adamw] no parameter's name is of the pattern 'layr.*'; there are a and 1 more");
  CHECK(p.a.value().data()[0] == 1);
}
