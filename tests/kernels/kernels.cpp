#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "cases.hpp"
#include "expr/run_program.hpp"
#include "launch.hpp"
#include "plain_loops.hpp"
#include "settle/core/random.hpp"
#include "settle/distributed/sums.hpp"

using namespace settle;
using kernel_cases::MapCase;
using kernels::Kernel;
using kernels::Put;

namespace {

template <class... A>
void launch_grid(const Kernel& kernel, const kernels::Grid& grid, A... arguments) {
  void* addresses[] = {&arguments...};
  launch(kernel, grid, addresses);
}

/// Runs a kernel with one thread for each of `count` values, in blocks of 32.
template <class... A>
void launch_each(const Kernel& kernel, Index count, A... arguments) {
  launch_grid(kernel, {kernels::groups_of(32, count), 1, 32, 1}, arguments...);
}

template <class T>
Values<T> random_values(Index count, double low, double high, Random& random) {
  Values<T> out;
  for (Index k = 0; k < count; ++k) out.push_back(static_cast<T>(random.uniform(low, high)));
  return out;
}

/// The place in a tensor that broadcasts to `space` of the k-th place in `space`.
std::size_t place(const Shape& tensor, const Shape& space, Index k) {
  Index at = 0, stride = 1;
  for (int a = 1; a <= space.rank(); k /= space[-a], ++a)
    if (a <= tensor.rank()) {
      if (tensor[-a] > 1) at += k % space[-a] * stride;
      stride *= tensor[-a];
    }
  return static_cast<std::size_t>(at);
}

/// |got - expected| against the largest |expected|, but at least `scale`.
template <class T>
double error_of(const Values<T>& got, const Values<double>& expected, double scale) {
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (const double v : expected) scale = std::max(scale, std::abs(v));
  for (std::size_t k = 0; k < got.size(); ++k) {
    const double error = std::abs(static_cast<double>(got[k]) - expected[k]);
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst / scale;
}

template <class T>
void check_map(const MapCase& c, double tolerance) {
  CAPTURE(c.name);
  Random random(1);
  const auto map = c.map<T>();
  std::vector<Values<T>> inputs, outputs;
  std::vector<const T*> input_pointers;
  std::vector<T*> output_pointers;
  for (const Shape& shape : c.inputs) inputs.push_back(random_values<T>(shape.size(), c.low, c.high, random));
  for (const auto& x : inputs) input_pointers.push_back(x.data());
  std::vector<Values<double>> expected;
  for (const auto& r : c.results) {
    const T undefined = std::numeric_limits<T>::quiet_NaN();
    outputs.emplace_back(static_cast<std::size_t>(r.shape.size()), r.put == Put::accumulate ? T(0.25) : undefined);
    expected.emplace_back(static_cast<std::size_t>(r.shape.size()), r.put == Put::accumulate ? 0.25 : 0.0);
  }
  for (auto& y : outputs) output_pointers.push_back(y.data());

  std::vector<double> values(c.inputs.size());
  for (Index k = 0; k < c.space.size(); ++k) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<double>(inputs[i][place(c.inputs[i], c.space, k)]);
    const std::vector<double> results = run(c.program, values);
    for (std::size_t r = 0; r < results.size(); ++r) expected[r][place(c.results[r].shape, c.space, k)] += results[r];
  }

  Values<double> scratch(static_cast<std::size_t>(map.scratch()), std::numeric_limits<double>::quiet_NaN());
  map.run(launch, input_pointers, output_pointers, scratch.data());
  for (std::size_t r = 0; r < outputs.size(); ++r) {
    CAPTURE(r);
    if (c.results[r].put == Put::skip)
      CHECK(std::all_of(outputs[r].begin(), outputs[r].end(), [](T v) { return std::isnan(v); }));
    else
      CHECK(error_of(outputs[r], expected[r], 1e-3) <= tolerance);
  }
}

}  // namespace

TEST_CASE("maps agree with plain evaluation: broadcasting, several results, sums in the pass") {
  for (const MapCase& c : kernel_cases::map_cases()) {
    check_map<float>(c, 4e-6);
    check_map<double>(c, 1e-14);
  }
}

