// Cells and nets beside the released ones: against plain loops, and their gradients against finite differences.
#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <numbers>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/fixed_point/fixed_point.hpp"
#include "settle/nn/conv_gru.hpp"
#include "settle/nn/fgru.hpp"
#include "settle/nn/spectral.hpp"

using namespace settle;
namespace fp = settle::fixed_point;

namespace {

using V = Var<double>;

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

V random_images(const Shape& shape, std::uint64_t seed) {
  Random random(seed);
  return normal<double>(shape, 0, 1, random);
}

}  // namespace

TEST_CASE("the convolutional GRU of 1 x 1 kernels is the formula, pixel by pixel") {
  ParameterStreams streams(3);
  const auto cell = ConvGruCell<double>::initial(1, 1, streams);
  const V x = random_images({2, 1, 3, 2}, 1), h = random_images({2, 1, 3, 2}, 2);
  const V next = cell(h, x);
  const auto value = [](const V& v) { return v.value().data()[0]; };
  for (Index k = 0; k < x.size(); ++k) {
    const double drive = x.value().data()[k], state = h.value().data()[k];
    const auto layer = [&](const auto& w) { return value(w.weight) * drive + value(w.bias); };
    const double z = sigmoid_of(layer(cell.wz) + value(cell.uz) * state);
    const double r = sigmoid_of(layer(cell.wr) + value(cell.ur) * state);
    const double n = std::tanh(layer(cell.wn) + value(cell.un) * r * state);
    CHECK(next.value().data()[k] == doctest::Approx((1 - z) * state + z * n));
  }
}

TEST_CASE("the gamma-net's unit of 1 x 1 kernels is the formula, with the batch's statistics") {
  ParameterStreams streams(4);
  auto cell = FgruCell<double>::initial(1, 1, streams);
  cell.mu = V(Tensor<double>(Shape{1, 1, 1}, 0.3));
  const V x = map([](auto v) { return v * v; }, random_images({2, 1, 2, 3}, 5));
  const V h = map([](auto v) { return v * v; }, random_images({2, 1, 2, 3}, 6));
  const auto first = [](const V& v) { return v.value().data()[0]; };
  const std::size_t n = 12;
  const auto normalised = [&](std::vector<double> v, std::size_t which) {
    double mean = 0, variance = 0;
    for (double u : v) mean += u / static_cast<double>(n);
    for (double u : v) variance += (u - mean) * (u - mean) / static_cast<double>(n);
    for (double& u : v)
      u = first(cell.bn[which].weight) * (u - mean) / std::sqrt(variance + 1e-3) + first(cell.bn[which].bias);
    return v;
  };
  std::vector<double> state(h.value().values().begin(), h.value().values().end());
  std::vector<double> drive(x.value().values().begin(), x.value().values().end());
  std::vector<double> u(n), c1(n), s(n), v(n), c2(n);
  for (std::size_t k = 0; k < n; ++k) u[k] = first(cell.u1.weight) * state[k];
  u = normalised(u, 0);
  for (std::size_t k = 0; k < n; ++k) c1[k] = first(cell.w_inh) * state[k] * sigmoid_of(u[k] + first(cell.u1.bias));
  c1 = normalised(c1, 1);
  const auto relu_of = [](double a) { return std::max(a, 0.0); };
  for (std::size_t k = 0; k < n; ++k)
    s[k] = relu_of(drive[k] - relu_of(c1[k] * (first(cell.alpha) * state[k] + first(cell.mu))));
  for (std::size_t k = 0; k < n; ++k) v[k] = first(cell.u2.weight) * s[k], c2[k] = first(cell.w_exc) * s[k];
  v = normalised(v, 2), c2 = normalised(c2, 3);
  const V next = cell(h, x);
  for (std::size_t k = 0; k < n; ++k) {
    const double g2 = sigmoid_of(v[k] + first(cell.u2.bias));
    const double inner = relu_of(first(cell.kappa) * (s[k] + c2[k]) + first(cell.omega) * s[k] * c2[k]);
    CHECK(next.value().data()[k] == doctest::Approx((1 - g2) * state[k] + g2 * inner));
  }
}

TEST_CASE("the new cells keep shapes, name their parameters and start as they say") {
  ParameterStreams streams(7);
  const auto gru = ConvGruCell<double>::initial(3, 5, streams);
  const auto unit = FgruCell<double>::initial(3, 3, streams);
  check(gru), check(unit);
  const V x = random_images({1, 3, 4, 5}, 8);
  CHECK(gru(gru.initial_state(x), x).shape() == x.shape());
  CHECK(unit(unit.initial_state(x), x).shape() == x.shape());
  CHECK(parameter_count(gru) == 6 * 9 * 25 + 3 * 3);
  CHECK_THROWS_WITH_AS(FgruCell<double>::initial(3, 4, streams), doctest::Contains("odd kernel"), Error);
  CHECK_THROWS_WITH_AS(ConvGruCell<double>::initial(0, 3, streams), doctest::Contains("channels >= 1"), Error);
}

