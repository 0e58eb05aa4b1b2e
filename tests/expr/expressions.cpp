#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "run_program.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/core/scoped_value.hpp"
#include "settle/cpu/caches.hpp"
#include "settle/expr/program.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/reduce.hpp"

using namespace settle;
using expr::Instruction;
using expr::Operation;
using expr::Program;

namespace {

/// One operation of three inputs, as far as it takes them.
Program program_of(Operation operation, double literal) {
  const bool two = (operation >= Operation::add && operation <= Operation::divide) ||
                   (operation >= Operation::minimum && operation <= Operation::equal) ||
                   operation == Operation::power_of;
  Program p;
  p.inputs = 3;
  if (operation == Operation::select)
    p.results = {p.emit({operation, p.input(0), p.input(1), p.input(2)})};
  else if (operation == Operation::input || operation == Operation::constant)
    p.results = {p.emit({operation, -1, -1, -1, literal})};
  else
    p.results = {p.emit({operation, p.input(0), two ? p.input(1) : -1, -1, literal})};
  return p;
}

/// A traced lambda's number of instructions, inputs among them.
template <int N, class F>
constexpr std::size_t length(F) {
  return expr::trace<F, N>().code.size();
}

template <class T>
std::vector<double> values(const Var<T>& x) {
  return {x.value().values().begin(), x.value().values().end()};
}

void check_relative(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t k = 0; k < got.size(); ++k) {
    CAPTURE(k);
    CHECK(std::abs(got[k] - expected[k]) <= tolerance * std::abs(expected[k]));
  }
}

}  // namespace

TEST_CASE("programs are simplified while they are built") {
  CHECK(length<1>([](auto x) { return x * 1. + 0. - 0.; }) == 1);
  CHECK(length<1>([](auto x) { return 1. * x / 1.; }) == 1);
  CHECK(length<1>([](auto x) { return -(-x); }) == 1);
  CHECK(length<1>([](auto x) { return x * 0.; }) == 1);  // the constant 0
  CHECK(length<1>([](auto x) { return 0. / x; }) == 1);
  CHECK(length<1>([](auto x) { return pow(x, 0); }) == 1);
  CHECK(length<1>([](auto x) { return pow(x, 1); }) == 1);
  CHECK(length<1>([](auto x) { return 0. - x; }) == 2);
  CHECK(length<1>([](auto x) { return x * -1.; }) == 2);
  CHECK(length<1>([](auto x) { return abs(-abs(x)); }) == 2);
  CHECK(length<1>([](auto x) { return x / -8. + x * -0.125; }) == 4);  // one product, used twice
  CHECK(length<1>([](auto x) { return x / 3. + x * (1. / 3.); }) == 6);
  CHECK(length<1>([](auto x) { return select(x < 0., x, x); }) == 1);
  CHECK(length<1>([](auto x) { return x + (Expression(2.) * 3. - 1.) / 5.; }) == 3);
  CHECK(length<2>([](auto x, auto y) { return (x + y) * (y + x); }) == 4);  // one sum, used twice
  CHECK(length<2>([](auto x, auto y) { return exp(x * y) + exp(y * x); }) == 5);
  CHECK(length<2>([](auto x, auto) { return x; }) == 1);
}

TEST_CASE("what no result needs is left out of a gradient") {
  constexpr auto f = [](auto x, auto y) { return x * 3. + y; };
  const Program g = expr::gradient(expr::trace<decltype(f), 2>());
  CHECK(g.inputs == 3);
  CHECK(g.code.size() == 3);  // the cotangent, 3, their product
  CHECK(run(g, {5, 7, 11}) == std::vector<double>{15, 5});
  constexpr auto unused = [](auto x, auto) { return x; };
  CHECK(run(expr::gradient(expr::trace<decltype(unused), 2>()), {5, 7, 11}) == std::vector<double>{5, 0});
}

