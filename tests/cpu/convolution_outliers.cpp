#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "plain_loops.hpp"
#include "settle/cpu/convolution.hpp"

// A value that stands out, or is not finite, reaches the results that it belongs to and no other, whatever computes
// them.

using namespace settle;
using namespace settle::cpu;

namespace {

constexpr ConvAlgorithm algorithms[] = {ConvAlgorithm::automatic, ConvAlgorithm::direct, ConvAlgorithm::gemm,
                                        ConvAlgorithm::fft};
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinite = std::numeric_limits<double>::infinity();

struct Operands {
  std::vector<double> x, w, gy;
};

std::vector<double> filled(Index size, const std::function<double(Index)>& value) {
  std::vector<double> out(static_cast<std::size_t>(size));
  for (Index k = 0; k < size; ++k) out[static_cast<std::size_t>(k)] = static_cast<float>(value(k));
  return out;
}

double& at(std::vector<double>& v, Index k) { return v[static_cast<std::size_t>(k)]; }

/// Numbers of both signs with magnitudes in [1/2, 1].
Operands drawn(const ConvGeometry& g, std::uint64_t seed) {
  Random random(seed);
  const auto value = [&](Index) { return (random.below(2) ? 1 : -1) * random.uniform(0.5, 1); };
  return {filled(g.in_size(), value), filled(g.weight_size(), value), filled(g.out_size(), value)};
}

/// The three directions by their definitions and, of each result, the sum of its terms' magnitudes: what rounding is
/// measured by.
struct Expected {
  std::vector<double> y, gx, gw, y_terms, gx_terms, gw_terms;

  Expected(const ConvGeometry& g, const Operands& o)
      : y(o.gy.size()), gx(o.x.size()), gw(o.w.size()), y_terms(y), gx_terms(gx), gw_terms(gw) {
    each_tap(g, [&](std::size_t in, std::size_t tap, std::size_t out) {
      const auto add = [](double& sum, double& terms, double term) { sum += term, terms += std::abs(term); };
      add(y[out], y_terms[out], o.x[in] * o.w[tap]);
      add(gx[in], gx_terms[in], o.gy[out] * o.w[tap]);
      add(gw[tap], gw_terms[tap], o.gy[out] * o.x[in]);
    });
  }
};

template <class T>
std::vector<T> converted(const std::vector<double>& v) {
  return std::vector<T>(v.begin(), v.end());
}

/// The largest error over the sum of the terms' magnitudes, or over 1e-3 where there is none; infinite where one is not
/// finite and the other is.
template <class T>
double worst(const std::vector<T>& got, const std::vector<double>& expected, const std::vector<double>& terms) {
  double out = 0;
  for (std::size_t k = 0; k < got.size(); ++k) {
    const double value = static_cast<double>(got[k]);
    if (std::isfinite(value) != std::isfinite(static_cast<double>(static_cast<T>(expected[k])))) return infinite;
    if (std::isfinite(value)) out = std::max(out, std::abs(value - expected[k]) / std::max(terms[k], 1e-3));
  }
  return out;
}

/// Where every place has some term of about its size, results are right to about the precision, in every direction and
/// by every algorithm; with and without a cache for the weights, and added to other values.
template <class T>
void check(const ConvGeometry& g, const Operands& o, double tolerance) {
  const Expected expected(g, o);
  const auto x = converted<T>(o.x), w = converted<T>(o.w), gy = converted<T>(o.gy);
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    std::shared_ptr<void> kept;
    for (std::shared_ptr<void>* const slot : {static_cast<std::shared_ptr<void>*>(nullptr), &kept, &kept}) {
      std::vector<T> y(gy.size(), T(7)), gx(x.size(), T(7)), added(x.size(), T(0)), gw(w.size(), T(7));
      conv_forward(g, x.data(), w.data(), y.data(), algorithm, slot);
      conv_input_grad(g, gy.data(), w.data(), gx.data(), algorithm, slot);
      conv_input_grad(g, gy.data(), w.data(), added.data(), algorithm, slot, true);
      conv_weight_grad(g, x.data(), gy.data(), gw.data(), algorithm);
      CHECK(worst(y, expected.y, expected.y_terms) <= tolerance);
      CHECK(worst(gx, expected.gx, expected.gx_terms) <= tolerance);
      CHECK(worst(added, expected.gx, expected.gx_terms) <= tolerance);
      CHECK(worst(gw, expected.gw, expected.gw_terms) <= tolerance);
    }
  }
}

