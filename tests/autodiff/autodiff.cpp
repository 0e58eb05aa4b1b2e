#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/checkpoint.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/ops/matmul.hpp"
#include "settle/ops/transpose.hpp"

using namespace settle;

namespace {

std::vector<double> values(const Var<double>& x) { return {x.value().values().begin(), x.value().values().end()}; }

/// x⁴ of one leaf, the gradients of which are 4x³, 12x², 24x, 24, 0.
Var<double> fourth_power(const Var<double>& x) { return x * x * x * x; }

/// A layer that records several intermediate values.
Var<double> layer(const Var<double>& x, const Var<double>& w) {
  const Var<double> h = map([](auto a) { return tanh(a); }, matmul(x, w));
  return map([](auto a, auto b) { return sigmoid(a) * b; }, matmul(h, w), h);
}

}  // namespace

TEST_CASE("a gradient can be differentiated again and again") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 1.5));
  Var<double> y = fourth_power(x);
  for (const double expected : {4 * 1.5 * 1.5 * 1.5, 12 * 1.5 * 1.5, 24 * 1.5, 24.0, 0.0}) {
    y = grad(y, {x}, {.create_graph = true}).front();
    CHECK(y.item() == doctest::Approx(expected).epsilon(1e-14));
  }
}

TEST_CASE("a variable used several times gets the sum of its gradients") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  const Var<double> y = sum(x * x + x + map([](auto a, auto b) { return a * b; }, x, x));
  CHECK(values(grad(y, {x}).front()) == std::vector<double>{9, 13});
  const Var<double> again = sum(x + x);
  const auto both = grad(again, {x, x});
  CHECK(values(both[0]) == std::vector<double>{2, 2});
  CHECK(values(both[1]) == std::vector<double>{2, 2});
}

TEST_CASE("gradients with respect to values computed on the way") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 3.0));
  const Var<double> h = x * x;
  const Var<double> y = h * h + x;
  const auto g = grad(y, {h, x, y}, {.keep_graph = true});
  CHECK(g[0].item() == 18);   // 2 h
  CHECK(g[1].item() == 109);  // 4 x³ + 1
  CHECK(g[2].item() == 1);    // of y itself
  CHECK(grad(y, {h}).front().item() == 18);
}

TEST_CASE("inputs that an output does not depend on get zeros") {
  Tape<double> tape;
  const Var<double> before = tape.leaf(Tensor<double>({2}, {1, 2}));
  const Var<double> x = tape.leaf(Tensor<double>({2}, {3, 4}));
  const Var<double> y = sum(x * x);
  const Var<double> after = tape.leaf(Tensor<double>(Shape{3}, 5.0));
  const auto g = grad(y, {before, x, after});
  CHECK(values(g[0]) == std::vector<double>{0, 0});
  CHECK(values(g[1]) == std::vector<double>{6, 8});
  CHECK(values(g[2]) == std::vector<double>{0, 0, 0});
  CHECK(values(grad(sum(before), {after}).front()) == std::vector<double>{0, 0, 0});
  const Var<double> constant(Tensor<double>(Shape{}, 7.0));
  CHECK(values(grad(constant, {x}).front()) == std::vector<double>{0, 0});
}

TEST_CASE("nothing flows through a stopped gradient") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 3.0));
  CHECK(grad(x * stop_gradient(x), {x}).front().item() == 3);
  CHECK(stop_gradient(x * x).tape() == nullptr);
}

TEST_CASE("a paused tape records nothing, and records again afterwards") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 3.0));
  const int before = tape.size();
  {
    NoGrad pause(tape);
    {
      NoGrad inner(tape);
      CHECK((x * x).tape() == nullptr);
    }
    CHECK((x * x).item() == 9);
    CHECK((x * x).tape() == nullptr);
    CHECK(error_of([&] { jvp(x, x, Var<double>(Tensor<double>(Shape{}, 1.0))); }) ==
          "[jvp] the tape is paused: the product is found by recording another");
  }
  CHECK(tape.size() == before);
  CHECK((x * x).tape() == &tape);
}