TEST_CASE("the derivative of every operation agrees with finite differences, and lowering keeps every value") {
  for (int k = 0; k < expr::operation_count; ++k) {
    CAPTURE(k);
    for (const std::vector<double>& at :
         {std::vector{0.7, 0.4, 0.9}, std::vector{0.3, 0.8, 0.2}, std::vector{2.6, 1.5, 3.0}}) {
      const Program p = program_of(static_cast<Operation>(k), k == 0 ? 1 : 2.5);
      std::vector<double> arguments{1.5};
      arguments.insert(arguments.end(), at.begin(), at.end());
      const auto gradient = run(expr::gradient(p), arguments);
      for (std::size_t i = 0; i < 3; ++i) {
        auto above = at, below = at;
        above[i] += 1e-5, below[i] -= 1e-5;
        const double difference = 1.5 * (run(p, above)[0] - run(p, below)[0]) / 2e-5;
        CHECK(gradient[i] == doctest::Approx(difference).epsilon(1e-8).scale(1));
      }
      for (const double x : {at[0], -at[0]}) {
        auto shifted = at;
        shifted[0] = x;
        const double plain = run(p, shifted)[0], lowered = run(expr::lower(p), shifted)[0];
        CHECK((lowered == doctest::Approx(plain).epsilon(1e-14) || (std::isnan(plain) && std::isnan(lowered))));
      }
    }
  }
}

TEST_CASE("lowering shares one exponential between softplus, sigmoid and their derivatives") {
  constexpr auto f = [](auto x) { return outputs(softplus(x), sigmoid(x)); };
  const auto exponentials = [](const Program& p) {
    return std::count_if(p.code.begin(), p.code.end(),
                         [](const Instruction& i) { return i.operation == Operation::exp_minus_abs; });
  };
  CHECK(exponentials(expr::lower(expr::trace<decltype(f), 1>())) == 1);
  CHECK(exponentials(expr::lower(expr::gradient(expr::trace<decltype(f), 1>()))) == 1);
}

TEST_CASE("what keeps a cotangent of 0 at 0 costs one choice for each result") {
  const auto choices = [](const Program& p) {
    return std::count_if(p.code.begin(), p.code.end(),
                         [](const Instruction& i) { return i.operation == Operation::select; });
  };
  constexpr auto product = [](auto x, auto y, auto z) { return 2. * x * y * z; };
  CHECK(choices(expr::lower(expr::gradient(expr::trace<decltype(product), 3>()))) == 3);
  constexpr auto cut = [](auto x) { return softplus_cut(x); };  // the one between its branches is chosen in sigmoid
  CHECK(choices(expr::lower(expr::gradient(expr::trace<decltype(cut), 1>()))) == 3);
  constexpr auto sum = [](auto x, auto y) { return x - 3. * y; };
  CHECK(choices(expr::lower(expr::gradient(expr::trace<decltype(sum), 2>()))) == 0);
  constexpr auto gate = [](auto state, auto u, auto b) { return state * sigmoid(u + b); };
  CHECK(expr::lower(expr::gradient(expr::trace<decltype(gate), 3>())).code.size() <= 20);
}

TEST_CASE("derivatives at kinks are PyTorch's, and not-a-number passes through") {
  Tape<double> tape;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Var<double> x = tape.leaf(Tensor<double>({4}, {-1, 0, 1, 2}));
  const auto f = map([](auto v) { return outputs(relu(v), abs(v), clamp(v, 0., 1.)); }, x);
  CHECK(values(grad(sum(f[0]), {x}, {.keep_graph = true}).front()) == std::vector<double>{0, 0, 1, 1});
  CHECK(values(grad(sum(f[1]), {x}, {.keep_graph = true}).front()) == std::vector<double>{-1, 0, 1, 1});
  CHECK(values(grad(sum(f[2]), {x}).front()) == std::vector<double>{0, 1, 1, 0});
  const Var<double> y = tape.leaf(Tensor<double>({4}, {-1, 3, 0, 2}));
  const auto g = grad(sum(map([](auto a, auto b) { return max(a, b) + 2. * min(a, b); }, x, y)), {x, y});
  CHECK(values(g[0]) == std::vector<double>{1.5, 2, 1, 1.5});
  CHECK(values(g[1]) == std::vector<double>{1.5, 1, 2, 1.5});
  const Var<double> none = Tensor<double>(Shape{1}, nan);
  const auto all = map(
      [](auto v) {
        return outputs(relu(v), abs(v), clamp(v, 0., 1.), softplus(v), softplus_cut(v), sigmoid(v), gelu(v), max(v, 0.),
                       min(0., v), pow(v, 2.5));
      },
      none);
  for (const auto& v : all) CHECK(std::isnan(v.item()));
}