TEST_CASE("a map over a small space is cut into many blocks; its sums are cut in the same way for any batch") {
  constexpr auto twice = [](auto x) { return x + x; };
  const auto blocks = [&](const Shape& space, const Shape& result) {
    const std::vector<Shape> inputs{space};
    const std::vector<kernels::Map<float>::Result> results{{Put::assign, result}};
    const kernels::Map<float> map(expr::lower(expr::trace<std::remove_const_t<decltype(twice)>, 1>()), space, inputs,
                                  results);
    std::vector<unsigned> out;
    map.run([&](const Kernel&, const kernels::Grid& grid, void**) { out.push_back(grid.blocks); },
            std::vector<const float*>{nullptr}, std::vector<float*>{nullptr}, nullptr);
    return out.front();
  };
  CHECK(blocks({100}, {100}) == 1);
  CHECK(blocks({50, 1024}, {50, 1024}) == 200);
  CHECK(blocks({1 << 22}, {1 << 22}) == 1024);
  CHECK(blocks({1 << 26}, {1 << 26}) == 1 << 14);
  for (const Index batch : {1, 50}) CHECK(blocks({batch, 5000}, {batch, 1}) == 2 * batch);
}

TEST_CASE("not-a-number passes through maps from either operand") {
  const auto map = kernel_cases::passing_case().map<float>();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Values<float> x{nan, 1, nan}, y{1, nan, nan};
  std::vector<Values<float>> results(6, Values<float>(3));
  std::vector<float*> pointers;
  for (auto& r : results) pointers.push_back(r.data());
  map.run(launch, std::vector<const float*>{x.data(), y.data()}, pointers, nullptr);
  for (const auto& r : results)
    for (const float v : r) CHECK(std::isnan(v));
}

TEST_CASE("literals print as numbers that read back the same") {
  for (const double v : {0.1, -1.0 / 3, 1e300, 5e-324, 2.0, 9007199254740993.0, 1e19}) {
    const std::string text = kernels::print(v);
    CHECK(std::strtod(text.c_str(), nullptr) == v);
    CHECK(text.find_first_of(".e") != std::string::npos);
  }
  CHECK(kernels::print(std::numeric_limits<double>::infinity()) == "1.0 / 0.0");
}

TEST_CASE("a program that is not lowered, or has too many operands, is refused") {
  constexpr auto f = [](auto x) { return sigmoid(x); };
  const expr::Program p = expr::trace<std::remove_const_t<decltype(f)>, 1>();
  const std::vector<Shape> shapes{{3}};
  const std::vector<kernels::Map<float>::Result> results{{Put::assign, {3}}};
  CHECK_THROWS_AS(kernels::Map<float>(p, {3}, shapes, results), Error);
  CHECK_THROWS_AS(kernels::Map<float>(expr::lower(p), {4}, shapes, results), Error);
  const std::vector<Shape> many(expr::max_operands + 1, Shape{3});
  CHECK_THROWS_AS(kernels::Map<float>(expr::lower(p), {3}, many, results), Error);
}

TEST_CASE("maxima over axes, with not-a-number passing through") {
  Random random(2);
  const auto check = [&]<class T>(T, const Shape& from, const Shape& to) {
    Values<T> x = random_values<T>(from.size(), -1, 1, random);
    if (x.size() > 7) x[5] = std::numeric_limits<T>::quiet_NaN();
    Values<T> y(static_cast<std::size_t>(to.size())), expected(y.size(), -std::numeric_limits<T>::infinity());
    for (Index k = 0; k < from.size(); ++k) {
      T& best = expected[place(to, from, k)];
      const T value = x[static_cast<std::size_t>(k)];
      best = std::isnan(best) || std::isnan(value) ? std::numeric_limits<T>::quiet_NaN() : std::max(best, value);
    }
    kernels::Fold fold = kernels::fold_of(from, to);
    const T* in = x.data();
    T* out = y.data();
    void* arguments[] = {&fold, &in, &out};
    launch(kernels::fold_maxima<T>(), fold.grid(32), arguments);
    for (std::size_t k = 0; k < y.size(); ++k)
      CHECK((y[k] == expected[k] || (std::isnan(y[k]) && std::isnan(expected[k]))));
  };
  const auto both = [&](const Shape& from, const Shape& to) { check(float{}, from, to), check(double{}, from, to); };
  both({3, 5}, {3, 1});
  both({2, 3, 20, 7}, {1, 3, 1, 1});
  both({2, 3, 4}, {2, 1, 4});
  both({300}, {1});
  both({2, 2}, {2, 2});
}