TEST_CASE("operations on constants record nothing") {
  const Var<double> x(Tensor<double>(Shape{}, 3.0));
  const Var<double> y = x * x;
  CHECK(y.item() == 9);
  CHECK(y.tape() == nullptr);
  CHECK(error_of([&] { grad(y, {x}); }) ==
        "[grad] an input is a constant: make it with tape.leaf(...) or by operations on leaves");
}

TEST_CASE("a graph is freed by the gradient through it unless it is kept") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{1000}, 3.0));
  const std::size_t leaf_only = Memory::instance().use().current;
  Var<double> y;
  {
    Var<double> h = x;
    for (int k = 0; k < 10; ++k) h = map([](auto a) { return sin(a); }, h);
    y = sum(h);
  }
  CHECK(Memory::instance().use().current >= leaf_only + 9 * 1000 * sizeof(double));
  const Var<double> kept = grad(y, {x}, {.keep_graph = true}).front();
  const Var<double> last = grad(y, {x}).front();
  CHECK(values(kept) == values(last));
  CHECK(Memory::instance().use().current <= leaf_only + 2 * 1000 * sizeof(double) + 64);
  CHECK(error_of([&] { grad(y, {x}); }) == "[grad] the graph through 'map' was already freed; keep it with keep_graph");
}

TEST_CASE("a vector-Jacobian product is prepared once, and applied for many cotangents") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3})), w = tape.leaf(Tensor<double>({2}, {5, 7}));
  const Var<double> y = x * x * w;
  Pullback<double> to_x({y}, {x});
  for (const double c : {1.0, -2.0})
    CHECK(values(to_x({Var<double>(Tensor<double>({2}, {c, 1}))}).front()) == std::vector<double>{20 * c, 42});
  CHECK(values(to_x({Var<double>()}).front()) == std::vector<double>{0, 0});
  CHECK(error_of([&] { to_x({Var<double>(Tensor<double>(Shape{3}, 1.0))}); }) ==
        "[grad] expected a cotangent of shape (2), got (3)");
  CHECK(error_of([&] { to_x({}); }) == "[grad] expected 1 cotangents, got 0");
  tape.clear();
  CHECK(error_of([&] { to_x({Var<double>(Tensor<double>(Shape{2}, 1.0))}); }) ==
        "[grad] a variable's tape was cleared since it was made");
}

TEST_CASE("Jacobian-vector products and their gradients") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  const Var<double> v(Tensor<double>({2}, {5, 7}));
  const Var<double> y = x * x * x;
  const int before = tape.size();
  const Var<double> product = jvp(y, x, v);
  CHECK(values(product) == std::vector<double>{60, 189});  // 3 x² v
  CHECK(tape.size() == before);
  CHECK(product.tape() == nullptr);
  const Var<double> taped = jvp(y, x, v, true);
  CHECK(values(grad(sum(taped), {x}).front()) == std::vector<double>{60, 126});  // 6 x v
  CHECK(values(jvp(Var<double>(Tensor<double>(Shape{}, 1.0)), x, v)) == std::vector<double>{0});
  CHECK(error_of([&] { jvp(y, x, Var<double>(Tensor<double>(Shape{3}, 1.0))); }) ==
        "[jvp] expected a tangent of shape (2), got (3)");
}

TEST_CASE("what a cleared or truncated tape held is refused, and what it keeps is not") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 3.0));
  const int mark = tape.size();
  const Var<double> old = x * x;
  tape.truncate(mark);
  const Var<double> fresh = x + x;  // takes the place of `old`
  const std::string message = "a variable's tape was cleared since it was made";
  CHECK(error_of([&] { old + old; }) == "[map] " + message);
  CHECK(error_of([&] { grad(old, {x}); }) == "[grad] " + message);
  CHECK(grad(fresh * x, {x}).front().item() == 12);
  tape.clear();
  const Var<double> next = tape.leaf(Tensor<double>(Shape{}, 1.0));
  CHECK(error_of([&] { x + x; }) == "[map] " + message);
  CHECK(error_of([&] { x + next; }) == "[map] " + message);
  CHECK(x.item() == 3);
  CHECK(grad(next * next, {next}).front().item() == 2);
}

