#include "settle/optim/adam.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/optim/clip.hpp"
#include "settle/optim/schedule.hpp"
#include "settle/optim/sgd.hpp"

using namespace settle;

namespace {

/// Two parameters of different shapes.
struct Pair {
  Var<double> a, b;
  void parameters(auto&& visit) { visit("a", a), visit("b", b); }
};

struct Single {
  Var<double> a;
  void parameters(auto&& visit) { visit("a", a); }
};

Pair start() { return {Tensor<double>(Shape{3}, {1.0, -2.0, 0.5}), Tensor<double>(Shape{2, 1}, {0.25, 3.0})}; }

/// Gradients that change from step to step: those of sum(p^2 / 2 + cos(step) p) / (k + 1) for the k-th parameter.
std::vector<Var<double>> gradients_at(const Pair& p, int step) {
  const auto of = [&](const Var<double>& x, double divisor) {
    return map([](auto v, auto c, auto d) { return (v + cos(c)) / d; }, x, static_cast<double>(step), divisor);
  };
  return {of(p.a, 1), of(p.b, 2)};
}

std::vector<double> values(const Pair& p) {
  std::vector<double> out(p.a.value().values().begin(), p.a.value().values().end());
  out.insert(out.end(), p.b.value().values().begin(), p.b.value().values().end());
  return out;
}

void check_close(const std::vector<double>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t k = 0; k < got.size(); ++k) CHECK(got[k] == doctest::Approx(expected[k]).epsilon(1e-12));
}

template <class Optimiser>
std::vector<double> after_steps(Optimiser optimiser, int steps) {
  Pair p = start();
  for (int k = 0; k < steps; ++k) optimiser.step(p, gradients_at(p, k));
  return values(p);
}

}  // namespace

TEST_CASE("Adam takes PyTorch's steps") {
  // torch.optim.Adam 1.13 in double, on the same gradients.
  check_close(after_steps(Adam<double>(), 1),
              {0.999000000005, -1.9990000000099999, 0.49900000000666667, 0.249000000016, 2.999000000005});
  check_close(after_steps(Adam<double>(), 2),
              {0.9980150959596399, -1.9980073981252597, 0.49802537217752374, 0.24803607468462396, 2.9980050416021293});
  check_close(after_steps(Adam<double>(), 25),
              {0.9797609363416484, -1.9760943393728536, 0.48516960302561596, 0.2404659474914348, 2.975873811571277});
  const Adam<double> other({.rate = 0.05, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3, .weight_decay = 0.1});
  check_close(after_steps(other, 25),
              {0.22220788632158797, -0.8966498924519415, 0.05735487383883408, 0.02009551490420536, 1.8493923132197083});
}

TEST_CASE("gradient descent takes PyTorch's steps, with momentum and weight decay") {
  check_close(after_steps(Sgd<double>({.rate = 0.05}), 25),
              {0.3004404913024777, -0.5317282280630244, 0.16174570474156066, 0.14143519370087052, 1.6017553722758244});
  check_close(
      after_steps(Sgd<double>({.rate = 0.05, .momentum = 0.9, .weight_decay = 0.01}), 25),
      {0.25766808650278145, -0.32215315739090844, 0.16103121252049982, -0.01216978909548074, -0.6810139786583882});
}

TEST_CASE("an optimiser restored from its state goes on as if it had not stopped") {
  const auto check = [](auto whole) {
    auto first_half = whole;
    Pair p = start(), q = start();
    for (int k = 0; k < 10; ++k) whole.step(p, gradients_at(p, k));
    for (int k = 0; k < 5; ++k) first_half.step(q, gradients_at(q, k));
    decltype(whole) second_half(whole.options);
    second_half.restore(first_half.state(), q);
    for (int k = 5; k < 10; ++k) second_half.step(q, gradients_at(q, k));
    CHECK(values(p) == values(q));
  };
  check(Adam<double>());
  check(Sgd<double>({.momentum = 0.9}));
}