TEST_CASE("random numbers are the CPU's") {
  for (const std::uint64_t used : std::initializer_list<std::uint64_t>{0, 1, 6}) {
    const std::uint64_t seed = 0x123456789abcdefu, stream = 0xfedcba987654321u, count = 70;
    Random uniform(seed, stream), normal(seed, stream);
    for (std::uint64_t k = 0; k < used; ++k) uniform.bits(), normal.bits();
    Values<double> u(count), n(count);
    launch_each(kernels::random_uniform<double>(), count, u.data(), count, seed, stream, used, 0.0, 1.0);
    launch_each(kernels::random_normal<double>(), count, n.data(), count, seed, stream, used, 0.5, 2.0);
    for (std::size_t k = 0; k < count; ++k) {
      CHECK(u[k] == uniform.uniform());
      CHECK(n[k] == doctest::Approx(0.5 + 2.0 * normal.normal()).epsilon(1e-14));
    }
    Values<float> f(count), g(count);
    launch_each(kernels::random_uniform<float>(), count, f.data(), count, seed, stream, used, 0.0, 1.0);
    launch_each(kernels::random_normal<float>(), count, g.data(), count, seed, stream, used, 0.5, 2.0);
    for (std::size_t k = 0; k < count; ++k) {
      CHECK(f[k] == static_cast<float>(u[k]));
      CHECK(g[k] == static_cast<float>(n[k]));
    }
  }
}

namespace {

template <class T>
void check_moves() {
  Random random(3);
  const auto x = random_values<T>(2 * 3 * 5, -1, 1, random);

  Values<T> transposed(30);
  kernels::StridedAxes axes{.count = 30, .extent = {2, 3, 5}, .from = {15, 5, 1}, .to = {1, 2, 6}, .axes = 3};
  launch_each(kernels::copy_strided<T>(), 30, axes, x.data(), transposed.data());
  for (std::size_t k = 0; k < 30; ++k) CHECK(transposed[k % 5 * 6 + k / 5 % 3 * 2 + k / 15] == x[k]);

  const Values<std::int64_t> indices{2, 0, 2, 1};
  Values<T> gathered(2 * 4 * 5);
  launch_each(kernels::gather<T>(), 40, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{5}, std::uint64_t{4},
              indices.data(), x.data(), gathered.data());
  for (std::size_t k = 0; k < 40; ++k)
    CHECK(gathered[k] == x[k / 20 * 15 + static_cast<std::size_t>(indices[k / 5 % 4]) * 5 + k % 5]);

  // Rows {0.5 x0 + 2 x2}, {}, {x1}, {-x0 + x1 + x2}.
  const Values<std::int64_t> start{0, 2, 2, 3, 6}, column{0, 2, 1, 0, 1, 2};
  const Values<double> weight{0.5, 2, 1, -1, 1, 1};
  Values<T> product(40);
  launch_each(kernels::multiply_along<T>(), 40, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{4}, std::uint64_t{5},
              start.data(), column.data(), weight.data(), x.data(), product.data());
  for (std::size_t o = 0; o < 2; ++o)
    for (std::size_t i = 0; i < 5; ++i) {
      const auto in = [&](std::size_t row) { return static_cast<double>(x[o * 15 + row * 5 + i]); };
      const double expected[] = {0.5 * in(0) + 2 * in(2), 0, in(1), -in(0) + in(1) + in(2)};
      for (std::size_t row = 0; row < 4; ++row)
        CHECK(static_cast<double>(product[o * 20 + row * 5 + i]) == doctest::Approx(expected[row]).epsilon(1e-6));
    }
}

/// Positions and their adjoint against loops over windows.
template <class T>
void check_pooling(const kernels::Windows& g, bool equal_values, bool with_nan) {
  Random random(4);
  const auto count = [](Index planes, const std::int32_t(&size)[2]) { return planes * size[0] * size[1]; };
  auto x = random_values<T>(count(g.planes, g.in), -1, 1, random);
  if (equal_values) std::fill(x.begin(), x.end(), T(1));
  if (with_nan) x[3] = std::numeric_limits<T>::quiet_NaN();
  const auto y = random_values<T>(count(g.planes, g.out), -1, 1, random);
  Values<std::int64_t> positions(y.size(), -1), expected(y.size());
  Values<double> adjoint(x.size());
  for (std::size_t w = 0; w < y.size(); ++w) {
    const auto at = static_cast<Index>(w);
    const Index q = at % g.out[1], p = at / g.out[1] % g.out[0], plane = at / g.out[1] / g.out[0];
    Index best = -1;
    for (Index row = p * g.stride[0] - g.padding[0], r = 0; r < g.size[0]; ++r, ++row)
      for (Index column = q * g.stride[1] - g.padding[1], c = 0; c < g.size[1]; ++c, ++column) {
        if (row < 0 || row >= g.in[0] || column < 0 || column >= g.in[1]) continue;
        const Index here = (plane * g.in[0] + row) * g.in[1] + column;
        const auto value = [&](Index k) { return x[static_cast<std::size_t>(k)]; };
        if (best < 0 || (!std::isnan(value(best)) && (std::isnan(value(here)) || value(here) > value(best))))
          best = here;
      }
    expected[w] = best;
    adjoint[static_cast<std::size_t>(best)] += static_cast<double>(y[w]);
  }
  launch_grid(kernels::max_pool_positions<T>(), kernels::windows_grid(g.planes, g.out[0] * g.out[1], 8), g, x.data(),
              positions.data());
  CHECK(positions == expected);
  Values<T> back(x.size(), std::numeric_limits<T>::quiet_NaN());
  launch_grid(kernels::max_pool_adjoint<T>(), kernels::windows_grid(g.planes, g.in[0] * g.in[1], 8), g,
              positions.data(), y.data(), back.data());
  CHECK(error_of(back, adjoint, 1.0) <= 1e-6);
}

}  // namespace