TEST_CASE("a spectrum is the sum over pixels, and its inverse gives them back") {
  const Index height = 5, width = 6;
  const V x = random_images({2, 3, height, width}, 9);
  const auto s = spectrum(x, height, width);
  CHECK(s.re.shape() == Shape{2, 3, width, height});
  for (const auto& [u, v] : {std::pair<Index, Index>{0, 0}, {1, 2}, {4, 5}, {3, 3}}) {
    std::complex<double> sum = 0;
    for (Index i = 0; i < height; ++i)
      for (Index j = 0; j < width; ++j) {
        const double angle = -2 * std::numbers::pi *
                             (static_cast<double>(u * i) / static_cast<double>(height) +
                              static_cast<double>(v * j) / static_cast<double>(width));
        sum += x.value().data()[(1 * 3 + 2) * height * width + i * width + j] * std::polar(1.0, angle);
      }
    const Index at = (1 * 3 + 2) * height * width + v * height + u;
    CHECK(s.re.value().data()[at] == doctest::Approx(sum.real()));
    CHECK(s.im.value().data()[at] == doctest::Approx(sum.imag()));
  }
  const V back = from_spectrum(s);
  for (Index k = 0; k < x.size(); ++k) CHECK(back.value().data()[k] == doctest::Approx(x.value().data()[k]));
}

TEST_CASE("the convolution by the transform is the circular sum") {
  const Index size = 5;
  const V x = random_images({1, 2, size, size}, 10), kernel = random_images({1, 2, 3, 3}, 11);
  const V y = global_conv(x, kernel);
  for (Index c = 0; c < 2; ++c)
    for (Index i = 0; i < size; ++i)
      for (Index j = 0; j < size; ++j) {
        double sum = 0;
        for (Index a = 0; a < 3; ++a)
          for (Index b = 0; b < 3; ++b)
            sum += kernel.value().data()[(c * 3 + a) * 3 + b] *
                   x.value().data()[(c * size + (i - a + 1 + size) % size) * size + (j - b + 1 + size) % size];
        CHECK(y.value().data()[(c * size + i) * size + j] == doctest::Approx(sum));
      }
}

TEST_CASE("the spectral cell's fixed point is exact, forward and backward, and its Jacobian contracts") {
  ParameterStreams streams(12);
  auto cell = SpectralCell<double>::initial(2, 3, streams);
  cell.rho = 0.9;
  const V x = random_images({2, 2, 4, 5}, 13);
  const V h = cell.settled(x), next = cell(h, x);
  for (Index k = 0; k < h.size(); ++k) CHECK(next.value().data()[k] == doctest::Approx(h.value().data()[k]));

  const auto gradients = [&](const auto& solve) {
    Tape<double> tape;
    const auto own = on_tape(cell, tape);
    const V drive = tape.leaf(x.value());
    return grad(sum(map([](auto a) { return a * a * a; }, solve(own, drive))), {own.kernel, drive});
  };
  const auto exact = gradients([](const auto& own, const V& drive) { return own.settled(drive); });
  const auto implicit = gradients([](const auto& own, const V& drive) {
    const fp::Options options{.stop = fp::Residual{.rtol = 1e-12, .max_steps = 2000},
                              .adjoint = fp::Gmres{.max_products = 400, .rtol = 1e-12}};
    return fp::solve(own, options, own.initial_state(drive), drive).z;
  });
  for (std::size_t k = 0; k < exact.size(); ++k)
    for (Index i = 0; i < exact[k].size(); ++i)
      CHECK(implicit[k].value().data()[i] == doctest::Approx(exact[k].value().data()[i]).epsilon(1e-7));

  // However large the kernel: |h'(a) - h'(b)| <= rho |a - b|.
  cell.kernel = 1e3 * cell.kernel;
  const V a = random_images(x.shape(), 14), b = random_images(x.shape(), 15);
  const auto norm = [](const V& u, const V& v) {
    return std::sqrt(sum(map([](auto p, auto q) { return (p - q) * (p - q); }, u, v)).item());
  };
  CHECK(norm(cell(a, x), cell(b, x)) <= 0.9 * norm(a, b));
  CHECK(norm(cell(a, x), cell(b, x)) > 0.5 * norm(a, b));
}

TEST_CASE("gradients of the spectral cell and of the global convolution") {
  const V x = random_images({1, 1, 3, 4}, 16);
  ParameterStreams streams(17);
  const auto cell = SpectralCell<double>::initial(1, 3, streams);
  const auto settled = [&](const std::vector<V>& in) {
    return sum(map([](auto v) { return sin(v); }, SpectralCell<double>{in[1], 0.8}.settled(in[0])));
  };
  const std::vector<Tensor<double>> at{x.value(), cell.kernel.value()};
  CHECK(gradcheck(settled, at).passed);
  CHECK(gradcheck(
            [](const std::vector<V>& in) { return sum(map([](auto v) { return sin(v); }, global_conv(in[0], in[1]))); },
            at)
            .passed);
}