TEST_CASE("a state that does not fit the module is refused, and changes nothing") {
  Adam<double> adam;
  Pair p = start();
  for (int k = 0; k < 2; ++k) adam.step(p, gradients_at(p, k));
  const auto state = adam.state();
  const auto refusal = [&](std::size_t first, std::size_t end) {
    auto shortened = state;
    shortened.erase(shortened.begin() + static_cast<std::ptrdiff_t>(first),
                    shortened.begin() + static_cast<std::ptrdiff_t>(end));
    return error_of([&] { adam.restore(shortened, p); });
  };
  CHECK(refusal(0, 1) == "[adam] expected a tensor 'steps' in the saved state, found none");
  CHECK(refusal(1, 2) == "[adam] expected parameter b (2, 1) as before, got a (3)");
  CHECK(refusal(4, 5) == "[adam] expected 1 parameters as before, got b too");
  CHECK(refusal(3, 5) == "[adam] expected both moments in the saved state of 2 steps");
  CHECK(adam.steps() == 2);
  CHECK(adam.state().size() == state.size());
  Adam<double> fresh;
  fresh.restore(Adam<double>().state(), p);  // before any step there are no moments
  CHECK(fresh.steps() == 0);
  Adam<double> failed;
  CHECK_THROWS_AS(failed.step(p, {}), Error);
  fresh.restore(failed.state(), p);  // after a first step that failed they are zeros
  CHECK(fresh.steps() == 0);
}

TEST_CASE("the saved state names what belongs to which parameter") {
  Adam<double> adam;
  Pair p = start();
  adam.step(p, gradients_at(p, 0));
  std::vector<std::string> names;
  for (const auto& [name, tensor] : adam.state()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"steps", "first.a", "first.b", "second.a", "second.b"});
  CHECK(adam.steps() == 1);
}

TEST_CASE("a parameter with zero gradient stays as it is") {
  Adam<double> adam;
  Pair p = start();
  for (int k = 0; k < 3; ++k) adam.step(p, {Tensor<double>(Shape{3}, 0.0), Tensor<double>(Shape{2, 1}, 1.0)});
  CHECK(p.a.value().data()[1] == -2.0);
  CHECK(p.b.value().data()[0] < 0.25);
}

TEST_CASE("an update leaves earlier copies of the parameters alone") {
  Adam<double> adam;
  Pair p = start();
  const Pair before = p;
  adam.step(p, gradients_at(p, 0));
  CHECK(values(before) == values(start()));
}

TEST_CASE("updates allocate nothing after the first") {
  Adam<double> adam;
  Sgd<double> sgd({.momentum = 0.9});
  Pair p = start();
  const auto step = [&] {
    const auto gradients = gradients_at(p, 1);
    adam.step(p, gradients);
    sgd.step(p, gradients);
  };
  step(), step();
  const std::size_t before = Memory::instance().use().allocations;
  for (int k = 0; k < 10; ++k) step();
  CHECK(Memory::instance().use().allocations == before);
}

TEST_CASE("gradients and modules that do not fit are errors") {
  Adam<double> adam;
  Pair p = start();
  const auto g = gradients_at(p, 0);
  CHECK_THROWS_WITH(adam.step(p, {g[0]}), "[adam] expected a gradient for each parameter, got 1");
  CHECK_THROWS_WITH(adam.step(p, {g[0], g[1], g[1]}), "[adam] expected 2 gradients, got 3");
  CHECK_THROWS_WITH(adam.step(p, {g[0], g[0]}), "[adam] expected a gradient of shape (2, 1) for b, got (3)");
  Tape<double> tape;
  Pair taped = on_tape(p, tape);
  CHECK_THROWS_WITH(adam.step(taped, g), "[adam] expected a module of constants: parameter a is on a tape");
  Single single{p.a};
  CHECK_THROWS_WITH(adam.step(single, {g[0]}), "[adam] expected 2 parameters as before, got 1");
}