TEST_CASE("copies, gathers and sparse products") {
  check_moves<float>();
  check_moves<double>();
}

namespace {

/// Two systems in an array, each in several pieces, of which the last is short.
template <class T>
void check_vectors() {
  Random random(6);
  const Index length = 75, systems = 2;
  const std::uint64_t n = 75, pieces = 4, count = 150;
  const auto x = random_values<T>(systems * length, -1, 1, random),
             y = random_values<T>(systems * length, -1, 1, random);
  Values<double> sums(2), expected(2);
  for (const int squares : {0, 1}) {
    Values<double> totals(8, std::numeric_limits<double>::quiet_NaN());
    launch_grid(kernels::sum_products<T>(), {8, 1, 16, 1}, n, pieces, std::uint64_t{20}, squares, x.data(), y.data(),
                totals.data());
    launch_grid(kernels::fold_sums<double>(), kernels::fold_of({2, 4}, {2, 1}).grid(16),
                kernels::fold_of({2, 4}, {2, 1}), totals.data(), sums.data());
    std::fill(expected.begin(), expected.end(), 0.0);
    for (std::size_t k = 0; k < count; ++k) {
      const double a = static_cast<double>(x[k]), b = static_cast<double>(y[k]);
      expected[k / n] += squares ? (a - b) * (a - b) : a * b;
    }
    CHECK(error_of(sums, expected, 0.0) <= 1e-14);
  }

  for (const bool with_nan : {false, true}) {
    Values<T> values = x, largest(8);
    if (with_nan) values[33] = std::numeric_limits<T>::quiet_NaN();
    launch_grid(kernels::largest_magnitudes<T>(), {8, 1, 16, 1}, n, pieces, std::uint64_t{20}, values.data(),
                largest.data());
    for (std::size_t s = 0; s < 2; ++s)
      for (std::size_t p = 0; p < pieces; ++p) {
        T wanted = 0;
        for (std::size_t k = s * n + p * 20; k < s * n + std::min<std::size_t>(p * 20 + 20, n); ++k)
          wanted = std::max(wanted, std::abs(x[k]));
        if (with_nan && s == 0 && p == 1)
          CHECK(std::isnan(largest[p]));
        else
          CHECK(largest[s * pieces + p] == wanted);
      }
  }

  // Where a number is 0, its vector is not-a-number.
  for (const auto& [c, d] : {std::pair(0.5, -2.0), std::pair(0.0, 3.0), std::pair(1.5, 0.0), std::pair(0.0, 0.0)}) {
    const Values<double> numbers{c, 2, d, 1};
    Values<T> to = y, from = x;
    if (c == 0) std::fill(to.begin(), to.begin() + length, std::numeric_limits<T>::quiet_NaN());
    if (d == 0) std::fill(from.begin(), from.begin() + length, std::numeric_limits<T>::quiet_NaN());
    Values<double> wanted;
    for (std::size_t k = 0; k < count; ++k) {
      const double a = static_cast<double>(y[k]), b = static_cast<double>(x[k]);
      wanted.push_back(k < n ? (c == 0 ? 0 : c * a) + (d == 0 ? 0 : d * b) : 2 * a + b);
    }
    launch_each(kernels::mix<T>(), 150, count, n, numbers.data(), to.data(), from.data());
    CHECK(error_of(to, wanted, 0.0) <= 1e-6);
  }

  Values<T> filled(40);
  launch_each(kernels::fill<T>(), 40, filled.data(), std::uint64_t{40}, T(2.5));
  CHECK(filled == Values<T>(40, T(2.5)));
}

}  // namespace