void check(const ConvGeometry& g, const Operands& o) {
  check<float>(g, o, 2e-3);
  check<double>(g, o, 1e-11);
}

template <class T>
Index not_finite(const std::vector<T>& v) {
  return std::count_if(v.begin(), v.end(), [](T e) { return !std::isfinite(e); });
}

}  // namespace

TEST_CASE_TEMPLATE("a NaN reaches the pixels that see it", T, float, double) {
  const ConvGeometry g = ConvGeometry::same(1, 1, 64, 64, 1, 15);
  for (const double broken : {not_a_number, infinite, -infinite})
    for (const ConvAlgorithm algorithm : algorithms) {
      CAPTURE(static_cast<int>(algorithm));
      std::vector<T> x(64 * 64, T(0)), ones(15 * 15, T(1)), y(64 * 64), gx(64 * 64), gw(15 * 15);
      x[0] = static_cast<T>(broken);
      conv_forward(g, x.data(), ones.data(), y.data(), algorithm);
      CHECK(not_finite(y) == 64);
      CHECK(!std::isfinite(y[7 * 64 + 7]));
      CHECK(y[7 * 64 + 8] == 0);
      CHECK(y[30 * 64 + 30] == 0);
      conv_input_grad(g, x.data(), ones.data(), gx.data(), algorithm);
      CHECK(not_finite(gx) == 64);
      std::vector<T> gy(64 * 64, T(1));
      conv_weight_grad(g, x.data(), gy.data(), gw.data(), algorithm);
      CHECK(not_finite(gw) == 64);  // the taps that a pixel of gy reads (0, 0) by
      CHECK(gw[224] == 0);
      conv_weight_grad(g, gy.data(), x.data(), gw.data(), algorithm);
      CHECK(not_finite(gw) == 64);
      CHECK(gw[0] == 0);
    }
}

TEST_CASE_TEMPLATE("a pixel of 1e8 leaves others as they are", T, float, double) {
  const ConvGeometry g = ConvGeometry::same(1, 1, 64, 64, 1, 15);
  for (const double large : {1e5, 1e6, 1e8, 1e15, 1e30})
    for (const ConvAlgorithm algorithm : algorithms) {
      CAPTURE(large);
      CAPTURE(static_cast<int>(algorithm));
      std::vector<T> x(64 * 64, T(0)), ones(15 * 15, T(1)), y(64 * 64), gw(15 * 15);
      x[0] = static_cast<T>(large), x[32 * 64 + 32] = T(1);
      conv_forward(g, x.data(), ones.data(), y.data(), algorithm);
      CHECK(y[30 * 64 + 30] == 1);
      CHECK(y[39 * 64 + 25] == 1);
      CHECK(y[0] == static_cast<T>(large));
      CHECK(y[20 * 64 + 20] == 0);
      conv_input_grad(g, x.data(), ones.data(), y.data(), algorithm);
      CHECK(y[30 * 64 + 30] == 1);
      // The last tap of gw sees x(32, 32) alone.
      std::vector<T> gy(64 * 64, T(0));
      gy[25 * 64 + 25] = T(1);
      conv_weight_grad(g, x.data(), gy.data(), gw.data(), algorithm);
      CHECK(gw[224] == 1);
      CHECK(gw[0] == 0);
    }
}