TEST_CASE("variables of two tapes do not mix") {
  Tape<double> one, two;
  const Var<double> a = one.leaf(Tensor<double>(Shape{}, 3.0)), b = two.leaf(Tensor<double>(Shape{}, 3.0));
  CHECK(error_of([&] { a* b; }) == "[map] the inputs are on two different tapes");
  CHECK(error_of([&] { grad(a, {b}); }) == "[grad] an output is on another tape than the inputs");
  CHECK(error_of([&] { grad(a, {a, b}); }) == "[grad] the inputs are on two different tapes");
}

TEST_CASE("a cotangent on a tape of its own stays on it, whatever it is added to") {
  Tape<double> tape, other;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{2, 3}, 1.0));
  const Var<double> y = transpose(x, {1, 0}), z = transpose(x, {1, 0});
  const Var<double> taped = other.leaf(Tensor<double>(Shape{3, 2}, 1.0)), constant = Tensor<double>(Shape{3, 2}, 1.0);
  const Var<double> g = Pullback<double>({y, z}, {x})({taped, constant}).front();
  CHECK(values(g) == std::vector<double>(6, 2.0));
  CHECK(values(grad(sum(g), {taped}).front()) == std::vector<double>(6, 1.0));

  const Var<double> image = tape.leaf(Tensor<double>(Shape{1, 1, 2, 3}, 1.0));
  const Var<double> weight = Tensor<double>(Shape{1, 1, 1, 1}, 2.0);
  const Var<double> filtered = conv(image, weight), changed = image * image;
  const Var<double> taped_image = other.leaf(Tensor<double>(Shape{1, 1, 2, 3}, 1.0));
  const Var<double> both =
      Pullback<double>({filtered, changed}, {image})({taped_image, Tensor<double>(Shape{1, 1, 2, 3}, 1.0)}).front();
  CHECK(values(both) == std::vector<double>(6, 4.0));
  CHECK(values(grad(sum(both), {taped_image}).front()) == std::vector<double>(6, 2.0));
}

TEST_CASE("convolutions add their input gradients to what other operations gave") {
  Random random(3);
  const Var<double> w = uniform<double>(Shape{2, 2, 1, 1}, -1, 1, random),
                    v = uniform<double>(Shape{2, 2, 3, 3}, -1, 1, random);
  const auto checked = [](const auto& f, const Tensor<double>& x) {
    const auto result = gradcheck(f, {x}, {.tolerance = 1e-8});
    CHECK_MESSAGE(result.passed, result.message);
  };
  const auto x = uniform<double>(Shape{2, 2, 5, 7}, -1, 1, random);
  for (const ConvAlgorithm algorithm : {ConvAlgorithm::direct, ConvAlgorithm::gemm, ConvAlgorithm::fft}) {
    CAPTURE(static_cast<int>(algorithm));
    const PreferredConvAlgorithm prefer(algorithm);
    const auto f = [&](const std::vector<Var<double>>& in) {
      return conv_same(in[0], w) * conv_same(in[0], v) + in[0] * in[0] + in[0];
    };
    checked(f, x);
    Tape<double> tape;
    const Var<double> leaf = tape.leaf(x), y = f({leaf});
    Pullback<double> once({y}, {leaf}), many({y}, {leaf}, true);
    const Tensor<double> cotangent = uniform<double>(y.shape(), -1, 1, random);
    const auto before = values(Var<double>(cotangent)), first = values(once({cotangent}).front());
    for (int k = 0; k < 3; ++k) {
      const auto again = values(many({cotangent}).front());
      for (std::size_t i = 0; i < first.size(); ++i) CHECK(again[i] == doctest::Approx(first[i]).epsilon(1e-13));
    }
    CHECK(values(Var<double>(cotangent)) == before);
  }
  // The same variable as input and as weight; the cotangent is what the sum's slot holds.
  checked([](const std::vector<Var<double>>& in) { return conv(in[0], in[0]) + conv(in[0], in[0]) * 2.0; },
          uniform<double>(Shape{1, 1, 3, 3}, -1, 1, random));
  checked([&](const std::vector<Var<double>>& in) { return conv_same(in[0], w) + in[0]; }, x);
}