TEST_CASE("an optimiser's option out of its range is an error that names it, and changes nothing") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const auto refusal = [](auto optimiser) {
    Pair p = start();
    const std::string text = error_of([&] { optimiser.step(p, gradients_at(p, 0)); });
    CHECK(values(p) == values(start()));
    return text;
  };
  for (const double bad : {-1e-3, nan, infinity}) {
    CHECK(contains(refusal(Adam<double>({.rate = bad})), "[adam] expected rate >= 0 and finite, got "));
    CHECK(contains(refusal(AdamW<double>({.weight_decay = bad})), "[adamw] expected weight_decay >= 0 and finite"));
    CHECK(contains(refusal(Sgd<double>({.rate = bad})), "[sgd] expected rate >= 0 and finite, got "));
    CHECK(contains(refusal(Sgd<double>({.weight_decay = bad})), "[sgd] expected weight_decay >= 0"));
    CHECK(contains(refusal(Adam<double>({.groups = {{.pattern = "a", .rate_factor = bad}}})), "rate_factor"));
    CHECK(contains(refusal(Sgd<double>({.groups = {{.pattern = "a", .weight_decay = bad}}})), "weight_decay"));
  }
  for (const double bad : {-0.1, 1.0, nan, infinity}) {
    CHECK(contains(refusal(Adam<double>({.beta1 = bad})), "[adam] expected 0 <= beta1 < 1, got "));
    CHECK(contains(refusal(AdamW<double>({.beta2 = bad})), "[adamw] expected 0 <= beta2 < 1, got "));
    CHECK(contains(refusal(Sgd<double>({.momentum = bad})), "[sgd] expected 0 <= momentum < 1, got "));
  }
  for (const double bad : {0.0, -1e-8, nan, infinity})
    CHECK(contains(refusal(Adam<double>({.epsilon = bad})), "[adam] expected epsilon > 0 and finite, got "));
  CHECK(refusal(Adam<double>({.rate = 0, .beta1 = 0, .beta2 = 0})) == "no error");
  CHECK(refusal(Sgd<double>({.rate = 0})) == "no error");
}