namespace {

/// Among the numbers are tiny ones, whose sums are denormal, infinite ones, and zeros of both signs.
template <class T>
void check_sums_over_ranks() {
  Random random(8);
  constexpr T tiny = std::numeric_limits<T>::min(), infinity = std::numeric_limits<T>::infinity();
  for (const Index ranks : {1, 2, 3, 4, 7})
    for (const Index count : {1, 70}) {
      Values<T> terms = random_values<T>(ranks * count, -1, 1, random);
      for (std::size_t k = 0; k < terms.size(); k += 3) terms[k] *= tiny;
      if (count > 1) terms[9] = infinity, terms[11] = T(-0.0), terms[13] = tiny / 2;
      std::vector<T> expected(terms.begin(), terms.end());
      distributed::detail::add_up(expected, static_cast<std::size_t>(count), static_cast<int>(ranks));
      launch_each(kernels::add_in_tree<T>(), count, static_cast<std::uint64_t>(ranks),
                  static_cast<std::uint64_t>(count), terms.data());
      for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) {
        using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
        CHECK(std::bit_cast<Bits>(terms[k]) == std::bit_cast<Bits>(expected[k]));
      }
    }
}

}  // namespace

TEST_CASE("sums over ranks have the processor's bits, denormal ones included") {
  if (!FlushDenormals::supported) {
    MESSAGE("SKIP: this processor does not flush denormal numbers");
    return;
  }
  check_sums_over_ranks<float>();
  check_sums_over_ranks<double>();
}

TEST_CASE("the solvers' vectors: sums of products, largest magnitudes, mixtures by system") {
  check_vectors<float>();
  check_vectors<double>();
}

TEST_CASE("max pooling chooses as the CPU does, and its adjoint adds each window once") {
  const kernels::Windows halves{
      .planes = 3, .in = {4, 6}, .out = {2, 3}, .size = {2, 2}, .stride = {2, 2}, .padding = {0, 0}};
  const kernels::Windows overlapping{
      .planes = 2, .in = {5, 6}, .out = {3, 6}, .size = {3, 3}, .stride = {2, 1}, .padding = {1, 1}};
  const kernels::Windows gaps{
      .planes = 1, .in = {5, 5}, .out = {2, 2}, .size = {1, 2}, .stride = {3, 3}, .padding = {0, 0}};
  for (const auto& g : {halves, overlapping, gaps})
    for (const bool flag : {false, true}) {
      check_pooling<float>(g, flag, false);
      check_pooling<double>(g, false, flag);
    }
}

namespace {

/// Operands of a convolution, and its three products by plain loops.
template <class T>
struct Convolution {
  Values<T> x, w, dy;
  Values<double> y, dx, dw;