TEST_CASE("only a single number has a gradient") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{3}, 1.0));
  CHECK(error_of([&] { grad(x * x, {x}); }) == "[grad] expected a scalar to differentiate, got shape (3)");
  CHECK(error_of([&] { grad(sum(x), {}); }) == "[grad] expected at least one input");
}

TEST_CASE("empty tensors pass through gradients of any order") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{0, 3})), w = tape.leaf(Tensor<double>(Shape{3}, 2.0));
  const Var<double> y = sum(x * w * w);
  CHECK(y.item() == 0);
  const auto g = grad(y, {x, w}, {.create_graph = true});
  CHECK(g[0].shape() == Shape{0, 3});
  CHECK(values(g[1]) == std::vector<double>{0, 0, 0});
  CHECK(values(grad(sum(g[1]), {w}).front()) == std::vector<double>{0, 0, 0});
}

TEST_CASE("a long chain needs no recursion") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 1.0));
  Var<double> y = x;
  for (int k = 0; k < 100000; ++k) y = y + x;
  CHECK(grad(y, {x}).front().item() == 100001);
}

TEST_CASE("gradients do not touch the values that the user holds") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {2, 3}));
  const Var<double> cotangent(Tensor<double>({2}, {1, 1}));
  const Var<double> y = x + map([](auto a) { return a * a; }, x);
  Pullback<double> pullback({y}, {x});
  const auto first = pullback({cotangent}).front(), second = pullback({cotangent}).front();
  CHECK(values(first) == std::vector<double>{5, 7});
  CHECK(values(second) == std::vector<double>{5, 7});
  CHECK(values(cotangent) == std::vector<double>{1, 1});
}

TEST_CASE("the check of gradients finds a wrong one and names its place") {
  const auto wrong = [](const std::vector<Var<double>>& in) {
    Tensor<double> y(in[1].shape());
    for (Index i = 0; i < y.size(); ++i) y.mutable_data()[i] = 3 * in[1].value().data()[i];
    return record<double, Cpu>("triple", y, {in[1]}, [](const Var<double>& g, Cotangents<double, Cpu>& gradients) {
      Tensor<double> scaled = g.value().clone();
      for (Index i = 0; i < scaled.size(); ++i) scaled.mutable_data()[i] *= i == 4 ? 3.001 : 3.0;
      gradients.add(0, scaled);
    });
  };
  Random random(1);
  const std::vector<Tensor<double>> point{uniform<double>({2}, 0, 1, random), uniform<double>({2, 3}, 0, 1, random)};
  const auto result = gradcheck(wrong, point);
  CHECK_FALSE(result);
  CHECK(result.error > 1e-5);
  CHECK(result.message.substr(0, 32) == "input 1, element (1, 1): gradien");
  // Its rule is not made of operations: the second order is wrong in the cotangent.
  CHECK_FALSE(gradcheck_second_order(wrong, point).passed);
}