TEST_CASE("clipping scales all gradients to the global norm") {
  std::vector<Var<double>> gradients{Tensor<double>(Shape{3}, {3.0, -4.0, 0.0}),
                                     Tensor<double>(Shape{2, 1}, {12.0, 84.0})};
  CHECK(global_norm(gradients) == doctest::Approx(85));
  CHECK(clip_global_norm(gradients, 5.0) == doctest::Approx(85));
  // torch.nn.utils.clip_grad_norm_
  CHECK(gradients[0].value().data()[0] == doctest::Approx(0.1764705861591696).epsilon(1e-12));
  CHECK(gradients[1].value().data()[1] == doctest::Approx(4.941176412456748).epsilon(1e-12));
  const auto small = gradients;
  clip_global_norm(gradients, 10.0);
  CHECK(gradients[1].value().data()[1] == small[1].value().data()[1]);
  std::vector<Var<float>> large{Tensor<float>(Shape{2}, {1e20f, 0.0f})};  // its square is no float
  CHECK(clip_global_norm(large, 1.0) == doctest::Approx(1e20));
  CHECK(large[0].value().data()[0] == doctest::Approx(1));
  for (const double bad : {-1.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK(
        contains(error_of([&] { clip_global_norm(gradients, bad); }), "[clip_global_norm] expected limit >= 0, got "));
  CHECK(gradients[1].value().data()[1] == small[1].value().data()[1]);
  CHECK(clip_global_norm(gradients, std::numeric_limits<double>::infinity()) == doctest::Approx(5));
  CHECK(gradients[1].value().data()[1] == small[1].value().data()[1]);
}

TEST_CASE("learning rates follow PyTorch's schedules") {
  const Schedule constant = ConstantRate{0.1}, steps = StepRate{0.1, 3, 0.7}, cosine = CosineRate{0.1, 10, 0, 0.01};
  CHECK(rate_at(constant, 12345) == 0.1);
  const double step_lr[] = {0.1, 0.1, 0.1, 0.07, 0.07, 0.07, 0.049, 0.049};
  for (int k = 0; k < 8; ++k) CHECK(rate_at(steps, k) == doctest::Approx(step_lr[k]).epsilon(1e-12));
  const double cosine_lr[] = {
      0.1,   0.09779754323328192, 0.09140576474687263,  0.08145033635316129, 0.06890576474687264,
      0.055, 0.04109423525312737, 0.028549663646838717, 0.01859423525312737, 0.012202456766718092,
      0.01};
  for (int k = 0; k < 11; ++k) CHECK(rate_at(cosine, k) == doctest::Approx(cosine_lr[k]).epsilon(1e-12));
  CHECK(rate_at(cosine, 1000) == doctest::Approx(0.01).epsilon(1e-12));
}

TEST_CASE("a warm-up rises to the full rate, then the cosine begins") {
  const CosineRate rate{1.0, 20, 4};
  CHECK(rate(0) == doctest::Approx(0.25));
  CHECK(rate(3) == doctest::Approx(1));
  CHECK(rate(4) == doctest::Approx(1));
  CHECK(rate(12) == doctest::Approx(0.5));
  CHECK(rate(20) == doctest::Approx(0).epsilon(1e-12));
}

TEST_CASE("schedules with an option out of its range are errors that name it") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const struct {
    Schedule schedule;
    Index step;
    const char* text;
  } cases[] = {
      {StepRate{.period = 0}, 0, "[schedule] expected period >= 1, got 0"},
      {StepRate{.period = 0}, 5, "[schedule] expected period >= 1, got 0"},
      {StepRate{.period = -1}, 5, "[schedule] expected period >= 1, got -1"},
      {StepRate{.period = std::numeric_limits<Index>::min()}, 5,
       "[schedule] expected period >= 1, got -9223372036854775808"},
      {StepRate{.factor = -0.1}, 5, "[schedule] expected factor >= 0 and finite, got -0.1"},
      {StepRate{.factor = nan}, 5, "[schedule] expected factor >= 0 and finite, got nan"},
      {StepRate{.factor = infinity}, 5, "[schedule] expected factor >= 0 and finite, got inf"},
      {StepRate{.rate = -1}, 5, "[schedule] expected rate >= 0 and finite, got -1"},
      {StepRate{.period = 1, .factor = 1e10}, 1000, "[schedule] expected rate >= 0 and finite, got inf"},
      {StepRate{}, -1, "[schedule] expected step >= 0, got -1"},
      {ConstantRate{-1}, 0, "[schedule] expected rate >= 0 and finite, got -1"},
      {ConstantRate{nan}, 0, "[schedule] expected rate >= 0 and finite, got nan"},
      {ConstantRate{}, -1, "[schedule] expected step >= 0, got -1"},
      {CosineRate{.rate = infinity}, 0, "[schedule] expected rate >= 0 and finite, got inf"},
      {CosineRate{.steps = -1}, 0, "[schedule] expected steps >= 0, got -1"},
      {CosineRate{.steps = std::numeric_limits<Index>::min()}, 0,
       "[schedule] expected steps >= 0, got -9223372036854775808"},
      {CosineRate{.warm_up = -1}, 0, "[schedule] expected warm_up >= 0, got -1"},
      {CosineRate{.last = -1}, 0, "[schedule] expected last >= 0 and finite, got -1"},
      {CosineRate{.last = nan}, 0, "[schedule] expected last >= 0 and finite, got nan"},
      {CosineRate{}, -1, "[schedule] expected step >= 0, got -1"},
  };
  for (const auto& c : cases) CHECK_THROWS_WITH_AS(rate_at(c.schedule, c.step), c.text, Error);

  const Index last = std::numeric_limits<Index>::max();
  CHECK(rate_at(ConstantRate{0}, last) == 0);
  CHECK(rate_at(StepRate{.rate = 0.5, .period = 1, .factor = 0}, 0) == 0.5);
  CHECK(rate_at(StepRate{.rate = 0.5, .period = 1, .factor = 0}, 1) == 0);
  CHECK(rate_at(StepRate{.rate = 0.5, .period = 2, .factor = 2}, 5) == 2);
  CHECK(rate_at(StepRate{}, last) == 0);
  CHECK(rate_at(CosineRate{.rate = 1, .steps = 0, .last = 0.25}, 1) == 0.25);
  CHECK(rate_at(CosineRate{.rate = 1, .steps = 3, .warm_up = 5, .last = 0.25}, 6) == 0.25);
  CHECK(rate_at(CosineRate{.rate = 1, .steps = last, .warm_up = last}, last - 1) == 1);
  CHECK(rate_at(CosineRate{.last = 0.25}, last) == 0.25);
  CHECK(half_cosine(1, 0, -1) == 1);
}