  explicit Convolution(const cpu::ConvGeometry& g) {
    Random random(5);
    x = random_values<T>(g.in_size(), -1, 1, random), w = random_values<T>(g.weight_size(), -1, 1, random);
    dy = random_values<T>(g.out_size(), -1, 1, random);
    y.resize(dy.size()), dx.resize(x.size()), dw.resize(w.size());
    each_tap(g, [&](std::size_t in, std::size_t tap, std::size_t out) {
      y[out] += static_cast<double>(x[in]) * static_cast<double>(w[tap]);
      dx[in] += static_cast<double>(dy[out]) * static_cast<double>(w[tap]);
      dw[tap] += static_cast<double>(x[in]) * static_cast<double>(dy[out]);
    });
  }
};

template <class T>
Values<T> undefined(Index size) {
  return Values<T>(static_cast<std::size_t>(size), std::numeric_limits<T>::quiet_NaN());
}

/// |got - expected| against |expected|, in the Euclidean norm.
double distance_of(const Values<float>& got, const Values<double>& expected) {
  double squares = 0, scale = 0;
  for (std::size_t k = 0; k < got.size(); ++k) {
    squares += (static_cast<double>(got[k]) - expected[k]) * (static_cast<double>(got[k]) - expected[k]);
    scale += expected[k] * expected[k];
  }
  return std::sqrt(squares / scale);
}

/// All three products by tiles against plain loops, with `images` in a chunk.
void check_tiles(const cpu::ConvGeometry& g, Index images, kernels::Spectra storage = kernels::Spectra::float32) {
  const Convolution<float> expected(g);
  const kernels::FftConvolution convolution(g, storage, images, 16);
  const auto check = [&](const Values<float>& got, const Values<double>& wanted) {
    if (storage == kernels::Spectra::float32) {
      CHECK(error_of(got, wanted, 0.0) <= 1e-6);
    } else {  // rounded to 8 bits, and no worse
      CHECK(distance_of(got, wanted) <= 4e-3);
      CHECK(distance_of(got, wanted) >= 1e-3);
    }
  };
  auto spectra = undefined<float>(convolution.weight_spectra());
  const auto scratch = [&] { return undefined<float>(convolution.scratch()); };
  auto y = undefined<float>(g.out_size()), dx = undefined<float>(g.in_size()), dw = undefined<float>(g.weight_size());
  convolution.transform_weights(launch, expected.w.data(), spectra.data());
  convolution.convolve(launch, expected.x.data(), spectra.data(), y.data(), scratch().data());
  check(y, expected.y);
  convolution.input_gradient(launch, expected.dy.data(), spectra.data(), dx.data(), scratch().data());
  check(dx, expected.dx);
  convolution.weight_gradient(launch, expected.x.data(), expected.dy.data(), dw.data(), scratch().data());
  check(dw, expected.dw);
}

/// The moments of what a convolution writes against those of its results by two passes, where these are `level` and
/// little beside it.
void check_moments(const cpu::ConvGeometry& g, Index images, float level, kernels::Spectra storage) {
  CAPTURE(level);
  Convolution<float> operands(g);
  for (float& v : operands.x) v = level + 0.01f * v;
  std::fill(operands.w.begin(), operands.w.end(), 0.0f);
  for (Index k = 0; k < g.out_channels; ++k)  // channel k is a channel of x, times k + 1
    operands.w[static_cast<std::size_t>(
        ((k * g.in_channels + k % g.in_channels) * g.kernel_height + g.pad_h) * g.kernel_width + g.pad_w)] =
        static_cast<float>(k + 1);
  const kernels::FftConvolution convolution(g, storage, images, 16);
  auto spectra = undefined<float>(convolution.weight_spectra()), scratch = undefined<float>(convolution.scratch());
  auto y = undefined<float>(g.out_size());
  Values<kernels::Moments> moments(static_cast<std::size_t>(convolution.parts() * g.out_channels), {-1, -1, -1});
  convolution.transform_weights(launch, operands.w.data(), spectra.data());
  convolution.convolve(launch, operands.x.data(), spectra.data(), y.data(), scratch.data(), moments.data());
  const auto channels = static_cast<std::size_t>(g.out_channels), pixels = static_cast<std::size_t>(g.out_pixels());
  auto centre = undefined<float>(g.out_channels), sum = centre, squares = centre;
  launch_grid(kernels::merge_moments(), {kernels::groups_of(1, g.out_channels), 1, 2, 1},
              static_cast<std::int32_t>(convolution.parts()), moments.data(), centre.data(), sum.data(),
              squares.data());
  const double count = static_cast<double>(y.size() / channels);
  for (std::size_t c = 0; c < channels; ++c) {
    double mean = 0, variance = 0;
    const auto each = [&](const auto& f) {
      for (std::size_t n = 0; n < static_cast<std::size_t>(g.batch); ++n)
        for (std::size_t p = 0; p < pixels; ++p) f(static_cast<double>(y[(n * channels + c) * pixels + p]));
    };
    each([&](double v) { mean += v / count; });
    each([&](double v) { variance += (v - mean) * (v - mean) / count; });
    const double offset = static_cast<double>(sum[c]) / count;
    CHECK(std::abs(static_cast<double>(centre[c]) + offset - mean) <= 1e-5 * std::sqrt(variance));
    CHECK(static_cast<double>(squares[c]) / count - offset * offset == doctest::Approx(variance).epsilon(1e-5));
  }
}

/// All three products by matrices against plain loops, in scratch of about `limit` values.
template <class T>
void check_matrices(const cpu::ConvGeometry& g, Index limit) {
  CAPTURE(limit);
  const Convolution<T> expected(g);
  const kernels::GemmConvolution<T> convolution(g, limit, 16);
  const auto scratch = [&] { return undefined<T>(convolution.scratch()); };
  auto y = undefined<T>(g.out_size()), dx = undefined<T>(g.in_size()), dw = undefined<T>(g.weight_size());
  const auto multiply = [](auto... arguments) { multiply_plainly<T>(arguments...); };
  const double tolerance = sizeof(T) == sizeof(float) ? 2e-6 : 1e-14;
  convolution.convolve(launch, multiply, expected.x.data(), expected.w.data(), y.data(), scratch().data());
  CHECK(error_of(y, expected.y, 0.0) <= tolerance);
  convolution.input_gradient(launch, multiply, expected.dy.data(), expected.w.data(), dx.data(), scratch().data());
  CHECK(error_of(dx, expected.dx, 0.0) <= tolerance);
  convolution.weight_gradient(launch, multiply, expected.x.data(), expected.dy.data(), dw.data(), scratch().data());
  CHECK(error_of(dw, expected.dw, 0.0) <= tolerance);
}

}  // namespace