TEST_CASE("the cut softplus is the identity above 20, and only there") {
  Tape<double> tape;
  const double above = std::nextafter(20.0, 21.0);
  const Var<double> x = tape.leaf(Tensor<double>({4}, {19.5, 20, above, 800}));
  const Var<double> y = map([](auto v) { return softplus_cut(v); }, x);
  CHECK(values(y) == std::vector<double>{std::log1p(std::exp(19.5)), std::log1p(std::exp(20.0)), above, 800});
  const auto g = grad(sum(y), {x}, {.create_graph = true}).front();
  CHECK(g.value().data()[1] == doctest::Approx(0.9999999979388464).epsilon(1e-15));
  CHECK(g.value().data()[1] < 1);
  CHECK(g.value().data()[2] == 1);
  CHECK(g.value().data()[3] == 1);
  const auto second = values(grad(sum(g), {x}).front());
  CHECK(second[1] > 0);
  CHECK(second[2] == 0);
  CHECK(second[3] == 0);
}

TEST_CASE("stable forms give PyTorch's values and derivatives at moderate and extreme arguments") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({9}, {-1000, -100, -20, -1, 0, 0.5, 20, 100, 1000}));
  const auto f = map([](auto v) { return outputs(softplus(v), log_sigmoid(v), sigmoid(v), gelu(v)); }, x);
  const auto gradient = [&](std::size_t k) { return values(grad(sum(f[k]), {x}, {.keep_graph = true}).front()); };
  const double tolerance = 2e-15;
  check_relative(values(f[0]),
                 {0, 3.720075976020836e-44, 2.061153620314381e-09, 0.31326168751822286, 0.6931471805599453,
                  0.9740769841801067, 20.000000002061153, 100, 1000},
                 tolerance);
  check_relative(values(f[1]),
                 {-1000, -100, -20.000000002061153, -1.3132616875182228, -0.6931471805599453, -0.4740769841801067,
                  -2.061153620314381e-09, -3.720075976020836e-44, 0},
                 tolerance);
  check_relative(gradient(0),
                 {0, 3.720075976020836e-44, 2.0611536181902033e-09, 0.2689414213699951, 0.5, 0.6224593312018546,
                  0.9999999979388464, 1, 1},
                 tolerance);
  check_relative(gradient(1),
                 {1, 1, 0.9999999979388464, 0.7310585786300049, 0.5, 0.37754066879814546, 2.0611536181902033e-09,
                  3.720075976020836e-44, 0},
                 tolerance);
  // sigmoid' (x) = sigmoid(x) sigmoid(-x): PyTorch's y (1 - y) has lost these digits at 20 and all of them at 100.
  check_relative(gradient(2),
                 {0, 3.720075976020836e-44, 2.0611536139418496e-09, 0.19661193324148185, 0.25, 0.2350037122015945,
                  2.0611536139418496e-09, 3.720075976020836e-44, 0},
                 tolerance);
  const std::vector<double> gelus{0, 0, 0, -0.15865525393145702, 0, 0.34573123063700656, 20, 100, 1000},
      slopes{0, 0, 0, -0.08331547058768635, 0.5, 0.8674951246561629, 1, 1, 1}, found = gradient(3);
  for (std::size_t k = 0; k < gelus.size(); ++k) {
    CHECK(f[3].value().data()[k] == doctest::Approx(gelus[k]).epsilon(1e-15).scale(0.1));
    CHECK(found[k] == doctest::Approx(slopes[k]).epsilon(1e-15).scale(0.1));
  }
}