TEST_CASE("the check of gradients finds not-a-number and passes a constant") {
  const auto broken = [](const std::vector<Var<double>>& in) { return map([](auto x) { return sqrt(x); }, in[0]); };
  CHECK_FALSE(gradcheck(broken, {Tensor<double>({2}, {1, 0})}).passed);
  const auto constant = [](const std::vector<Var<double>>&) { return Var<double>(Tensor<double>(Shape{}, 2.0)); };
  CHECK(gradcheck(constant, {Tensor<double>(Shape{2}, 1.0)}).passed);
  CHECK(gradcheck(constant, {Tensor<double>(Shape{2}, 1.0)}).error == 0);
  const auto cube = [](const std::vector<Var<double>>& in) { return in[0] * in[0] * in[0]; };
  CHECK(gradcheck(cube, {Tensor<double>({2}, {1, -2})}).error < 1e-11);
  CHECK(gradcheck_second_order(cube, {Tensor<double>({2}, {1, -2})}).error < 1e-11);
  CHECK(jvp_check(cube, {Tensor<double>({2}, {1, -2})}).error < 1e-14);
}

TEST_CASE("a checkpoint has the gradients of the function, to the second order, alone and nested") {
  Random random(3);
  const std::vector<Tensor<double>> point{uniform<double>({2, 3}, -1, 1, random),
                                          uniform<double>({3, 3}, -1, 1, random)};
  const auto two = [](const Var<double>& x, const Var<double>& w) { return layer(layer(x, w), w); };
  const auto plain = [&](const std::vector<Var<double>>& in) { return two(in[0], in[1]); };
  const auto outer = [&](const std::vector<Var<double>>& in) { return checkpoint(two, in[0], in[1]); };
  const auto nested = [&](const std::vector<Var<double>>& in) {
    return checkpoint([](const auto& x, const auto& w) { return checkpoint(layer, checkpoint(layer, x, w), w); }, in[0],
                      in[1]);
  };
  const auto gradients = [&](const auto& f) {
    Tape<double> tape;
    const std::vector<Var<double>> in{tape.leaf(point[0]), tape.leaf(point[1])};
    return values(grad(sum(f(in)), in)[1]);
  };
  const auto expected = gradients(plain);
  CHECK(gradients(outer) == expected);
  const auto found = gradients(nested);  // adds the two layers' parts in another order
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-14));
  for (const auto& result : {gradcheck(outer, point), gradcheck(nested, point), gradcheck_second_order(outer, point),
                             gradcheck_second_order(nested, point), jvp_check(nested, point)})
    CHECK_MESSAGE(result.passed, result.message);
}

TEST_CASE("a checkpoint passes third derivatives, several results, and arguments that depend on one another") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 2.0)), h = x * x;
  const auto both = [](const Var<double>& a, const Var<double>& b) { return std::array{a * a * b, a + b}; };
  const auto [product, total] = checkpoint(both, h, x);  // x⁵, x² + x
  Var<double> y = product + total;
  for (const double expected : {5 * 16.0 + 4 + 1, 20 * 8.0 + 2, 60 * 4.0}) {
    y = grad(y, {x}, {.create_graph = true}).front();
    CHECK(y.item() == doctest::Approx(expected).epsilon(1e-14));
  }
  const auto unused = checkpoint(both, h, x);
  CHECK(grad(unused[1], {x}).front().item() == 5);
}

TEST_CASE("a checkpoint's gradient depends on every argument, also on those that it was not asked for") {
  const auto product = [](const Var<double>& w, const Var<double>& x) { return w * x * x; };
  const auto nested = [&](const Var<double>& w, const Var<double>& x) { return checkpoint(product, w, x); };
  const auto derivatives = [](const auto& f) {
    Tape<double> tape;
    const Var<double> w = tape.leaf(Tensor<double>(Shape{}, 2.0)), x = tape.leaf(Tensor<double>(Shape{}, 1.0));
    const Var<double> g = grad(checkpoint(f, w, x), {x}, {.create_graph = true}).front();  // 2 w x
    const Var<double> by_w = grad(g * g, {w}, {.create_graph = true}).front();             // 8 w x²
    const Var<double> by_x = grad(by_w, {x}, {.create_graph = true}).front();              // 16 w x
    return std::vector{by_w.item(), by_x.item(), grad(by_x, {w}).front().item()};
  };
  CHECK(derivatives(product) == std::vector<double>{16, 32, 16});
  CHECK(derivatives(nested) == std::vector<double>{16, 32, 16});
  // A constant beside it, and three arguments of which each gradient needs the others.
  const auto three = [](const std::vector<Var<double>>& in) {
    return checkpoint([](const auto& a, const auto& b, const auto& c) { return a * a * b * c + b * c * c; }, in[0],
                      in[1], in[2]);
  };
  Random random(8);
  std::vector<Tensor<double>> point;
  for (int k = 0; k < 3; ++k) point.push_back(uniform<double>({2}, 0.5, 1.5, random));
  const auto result = gradcheck_second_order(three, point);
  CHECK_MESSAGE(result.passed, result.message);
}