TEST_CASE("values that stand out, however many and wherever, keep to the results that they belong to") {
  for (const Index kernel : {9, 15}) {
    CAPTURE(kernel);
    for (const Index channels : {1, 3}) {
      const ConvGeometry g = ConvGeometry::same(2, channels, 70, 61, 2, kernel);
      const Operands plain = drawn(g, 3);
      const Index pixels = g.in_pixels();
      const auto with = [&](auto change) {
        Operands o = plain;
        change(o);
        return o;
      };
      const auto both = [](Operands& o, Index k, double value) {
        at(o.x, k) = value;
        if (k < std::ssize(o.gy)) at(o.gy, k) = value;
      };
      check(g, plain);
      check(g, with([&](Operands& o) { both(o, 0, 1e8); }));
      check(g, with([&](Operands& o) { both(o, 33 * 61 + 29, -1e8); }));
      check(g, with([&](Operands& o) { both(o, pixels - 1, 1e6); }));
      check(g, with([&](Operands& o) {  // a row
        for (Index k = 0; k < 61; ++k) both(o, 20 * 61 + k, 1e7);
      }));
      check(g, with([&](Operands& o) {  // half an image against the other half
        for (Index k = 0; k < pixels / 2; ++k) both(o, k, 1e9 * (static_cast<double>(k % 7) - 3.5));
      }));
      check(g, with([&](Operands& o) {  // nothing but 1e8 and a few small ones
        for (Index k = 0; k < pixels; ++k) both(o, k, k % 61 < 20 ? 1e8 : k % 61 > 45 ? 1 : 0);
      }));
      check(g, with([&](Operands& o) {  // all of one image, of two in a batch
        for (Index k = 0; k < channels * pixels; ++k) both(o, k, 1e8 * at(o.x, k));
      }));
      check(g, with([&](Operands& o) { both(o, 2 * 61 + 3, not_a_number), both(o, 50 * 61 + 40, infinite); }));
    }
  }
}

TEST_CASE("a weight that stands out keeps to the pixels that it sees") {
  for (const Index kernel : {9, 15}) {
    CAPTURE(kernel);
    const ConvGeometry g = ConvGeometry::same(1, 2, 40, 40, 2, kernel);
    for (const double large : {1e6, 1e8, 1e30}) {
      CAPTURE(large);
      Operands o = drawn(g, 5);
      at(o.w, kernel + 2) = large;
      // Few pixels: most results do not see the large tap.
      for (auto* v : {&o.x, &o.gy})
        for (std::size_t k = 0; k < v->size(); ++k) (*v)[k] = k % 137 == 5 ? 1 : 0;
      check<double>(g, o, 1e-11);
      check<float>(g, o, 2e-3);
    }
    // Of a tap that is not finite every pixel that sees one is not.
    Operands o = drawn(g, 6);
    at(o.w, 0) = not_a_number;
    const auto x = converted<float>(o.x), w = converted<float>(o.w);
    const Expected expected(g, o);
    for (const ConvAlgorithm algorithm : algorithms) {
      std::vector<float> y(o.gy.size());
      conv_forward(g, x.data(), w.data(), y.data(), algorithm);
      CHECK(not_finite(y) == g.out_pixels());  // of the first output; padding's zeros times NaN are NaN, as in PyTorch
      CHECK(not_finite(std::vector<float>(y.begin() + g.out_pixels(), y.end())) == 0);
    }
  }
}

TEST_CASE("sums of a transform that would overflow do not, where the result does not") {
  const ConvGeometry g = ConvGeometry::same(1, 1, 50, 50, 1, 15);
  Operands o{filled(2500, [](Index) { return 3e37; }), filled(225, [](Index k) { return k == 112 ? 1 : 1e-3; }),
             filled(2500, [](Index) { return -2e37; })};
  const auto x = converted<float>(o.x), w = converted<float>(o.w), gy = converted<float>(o.gy);
  const Expected expected(g, o);
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    std::vector<float> y(2500), gx(2500), gw(225);
    conv_forward(g, x.data(), w.data(), y.data(), algorithm);
    conv_input_grad(g, gy.data(), w.data(), gx.data(), algorithm);
    CHECK(worst(y, expected.y, expected.y_terms) <= 1e-5);
    CHECK(worst(gx, expected.gx, expected.gx_terms) <= 1e-5);
    const std::vector<float> small(2500, 1e-30f);
    conv_weight_grad(g, x.data(), small.data(), gw.data(), algorithm);
    CHECK(not_finite(gw) == 0);
    CHECK(gw[112] == doctest::Approx(2500 * 3e7));
  }
}

TEST_CASE("strided, dilated and grouped weight gradients keep what is not finite to its taps") {
  for (const auto& [stride, dilation, groups] : {std::array<Index, 3>{1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}})
    for (const Index size : {11, 40}) {
      ConvGeometry g = ConvGeometry::same(2, 4, size, size + 1, 6, 3);
      g.stride_h = g.stride_w = stride, g.dilation_h = g.dilation_w = g.pad_h = g.pad_w = dilation, g.groups = groups;
      Operands o = drawn(g, 8);
      at(o.x, 0) = not_a_number, at(o.gy, g.out_pixels() - 1) = infinite;
      check(g, o);
    }
}