TEST_CASE("a convolution by tiles agrees with plain loops in all three products") {
  // Several tiles each way, an odd number of them, more channels than a thread takes at once, all images at once and
  // chunk by chunk; sizes smaller than a tile; no padding; an even kernel; more sources than one slab.
  const cpu::ConvGeometry several{.batch = 3,
                                  .in_channels = 2,
                                  .in_height = 57,
                                  .in_width = 20,
                                  .out_channels = 5,
                                  .kernel_height = 15,
                                  .kernel_width = 9,
                                  .pad_h = 7,
                                  .pad_w = 4};
  check_tiles(several, 3);
  if (thread_sanitizer) return;
  check_tiles(several, 2);
  check_tiles(cpu::ConvGeometry::same(1, 5, 9, 11, 2, 5), 1);
  check_tiles({.batch = 2,
               .in_channels = 1,
               .in_height = 20,
               .in_width = 70,
               .out_channels = 1,
               .kernel_height = 4,
               .kernel_width = 6},
              1);
  check_tiles(cpu::ConvGeometry::same(2, 33, 6, 6, 1, 3), 2);
}

TEST_CASE("a convolution by tiles keeps an image from others of its batch, however large or broken they are") {
  const cpu::ConvGeometry g = cpu::ConvGeometry::same(3, 2, 8, 9, 2, 3);  // one tile each
  const Convolution<float> expected(g);
  const kernels::FftConvolution convolution(g, kernels::Spectra::float32, 3, 16);
  const auto among_others = [](Values<float> images) {
    const std::size_t third = images.size() / 3;
    for (std::size_t k = 0; k < third; ++k) {
      images[k] *= 1e6f;
      images[2 * third + k] = std::numeric_limits<float>::quiet_NaN();
    }
    images[third / 2] = std::numeric_limits<float>::quiet_NaN();
    return images;
  };
  const auto check_second = [](const auto& got, const auto& wanted) {
    const std::ptrdiff_t third = std::ssize(got) / 3;
    CHECK(error_of(Values<float>(got.begin() + third, got.begin() + 2 * third),
                   Values<double>(wanted.begin() + third, wanted.begin() + 2 * third), 0.0) <= 1e-6);
  };
  auto spectra = undefined<float>(convolution.weight_spectra()), scratch = undefined<float>(convolution.scratch());
  auto y = undefined<float>(g.out_size()), dx = undefined<float>(g.in_size());
  convolution.transform_weights(launch, expected.w.data(), spectra.data());
  convolution.convolve(launch, among_others(expected.x).data(), spectra.data(), y.data(), scratch.data());
  check_second(y, expected.y);
  convolution.input_gradient(launch, among_others(expected.dy).data(), spectra.data(), dx.data(), scratch.data());
  check_second(dx, expected.dx);
}

TEST_CASE("spectra as bfloat16 cost a convolution its last digits, in all three products, and no more") {
  check_tiles(cpu::ConvGeometry::same(2, 3, 60, 60, 2, 5), 1, kernels::Spectra::bfloat16);
  const cpu::ConvGeometry g{1, 25, 9, 9, 25, 3, 3};
  const kernels::FftConvolution whole(g), half(g, kernels::Spectra::bfloat16);
  CHECK(2 * half.weight_spectra() == whole.weight_spectra());

  // The spectrum of one value beside zeros is that value everywhere.
  const auto inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& pair : {std::pair(1.0f, 1.0f),
                           {1.00390625f, 1.0f},
                           {1.01171875f, 1.015625f},
                           {1.0040f, 1.0078125f},
                           {-3.1415927f, -3.140625f},
                           {3.4e38f, inf},
                           {1e-40f, 0x1p-133f},
                           {-0.0f, -0.0f},
                           {nan, nan}}) {
    const float value = pair.first, rounded = pair.second;
    const kernels::Tiles one;
    Values<std::uint32_t> spectrum(4096);
    launch_grid(kernels::transform_tiles(kernels::Spectra::bfloat16), {1, 1, 16, 1}, one,
                Values<float>(1, value).data(), spectrum.data());
    for (const std::uint32_t bits : {spectrum[0], spectrum[65], spectrum[4095]}) {
      const auto got = std::bit_cast<float>(bits << 16);
      CAPTURE(value);
      CHECK((std::isnan(rounded) ? std::isnan(got) : got == rounded));
    }
  }
}