TEST_CASE("a result of a checkpoint without a cotangent takes no part in its gradient") {
  const auto both = [](const Var<double>& a, const Var<double>& b) {
    return std::array{a * b, map([](auto u) { return sqrt(u); }, b)};
  };
  Tape<double> tape;
  const Var<double> a = tape.leaf(Tensor<double>(Shape{}, 3.0)), b = tape.leaf(Tensor<double>(Shape{}, 0.0));
  const auto first = checkpoint(both, a, b)[0];
  const Var<double> g = grad(first, {b}, {.create_graph = true}).front();
  CHECK(g.item() == 3);
  CHECK(grad(g, {a}).front().item() == 1);
}

TEST_CASE("the check of gradients asks for each subset of inputs, with the others on the tape and constant") {
  // a b c, the gradient of which is right unless `wrong` says otherwise.
  const auto triple = [](const std::vector<Var<double>>& in, bool (*wrong)(const std::array<bool, 3>&), bool second) {
    Tensor<double> y = in[0].value().clone();
    for (Index i = 0; i < y.size(); ++i) y.mutable_data()[i] *= in[1].value().data()[i] * in[2].value().data()[i];
    return record<double, Cpu>(
        "triple", y, {in[0], in[1], in[2]},
        [in, wrong, second](const Var<double>& g, Cotangents<double, Cpu>& gradients) {
          const std::array<bool, 3> needs{gradients.needs(0), gradients.needs(1), gradients.needs(2)};
          for (std::size_t k = 0; k < 3; ++k) {
            if (!needs[k]) continue;
            Var<double> other = in[(k + 1) % 3];
            if (wrong(needs)) other = second ? stop_gradient(other) : 2.0 * other;
            gradients.add(k, g * other * in[(k + 2) % 3]);
          }
        });
  };
  Random random(1);
  std::vector<Tensor<double>> point;
  for (int k = 0; k < 3; ++k) point.push_back(uniform<double>({2}, 0.5, 1.5, random));
  using Needs = std::array<bool, 3>;
  const auto checked = [&](bool (*wrong)(const Needs&), bool second) {
    const auto f = [&](const std::vector<Var<double>>& in) { return triple(in, wrong, second); };
    return second ? gradcheck_second_order(f, point) : gradcheck(f, point);
  };
  for (const bool second : {false, true}) {
    CAPTURE(second);
    CHECK(checked([](const Needs&) { return false; }, second).passed);
    const auto alone = checked([](const Needs& needs) { return needs == Needs{false, true, false}; }, second);
    CHECK_FALSE(alone.passed);
    CHECK(alone.message.find("where gradients are asked for input 1 alone") != std::string::npos);
    const auto pair = checked([](const Needs& needs) { return needs == Needs{true, false, true}; }, second);
    CHECK_FALSE(pair.passed);
    CHECK(pair.message.find("where gradients are asked for inputs 0, 2 alone") != std::string::npos);
  }
}