TEST_CASE("a broadcast input's gradient is summed over the axes it was repeated along") {
  Tape<double> tape;
  Random random(2);
  const Shape shape{2, 3, 5, 7};
  const Var<double> x = tape.leaf(uniform<double>(shape, -1, 1, random));
  const Var<double> channel = tape.leaf(uniform<double>({3, 1, 1}, -1, 1, random));
  const Var<double> column = tape.leaf(uniform<double>({7}, -1, 1, random));
  const Var<double> scalar = tape.leaf(Tensor<double>(Shape{}, 0.5));
  const Var<double> cotangent = uniform<double>(shape, -1, 1, random);
  const Var<double> y =
      map([](auto a, auto b, auto c, auto d) { return a * b + sin(c) * d; }, x, channel, column, scalar);
  CHECK(y.shape() == shape);
  const auto g = vjp(y, {x, channel, column, scalar}, cotangent);
  std::vector<double> gx, gc(3), gw(7), gs(1);
  for (Index k = 0; k < x.size(); ++k) {
    const auto c = static_cast<std::size_t>(k / 35 % 3), w = static_cast<std::size_t>(k % 7);
    const double u = cotangent.value().data()[k], wide = column.value().data()[k % 7];
    gx.push_back(u * channel.value().data()[c]);
    gc[c] += u * x.value().data()[k];
    gw[w] += u * 0.5 * std::cos(wide);
    gs[0] += u * std::sin(wide);
  }
  check_relative(values(g[0]), gx, 1e-13);
  check_relative(values(g[1]), gc, 1e-13);
  check_relative(values(g[2]), gw, 1e-13);
  check_relative(values(g[3]), gs, 1e-13);
  CHECK(g[1].shape() == Shape{3, 1, 1});
  CHECK(g[3].shape() == Shape{});
}

TEST_CASE("all gradients of a map come from one further operation") {
  Tape<double> tape;
  const Var<double> a = tape.leaf(Tensor<double>(Shape{4}, 1.0)), b = tape.leaf(Tensor<double>(Shape{4}, 2.0)),
                    c = tape.leaf(Tensor<double>(Shape{}, 3.0));
  const auto y = map([](auto x, auto z, auto w) { return outputs(x * z * w, x + sin(z * w)); }, a, b, c);
  const int before = tape.size();
  Pullback<double> pullback({y[0], y[1]}, {a, b, c});
  const Var<double> u(Tensor<double>(Shape{4}, 1.0));
  const auto g = pullback({u, u}, true);
  CHECK(tape.size() == before + 1);
  CHECK(values(g[0])[0] == 7);
  CHECK(values(g[1])[0] == doctest::Approx(3 + 3 * std::cos(6.0)));
  CHECK(values(g[2])[0] == doctest::Approx(4 * (2 + 2 * std::cos(6.0))));
  CHECK(values(pullback({u, {}})[1])[0] == 3);
}

TEST_CASE("numbers given to a map may change from call to call and get no gradient") {
  Tape<double> tape;
  const Var<double> x = tape.leaf(Tensor<double>({2}, {1, 2}));
  for (const double rate : {0.5, 3.0}) {
    const Var<double> y = map([](auto v, auto r) { return v * v * r; }, x, rate);
    CHECK(values(y) == std::vector<double>{rate, 4 * rate});
    CHECK(values(grad(sum(y), {x}).front()) == std::vector<double>{2 * rate, 4 * rate});
  }
}