TEST_CASE("moments of a convolution's channels are those of two passes, where nearly everything cancels, too") {
  const cpu::ConvGeometry g{.batch = 3,
                            .in_channels = 2,
                            .in_height = 130,
                            .in_width = 9,
                            .out_channels = 3,
                            .kernel_height = 3,
                            .kernel_width = 5};
  for (const float level : {0.0f, 30.0f}) check_moments(g, 2, level, kernels::Spectra::float32);
  if (!thread_sanitizer) check_moments(g, 1, 1.0f, kernels::Spectra::bfloat16);

  // Parts of one value, of some, and of none; more of them than threads.
  Values<kernels::Moments> parts;
  for (int k = 0; k < 9; ++k)
    parts.push_back(k % 3 == 0   ? kernels::Moments{1, 4.0 + k, 0}
                    : k % 3 == 1 ? kernels::Moments{}
                                 : kernels::Moments{2, 5, 8});
  Values<float> centre(1), sum(1), squares(1);
  launch_grid(kernels::merge_moments(), {1, 1, 4, 1}, std::int32_t{9}, parts.data(), centre.data(), sum.data(),
              squares.data());
  // 4, 7, 10, and three times 3 and 7.
  const double count = 9, mean = 51.0 / 9, offset = static_cast<double>(sum[0]) / count;
  CHECK(static_cast<double>(centre[0]) + offset == doctest::Approx(mean).epsilon(1e-7));
  CHECK(static_cast<double>(squares[0]) - count * offset * offset ==
        doctest::Approx(16 + 49 + 100 + 3 * (9 + 49) - count * mean * mean).epsilon(1e-6));
}

TEST_CASE("a convolution by products of matrices agrees with plain loops in all three products") {
  const cpu::ConvGeometry geometries[] = {
      {3, 2, 7, 9, 4, 3, 3, 1, 1, 1, 1},
      {2, 3, 9, 8, 2, 3, 2, 2, 3, 1, 0},           // strides
      {2, 2, 11, 12, 3, 3, 2, 1, 1, 2, 3, 2, 3},   // dilations, and padding that some taps never leave
      {2, 2, 9, 10, 2, 2, 3, 3, 2, 1, 2, 2, 2},    // both
      {3, 4, 5, 6, 6, 3, 3, 2, 2, 1, 1, 1, 1, 2},  // fewer groups than images
      {1, 4, 5, 6, 8, 3, 3, 1, 1, 1, 1, 1, 1, 4},  // and more
      {2, 3, 4, 5, 4, 1, 1},                       // nothing to gather
      {2, 4, 4, 5, 4, 1, 1, 1, 1, 0, 0, 1, 1, 2},
      {2, 3, 5, 5, 2, 1, 1, 2, 2, 1, 0},  // a 1 x 1 kernel with something to gather
      {1, 1, 2, 3, 1, 5, 5, 1, 1, 2, 2},  // a kernel larger than the image
  };
  for (const cpu::ConvGeometry& g : geometries) {
    CAPTURE(&g - geometries);
    const Index image = g.in_channels * g.taps() * g.out_pixels(), row = image / g.out_height();
    check_matrices<float>(g, g.batch * image);
    if (thread_sanitizer) continue;
    // All images; some; an image in one, or in bands of rows.
    for (const Index limit : {g.batch * image, 2 * image, 2 * row, Index{1}}) check_matrices<double>(g, limit);
  }
  CHECK(kernels::GemmConvolution<float>(geometries[0], 1).scratch() == 2 * 9 * 9);
  CHECK(kernels::GemmConvolution<float>(geometries[6]).scratch() == 0);
  CHECK_THROWS_AS(kernels::GemmConvolution<float>({0, 2, 7, 9, 4, 3, 3}), Error);
}

TEST_CASE("a convolution that tiles cannot serve is refused") {
  CHECK_THROWS_AS(kernels::FftConvolution({.batch = 1,
                                           .in_channels = 1,
                                           .in_height = 9,
                                           .in_width = 9,
                                           .out_channels = 1,
                                           .kernel_height = 3,
                                           .kernel_width = 3,
                                           .stride_h = 2}),
                  Error);
  CHECK_THROWS_AS(kernels::FftConvolution({.batch = 1,
                                           .in_channels = 1,
                                           .in_height = 99,
                                           .in_width = 99,
                                           .out_channels = 1,
                                           .kernel_height = 49,
                                           .kernel_width = 3}),
                  Error);
}