TEST_CASE("a checkpointed chain takes less memory than a plain one, in the first order and the second") {
  Random random(5);
  const Tensor<double> start = uniform<double>({40, 30}, -1, 1, random),
                       weight = uniform<double>({30, 30}, -1, 1, random);
  const auto peak = [&](bool saving, bool second) {
    Memory::instance().reset_peak();
    const std::size_t before = Memory::instance().use().current;
    Tape<double> tape;
    const Var<double> w = tape.leaf(weight);
    Var<double> x = tape.leaf(start);
    const auto segment = [](const Var<double>& z, const Var<double>& v) {
      Var<double> h = z;
      for (int k = 0; k < 10; ++k) h = layer(h, v);
      return h;
    };
    for (int k = 0; k < 10; ++k) x = saving ? checkpoint(segment, x, w) : segment(x, w);
    Var<double> g = grad(sum(x), {w}, {.create_graph = second}).front();
    if (second) g = grad(sum(g * g), {w}).front();
    return std::pair(Memory::instance().use().peak - before, values(g));
  };
  for (const bool second : {false, true}) {
    CAPTURE(second);
    const auto [plain_bytes, plain] = peak(false, second);
    const auto [saved_bytes, saved] = peak(true, second);
    CHECK(saved_bytes * 2 < plain_bytes);
    REQUIRE(saved.size() == plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i) REQUIRE(saved[i] == doctest::Approx(plain[i]).epsilon(1e-11));
  }
}

TEST_CASE("a checkpoint refuses a variable that is not among its arguments, and records nothing of constants") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>(Shape{}, 2.0)), hidden = x * x;
  CHECK(error_of([&] { checkpoint([&](const Var<double>& a) { return a * hidden; }, x); }) ==
        "[checkpoint] the function uses a variable that is not among its arguments");
  const auto square = [](const Var<double>& a) { return a * a; };
  CHECK(checkpoint(square, stop_gradient(x)).tape() == nullptr);
  NoGrad pause(tape);
  CHECK(checkpoint(square, x).tape() == nullptr);
}

TEST_CASE("results of a map without a cotangent take no part in its gradient, whatever they hold") {
  const double infinite = std::numeric_limits<double>::infinity();
  Tape<double> tape;
  const Var<double> w = tape.leaf(Tensor<double>(Shape{}, 2.0));
  const Var<double> y = tape.leaf(Tensor<double>(Shape{3}, {1.0, 2.0, 3.0}));
  const Var<double> z = tape.leaf(Tensor<double>(Shape{3}, {1.0, infinite, 3.0}));
  const auto [a, b] = map([](auto u, auto v, auto x) { return outputs(u * v, u * x); }, w, y, z);
  Pullback<double> pullback({a, b}, {w, y, z});
  const Var<double> ones(Tensor<double>(Shape{3}, 1.0));
  for (int product = 0; product < 2; ++product) {  // what is kept for one choice of results is not taken for another
    const auto of_a = pullback({ones, {}});
    CHECK(of_a[0].item() == 6);
    CHECK(values(of_a[1]) == std::vector<double>{2, 2, 2});
    CHECK(values(of_a[2]) == std::vector<double>{0, 0, 0});
    const auto of_b = pullback({{}, ones});
    CHECK(of_b[0].item() == infinite);
    CHECK(values(of_b[1]) == std::vector<double>{0, 0, 0});
    CHECK(values(of_b[2]) == std::vector<double>{2, 2, 2});
    const auto of_both = pullback({ones, ones});
    CHECK(of_both[0].item() == infinite);
    CHECK(values(of_both[1]) == std::vector<double>{2, 2, 2});
  }

  // The gradient of a mean does not depend on the values, nor does that of this gradient.
  const Var<double> x = tape.leaf(Tensor<double>(Shape{3}, {1.0, infinite, 3.0}));
  const Var<double> s = tape.leaf(Tensor<double>(Shape{}, 5.0));
  const Var<double> gradient = grad(mean(x) * s, {x}, {.create_graph = true}).front();
  CHECK(grad(sum(gradient), {s}).front().item() == doctest::Approx(1));
}