TEST_CASE("sums of many float32 numbers stay accurate") {
  const Index count = 3000000;
  Tape<float> tape;
  const Var<float> x = tape.leaf(Tensor<float>(Shape{count}, 0.1f)), w = tape.leaf(Tensor<float>(Shape{}, 1.0f));
  const double expected = static_cast<double>(0.1f) * static_cast<double>(count);
  CHECK(static_cast<double>(sum(x).item()) == doctest::Approx(expected).epsilon(1e-6));
  CHECK(static_cast<double>(mean(x).item()) == doctest::Approx(static_cast<double>(0.1f)).epsilon(1e-6).scale(0));
  CHECK(static_cast<double>(grad(sum(x * w), {w}).front().item()) == doctest::Approx(expected).epsilon(1e-6));
}

TEST_CASE("float32 maps of every length agree with double ones, in the same bits for any number of threads") {
  constexpr auto gate = [](auto h, auto g, auto n) { return softplus((1. - sigmoid(g)) * h + sigmoid(g) * tanh(n)); };
  Random random(6);
  const int before = ThreadPool::instance().size();
  for (const Index count : {1, 3, 8, 31, 4099, 100003}) {
    CAPTURE(count);
    const auto h = uniform<double>({count}, -8, 8, random), g = uniform<double>({count}, -8, 8, random),
               n = uniform<double>({count}, -8, 8, random);
    const auto in_double = values(map(gate, Var<double>(h), Var<double>(g), Var<double>(n)));
    std::vector<double> first;
    for (const int threads : {1, 2, 3}) {
      ThreadPool::instance().resize(threads);
      const auto in_float =
          values(map(gate, Var<float>(cast<float>(h)), Var<float>(cast<float>(g)), Var<float>(cast<float>(n))));
      if (first.empty()) first = in_float;
      CHECK(first == in_float);
      double worst = 0;
      for (std::size_t k = 0; k < in_float.size(); ++k)
        worst = std::max(worst, std::abs(in_float[k] - in_double[k]) / std::max(1.0, std::abs(in_double[k])));
      CHECK(worst <= 1e-6);
    }
  }
  ThreadPool::instance().resize(before);
}

TEST_CASE("a gradient that cancels is zero, by kept derivatives too") {
  constexpr auto f = [](auto a, auto b, auto c) { return a + (c + (exp(b) - a) - c); };
  constexpr auto twice = [](auto a) { return 2. * a; };
  for (const Index count : {5, 63, 200})
    for (const bool many : {false, true}) {
      CAPTURE(count);
      CAPTURE(many);
      Tape<double> tape;
      const Var<double> a = tape.leaf(Tensor<double>({count}, 3)), b = tape.leaf(Tensor<double>({count}, 0)),
                        c = tape.leaf(Tensor<double>(Shape{}, 5));
      const Var<double> y = map(f, a, b, c), more = map(twice, a), ones = Tensor<double>({count}, 1);
      const auto size = static_cast<std::size_t>(count);
      {  // what is not written shows
        std::vector<Tensor<double>> used;
        for (int k = 0; k < 16; ++k) used.emplace_back(Shape{count}, 777.0);
      }
      const auto alone = Pullback<double>({y}, {a, b, c}, many)({ones});
      CHECK(values(alone[0]) == std::vector<double>(size, 0));
      CHECK(values(alone[1]) == std::vector<double>(size, 1));
      CHECK(values(alone[2]) == std::vector<double>{0});
      CHECK(values(Pullback<double>({y, more}, {a, b}, many)({ones, ones})[0]) == std::vector<double>(size, 2));
    }
}

TEST_CASE("planes in results that exceed the caches are the same bits as alone") {
  constexpr auto f = [](auto x, auto z, auto b) { return outputs(tanh(x) * b + z, x * z); };
  constexpr Index planes = 3, side = 211, pixels = side * side;  // odd: the planes' packets lie differently
  Random random(9);
  const auto whole = [&] { return uniform<float>({planes, side, side}, -1, 1, random); };
  const Tensor<float> x = whole(), z = whole(), first = whole(), second = whole();
  const Tensor<float> b = uniform<float>({planes, 1, 1}, -1, 1, random);
  const auto part = [](const Tensor<float>& t, Index plane) {
    const Index size = t.size() / planes;
    return Tensor<float>({1, t.shape(1), t.shape(2)}, {t.data() + plane * size, t.data() + (plane + 1) * size});
  };
  // The values; then the gradients, computed anew and by kept derivatives.
  const auto results = [&](const std::vector<Tensor<float>>& t) {
    Tape<float> tape;
    const Var<float> in = tape.leaf(t[0]), other = tape.leaf(t[1]);
    const auto y = map(f, in, other, Var<float>(t[2]));
    std::vector<Var<float>> all{y[0], y[1]};
    for (const bool many : {false, true})
      for (const auto& g : Pullback<float>({y[0], y[1]}, {in, other}, many)({t[3], t[4]})) all.push_back(g);
    return all;
  };
  const auto together = [&] {
    const ScopedValue<Index> streamed(cpu::streamed_bytes(), x.size() * static_cast<Index>(sizeof(float)));
    return results({x, z, b, first, second});
  }();
  for (Index plane = 0; plane < planes; ++plane) {
    const auto alone =
        results({part(x, plane), part(z, plane), part(b, plane), part(first, plane), part(second, plane)});
    for (std::size_t k = 0; k < alone.size(); ++k) {
      CAPTURE(k);
      const float* const of_all = together[k].value().data() + plane * pixels;
      CHECK(std::equal(of_all, of_all + pixels, alone[k].value().data()));
    }
  }
}

TEST_CASE("an interpreted program does with its results what the compiled one does") {
  using cpu::Put;
  constexpr auto f = [](auto x, auto y, auto u, auto v) {
    auto long_sum = x;  // more steps than follow each other without a rest
    for (int k = 0; k < 40; ++k) long_sum = x * y + u * long_sum;
    const auto shared = x * u - y;
    return outputs(long_sum, shared + tanh(shared) * v, select(x < y, shared * shared, u - v * y), x, u * v + u,
                   u * v + u, expr::Expression(0.5), long_sum);
  };
  using Source = cpu::Lowered<std::remove_const_t<decltype(f)>, 4>;
  constexpr std::size_t results = 8;
  const cpu::Interpreter<float> interpreter(Source::make());
  Random random(8);
  for (const Index count : {1, 7, 16, 129, 300, 4096})
    for (std::size_t variant = 0; variant < 10; ++variant) {
      CAPTURE(count);
      CAPTURE(variant);
      const auto x = uniform<float>({4, count}, -1, 1, random),
                 before = uniform<float>({results, count}, -1, 1, random);
      const auto run = [&](void (*evaluate)(const void*, const cpu::Chunk<float>&)) {
        std::vector<float> output(before.values().begin(), before.values().end());
        std::vector<double> total(output.begin(), output.end());
        cpu::Chunk<float> chunk;
        chunk.count = count;
        chunk.inputs = 4, chunk.results = results;
        for (std::size_t k = 0; k < 4; ++k) {
          chunk.input[k] = x.data() + static_cast<Index>(k) * count;
          chunk.dense[k] = variant < 5 ? k < 2 : k != variant % 4;
        }
        for (std::size_t r = 0; r < results; ++r) {
          chunk.put[r] = static_cast<Put>((r + variant) % 5);
          chunk.output[r] = output.data() + r * static_cast<std::size_t>(count);
          chunk.total[r] = total.data() + r * static_cast<std::size_t>(count);
        }
        evaluate(&interpreter, chunk);
        total.insert(total.end(), output.begin(), output.end());
        return total;
      };
      const auto got = run(&cpu::Interpreter<float>::run), expected = run(&cpu::Compiled<float, Source>::run);
      double worst = 0;
      for (std::size_t k = 0; k < got.size(); ++k)
        worst = std::max(worst, std::abs(got[k] - expected[k]) / std::max(1.0, std::abs(expected[k])));
      CHECK(worst <= 1e-5);
    }
}
