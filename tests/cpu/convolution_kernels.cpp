#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <complex>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "plain_loops.hpp"
#include "settle/cpu/convolution.hpp"
#include "settle/cpu/fft.hpp"
#include "settle/cpu/transpose.hpp"

using namespace settle;
using namespace settle::cpu;

namespace {

constexpr auto same = ConvGeometry::same;

struct Operands {
  std::vector<double> x, w, gy;

  Operands(const ConvGeometry& g, Random random) {
    const auto draw = [&](Index size) {
      std::vector<double> v(static_cast<std::size_t>(size));
      for (double& e : v) e = static_cast<float>(random.uniform(-1, 1));  // exact in both precisions
      return v;
    };
    x = draw(g.in_size()), w = draw(g.weight_size()), gy = draw(g.out_size());
  }
};

/// The three directions by their definitions, in double precision.
struct Reference : Operands {
  std::vector<double> y, gx, gw;

  Reference(const ConvGeometry& g, Random random)
      : Operands(g, random), y(gy.size()), gx(x.size()), gw(w.size()) {
    each_tap(g, [&](std::size_t in, std::size_t tap, std::size_t out) {
      y[out] += x[in] * w[tap];
      gx[in] += gy[out] * w[tap];
      gw[tap] += gy[out] * x[in];
    });
  }
};

template <class T>
std::vector<T> converted(const std::vector<double>& v) {
  return std::vector<T>(v.begin(), v.end());
}

/// The largest difference over the largest reference value.
template <class T>
double error(const std::vector<T>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  double difference = 0, scale = 1e-30;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double here = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (std::isnan(here)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, here);
    scale = std::max(scale, std::abs(expected[i]));
  }
  return difference / scale;
}

constexpr ConvAlgorithm algorithms[] = {ConvAlgorithm::automatic, ConvAlgorithm::direct, ConvAlgorithm::gemm,
                                        ConvAlgorithm::fft};

template <class T>
struct Results {
  std::vector<T> y, gx, gw, added;  ///< added: x + gx
  bool operator==(const Results&) const = default;
};

/// All three directions, written over NaN, and the input gradient added to x; the weights' slot is used when there is
/// one.
template <class T>
Results<T> compute(const ConvGeometry& g, const Operands& r, ConvAlgorithm algorithm,
                   std::shared_ptr<void>* slot = nullptr) {
  const auto x = converted<T>(r.x), w = converted<T>(r.w), gy = converted<T>(r.gy);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Results<T> out{std::vector<T>(gy.size(), nan), std::vector<T>(x.size(), nan), std::vector<T>(w.size(), nan),
                 x};
  conv_forward(g, x.data(), w.data(), out.y.data(), algorithm, slot);
  conv_input_grad(g, gy.data(), w.data(), out.gx.data(), algorithm, slot);
  conv_input_grad(g, gy.data(), w.data(), out.added.data(), algorithm, slot, true);
  conv_weight_grad(g, x.data(), gy.data(), out.gw.data(), algorithm);
  return out;
}

template <class T>
void check(const ConvGeometry& g, double tolerance) {
  const Reference reference(g, Random(7));
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    const auto got = compute<T>(g, reference, algorithm);
    CHECK(error(got.y, reference.y) <= tolerance);
    CHECK(error(got.gx, reference.gx) <= tolerance);
    CHECK(error(got.gw, reference.gw) <= tolerance);
    std::vector<double> sum = reference.x;
    for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += reference.gx[k];
    CHECK(error(got.added, sum) <= tolerance);
    std::shared_ptr<void> slot;
    const auto first = compute<T>(g, reference, algorithm, &slot);
    CHECK(compute<T>(g, reference, algorithm, &slot) == first);
    CHECK(error(first.y, reference.y) <= tolerance);
    CHECK(error(first.gx, reference.gx) <= tolerance);
  }
}

void check_all(const std::vector<ConvGeometry>& geometries) {
  for (const auto& g : geometries) {
    std::string text;
    for (Index e : {g.batch, g.in_channels, g.in_height, g.in_width, g.out_channels, g.kernel_height, g.kernel_width,
                    g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.dilation_h, g.dilation_w, g.groups})
      text += std::to_string(e) + ' ';
    CAPTURE(text);
    check<double>(g, 1e-12);
    check<float>(g, 1e-5);
  }
}

}  // namespace

TEST_CASE("convolutions of every kernel size agree with the definition") {
  std::vector<ConvGeometry> geometries;
  for (const Index kernel : {1, 2, 3, 4, 5, 7, 9, 15}) geometries.push_back(same(2, 3, 19, 23, 4, kernel));
  check_all(geometries);
}

TEST_CASE("convolutions of every number of channels agree with the definition") {
  std::vector<ConvGeometry> geometries;
  for (const Index in : {1, 2, 3, 8, 25})
    for (const Index out : {1, 2, 3, 5, 6, 7, 8, 13, 25}) geometries.push_back(same(1, in, 9, 18, out, 3));
  geometries.push_back(same(2, 25, 11, 7, 25, 5));
  geometries.push_back(same(2, 25, 20, 33, 25, 1));
  geometries.push_back(same(3, 12, 4, 5, 16, 1));
  geometries.push_back(same(1, 70, 4, 5, 65, 3));
  geometries.push_back(same(1, 96, 40, 40, 2, 3));  // more channels than a band of weight gradients takes
  for (const Index width : {45, 47}) geometries.push_back(same(1, 2, 40, width, 96, 3));  // more than one band
  for (const Index channels : {8, 13, 16}) geometries.push_back(same(1, 9, 32, 32, channels, 1));  // crowded planes
  check_all(geometries);
}

TEST_CASE("convolutions of every image size agree with the definition") {
  std::vector<ConvGeometry> geometries;
  for (const Index width : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 79}) {
    geometries.push_back(same(1, 3, 5, width, 4, 3));
    geometries.push_back(same(2, 2, width, 6, 3, 5));
  }
  geometries.push_back(same(3, 2, 65, 130, 2, 9));
  geometries.push_back(same(1, 2, 66, 67, 1, 15));
  geometries.push_back(same(1, 2, 5, 4, 3, 15));
  geometries.push_back(same(2, 1, 1, 1, 1, 1));
  check_all(geometries);
}

TEST_CASE("non-square kernels and any padding agree with the definition") {
  std::vector<ConvGeometry> geometries;
  for (const Index pad_h : {0, 1, 4, 6})
    for (const Index pad_w : {0, 2, 5, 9})
      geometries.push_back({.batch = 2, .in_channels = 3, .in_height = 12, .in_width = 21, .out_channels = 5,
                            .kernel_height = 5, .kernel_width = 7, .pad_h = pad_h, .pad_w = pad_w});
  geometries.push_back({2, 3, 40, 17, 2, 1, 9, 1, 1, 0, 4});
  geometries.push_back({2, 3, 17, 40, 2, 9, 1, 1, 1, 4, 0});
  geometries.push_back({2, 3, 17, 40, 2, 2, 14, 1, 1, 0, 0});
  geometries.push_back({1, 2, 70, 12, 2, 40, 6, 1, 1, 20, 3});  // larger than the smallest transform
  geometries.push_back({1, 1, 80, 7, 1, 70, 3, 1, 1, 35, 1});  // larger than any transform
  geometries.push_back({1, 2, 9, 9, 2, 1, 1, 1, 1, 2, 3});
  check_all(geometries);
}

TEST_CASE_TEMPLATE("convolutions by tiles of every side agree with the definition", T, float, double) {
  const ConvGeometry g{3, 2, 37, 53, 3, 5, 12, 1, 1, 2, 6};  // one to six tiles an image, none of them whole
  const Reference reference(g, Random(19));
  const auto x = converted<T>(reference.x), w = converted<T>(reference.w), gy = converted<T>(reference.gy);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
  for (const int side : cpu::detail::tile_sides) {
    CAPTURE(side);
    std::vector<T> y(gy.size()), gx(x.size()), gw(w.size());
    cpu::detail::fft_convolve(g, side, x.data(), w.data(), false, y.data(), false, nullptr);
    cpu::detail::fft_convolve(g, side, gy.data(), w.data(), true, gx.data(), false, nullptr);
    cpu::detail::with_tile_side(
        side, [&](auto n) { cpu::detail::fft_weight_grad<n>(g, x.data(), gy.data(), gw.data()); });
    CHECK(error(y, reference.y) <= tolerance);
    CHECK(error(gx, reference.gx) <= tolerance);
    CHECK(error(gw, reference.gw) <= tolerance);
    cpu::detail::fft_convolve(g, side, gy.data(), w.data(), true, gx.data(), true, nullptr);
    std::vector<double> twice = reference.gx;
    for (double& v : twice) v *= 2;
    CHECK(error(gx, twice) <= tolerance);
  }
}

TEST_CASE("runs of pixels that begin before their part add only to it") {
  check_all({{2, 255, 23, 167, 1, 1, 1}, {2, 255, 17, 113, 1, 1, 1}});  // with 64 bytes, the last run is of one pixel
}

TEST_CASE("a product of channels of a large image agrees with the definition, in runs of which the last is longer") {
  const int before = ThreadPool::instance().size();
  ThreadPool::instance().resize(1);
  check_all({same(1, 17, 3, 6189, 40, 1)});  // with 64 bytes 57 runs of 320 pixels and one of 327
  ThreadPool::instance().resize(before);
}

TEST_CASE_TEMPLATE("an image is not touched by others of its batch, however large or broken", T, float, double) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> factors{1e6, 1, 0, 1, nan, 1, 1, 1e-6, 1, 300};
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
  for (const Index kernel : {5, 9, 15})
    for (const Index size : {20, 33, 70}) {
      CAPTURE(kernel);
      CAPTURE(size);
      const auto batch = static_cast<Index>(factors.size());
      const ConvGeometry g = same(batch, 3, size, size, 2, kernel), one = same(1, 3, size, size, 2, kernel);
      Operands all(g, Random(23));
      const auto image_of = [&](const auto& v, std::size_t image) {
        const auto length = std::ssize(v) / batch, begin = static_cast<std::ptrdiff_t>(image) * length;
        return std::decay_t<decltype(v)>(v.begin() + begin, v.begin() + begin + length);
      };
      for (auto* v : {&all.x, &all.gy})
        for (std::size_t image = 0, length = v->size() / factors.size(); image < factors.size(); ++image) {
          // Of the largest image the last channel alone is that large.
          const std::size_t first = factors[image] == 1e6 ? length - static_cast<std::size_t>(size * size) : 0;
          for (std::size_t k = first; k < length; ++k) (*v)[image * length + k] *= factors[image];
        }
      std::vector<Results<double>> expected;
      for (std::size_t image = 0; image < factors.size(); ++image) {
        Operands alone = all;
        alone.x = image_of(all.x, image), alone.gy = image_of(all.gy, image);
        expected.push_back(compute<double>(one, alone, ConvAlgorithm::direct));
      }
      for (const ConvAlgorithm algorithm : algorithms) {
        CAPTURE(static_cast<int>(algorithm));
        const auto got = compute<T>(g, all, algorithm);
        for (std::size_t image = 0; image < factors.size(); ++image) {
          if (std::isnan(factors[image])) continue;
          CAPTURE(image);
          CHECK(error(image_of(got.y, image), expected[image].y) <= tolerance);
          CHECK(error(image_of(got.gx, image), expected[image].gx) <= tolerance);
        }
      }
    }
}

TEST_CASE("of many images each is what it is alone, and each counts in the weights' gradient as it does alone") {
  // Several rounds of tiles: every image is one. A gradient of 0 leaves nothing of an image that has run away.
  const ConvGeometry g = same(903, 1, 20, 20, 1, 15);
  Operands all(g, Random(37));
  const auto images = static_cast<std::size_t>(g.batch), pixels = static_cast<std::size_t>(g.in_pixels());
  for (std::size_t image = 1; image < images; image += 4)
    for (std::size_t k = image * pixels; k < (image + 1) * pixels; ++k) all.x[k] *= 1e6, all.gy[k] = 0;
  const auto expected = compute<double>(g, all, ConvAlgorithm::direct);
  const int before = ThreadPool::instance().size();
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    ThreadPool::instance().resize(threads);
    const auto got = compute<float>(g, all, ConvAlgorithm::fft);
    CHECK(error(got.gw, expected.gw) <= 1e-5);
    for (std::size_t image = 0; image < images; ++image) {
      const auto begin = static_cast<std::ptrdiff_t>(image * pixels), end = begin + static_cast<std::ptrdiff_t>(pixels);
      CHECK(error(std::vector<float>(got.y.begin() + begin, got.y.begin() + end),
                  std::vector<double>(expected.y.begin() + begin, expected.y.begin() + end)) <= 1e-5);
      CHECK(error(std::vector<float>(got.gx.begin() + begin, got.gx.begin() + end),
                  std::vector<double>(expected.gx.begin() + begin, expected.gx.begin() + end)) <= 1e-5);
    }
  }
  ThreadPool::instance().resize(before);
}

TEST_CASE("an output channel is not touched by the weights of others, however large or broken") {
  constexpr double factors[] = {1e6, 1, 0, 300, std::numeric_limits<double>::quiet_NaN(), 1};
  for (const Index kernel : {3, 9, 15}) {
    CAPTURE(kernel);
    const ConvGeometry g = same(1, 3, 40, 40, 6, kernel), one = same(1, 3, 40, 40, 1, kernel);
    Operands all(g, Random(29));
    const Index filter = g.weight_size() / 6;
    for (Index k = 0; k < g.weight_size(); ++k) all.w[static_cast<std::size_t>(k)] *= factors[k / filter];
    std::vector<std::vector<double>> expected;
    for (Index output = 0; output < 6; ++output) {
      Operands alone(one, Random(0));
      alone.x = all.x;
      std::copy_n(all.w.begin() + output * filter, filter, alone.w.begin());
      expected.push_back(compute<double>(one, alone, ConvAlgorithm::direct).y);
    }
    for (const ConvAlgorithm algorithm : algorithms) {
      CAPTURE(static_cast<int>(algorithm));
      const auto y = compute<float>(g, all, algorithm).y;
      for (Index output = 0; output < 6; ++output) {
        if (std::isnan(factors[output])) continue;
        CAPTURE(output);
        const auto begin = y.begin() + output * g.out_pixels();
        CHECK(error(std::vector<float>(begin, begin + g.out_pixels()), expected[static_cast<std::size_t>(output)]) <=
              1e-5);
      }
    }
  }
}

namespace {

/// The weight gradients by every algorithm, and by transforms of every side.
template <class T>
std::vector<std::vector<T>> weight_grads(const ConvGeometry& g, const Operands& r) {
  const auto x = converted<T>(r.x), gy = converted<T>(r.gy);
  std::vector<std::vector<T>> out;
  const auto next = [&] { return out.emplace_back(g.weight_size(), std::numeric_limits<T>::quiet_NaN()).data(); };
  for (const ConvAlgorithm algorithm : algorithms) conv_weight_grad(g, x.data(), gy.data(), next(), algorithm);
  for (const int side : cpu::detail::tile_sides)
    cpu::detail::with_tile_side(side, [&](auto n) { cpu::detail::fft_weight_grad<n>(g, x.data(), gy.data(), next()); });
  return out;
}

/// Checks the gradients of all weights against those of each pair of channels alone.
template <class T>
void check_channels_apart(const ConvGeometry& g, const Operands& all) {
  const auto inputs = static_cast<std::size_t>(g.in_channels), outputs = static_cast<std::size_t>(g.out_channels);
  const auto pixels = static_cast<std::size_t>(g.in_pixels()), taps = static_cast<std::size_t>(g.taps());
  const ConvGeometry one = same(g.batch, 1, g.in_height, g.in_width, 1, g.kernel_height);
  const auto channel_of = [&](const std::vector<double>& v, std::size_t channels, std::size_t channel) {
    std::vector<double> out;
    for (std::size_t plane = channel; plane < v.size() / pixels; plane += channels)
      for (std::size_t k = 0; k < pixels; ++k) out.push_back(v[plane * pixels + k]);
    return out;
  };
  const auto got = weight_grads<T>(g, all);
  for (std::size_t plane = 0; plane < inputs * outputs; ++plane) {
    CAPTURE(plane);
    Operands alone(one, Random(0));
    alone.x = channel_of(all.x, inputs, plane % inputs), alone.gy = channel_of(all.gy, outputs, plane / inputs);
    const auto expected = compute<double>(one, alone, ConvAlgorithm::direct).gw;
    for (std::size_t way = 0; way < got.size(); ++way) {
      CAPTURE(way);
      const auto begin = got[way].begin() + static_cast<std::ptrdiff_t>(plane * taps);
      const std::vector<T> here(begin, begin + g.taps());
      if (std::isnan(expected[0]))
        CHECK(std::all_of(here.begin(), here.end(), [](T v) { return std::isnan(v); }));
      else
        CHECK(error(here, expected) <= (sizeof(T) == 4 ? 1e-5 : 1e-12));
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("the weights between two channels have a gradient that other channels do not touch", T, float,
                   double) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double of_inputs[] = {1e6, 1, 1e6, nan, 0}, of_outputs[] = {1, 1, nan, 300, 1e-6, 1};
  for (const Index kernel : {3, 9, 15}) {
    CAPTURE(kernel);
    const ConvGeometry g = same(2, 5, 40, 40, 6, kernel);
    Operands all(g, Random(31));
    const auto pixels = static_cast<std::size_t>(g.in_pixels());
    for (std::size_t k = 0; k < all.x.size(); ++k) all.x[k] *= of_inputs[k / pixels % 5];
    for (std::size_t k = 0; k < all.gy.size(); ++k) all.gy[k] *= of_outputs[k / pixels % 6];
    check_channels_apart<T>(g, all);
  }
  {
    // What the first channel's tiles have in common lies beyond the kernel: its gradient is 0.
    const ConvGeometry g = same(1, 2, 24, 24, 1, 5);
    Operands all(g, Random(37));
    for (std::size_t k = 0; k < 24 * 24; ++k) {
      if (k % 24 >= 6) all.x[k] = 0;
      if (k % 24 < 18) all.gy[k] = 0;
      all.x[24 * 24 + k] *= sizeof(T) == 4 ? 1e-12 : 1e-15;
    }
    const auto alone = weight_grads<T>(same(1, 1, 24, 24, 1, 5), [&] {
      Operands second = all;
      second.x.erase(second.x.begin(), second.x.begin() + 24 * 24);
      return second;
    }());
    const auto got = weight_grads<T>(g, all);
    for (std::size_t way = 0; way < got.size(); ++way) {
      CAPTURE(way);
      CHECK(error(std::vector<T>(got[way].begin() + 25, got[way].end()),
                  std::vector<double>(alone[way].begin(), alone[way].end())) <= (sizeof(T) == 4 ? 1e-6 : 1e-14));
    }
  }
  // Two images, one tile or several each, and a channel in which only the second counts, of which one side is small.
  for (const Index size : {20, 33, 70})
    for (const bool small_x : {false, true})
      for (const bool zero_x : {false, true}) {
        CAPTURE(size);
        CAPTURE(small_x);
        CAPTURE(zero_x);
        const ConvGeometry g = same(2, 2, size, size, 2, 5);
        Operands all(g, Random(41));
        const auto pixels = static_cast<std::size_t>(g.in_pixels());
        for (std::size_t k = 0; k < pixels; ++k) {
          (small_x ? all.x : all.gy)[3 * pixels + k] *= 1e-6;
          (zero_x ? all.x : all.gy)[pixels + k] = 0;
        }
        check_channels_apart<T>(g, all);
      }
}

TEST_CASE_TEMPLATE("a rounded spectrum is made a real tile's", T, float, double) {
  Random random(43);
  for (const int side : cpu::detail::tile_sides)
    cpu::detail::with_tile_side(side, [&](auto n) {
      using Transform = TileTransform<n, T>;
      CAPTURE(side);
      const Index stride = 3 * Transform::complex_size;
      std::vector<T> spectrum(static_cast<std::size_t>(Transform::packets * stride));
      for (T& v : spectrum) v = static_cast<T>(random.uniform(-1, 1));
      const std::vector<T> before = spectrum;
      Transform::make_real(spectrum.data(), stride);
      // Where the number of frequency (ky, kx) is, its real part; the imaginary part is a packet behind.
      const auto place = [&](int ky, int kx) {
        for (int j = 0; j < Transform::groups; ++j)
          for (int l = 0; l < Transform::lanes; ++l)
            if (Transform::ky(j, l) == ky) return static_cast<std::size_t>((j * Transform::half + kx) * stride + l);
        return std::size_t{0};
      };
      std::vector<T> expected = before;
      for (const int kx : {0, n / 2})
        for (int ky = 0; ky < n; ++ky) {
          const std::size_t at = place(ky, kx), negative = place((n - ky) % n, kx), im = Transform::lanes;
          expected[at] = (before[at] + before[negative]) / 2;
          expected[at + im] = (before[at + im] - before[negative + im]) / 2;
        }
      CHECK(spectrum == expected);
    });
}

TEST_CASE("weight gradients of output channels that fill packets and of others agree with the definition") {
  std::vector<ConvGeometry> geometries;
  for (const Index kernel : {2, 3, 4, 5, 7, 9}) geometries.push_back(same(2, 9, 17, 21, 33, kernel));
  for (const Index width : {1, 5, 15, 16, 17, 150, 300, 1025}) geometries.push_back(same(1, 6, 7, width, 16, 3));
  for (const Index in : {5, 6, 7, 8}) geometries.push_back(same(1, in, 60, 150, 16, 3));  // more than one band
  geometries.push_back(same(1, 96, 40, 40, 16, 3));  // more channels than a band takes
  geometries.push_back({2, 17, 13, 40, 35, 1, 9, 1, 1, 0, 4});
  geometries.push_back({1, 3, 40, 13, 32, 9, 1, 1, 1, 4, 0});
  geometries.push_back({1, 2, 9, 9, 17, 1, 1, 1, 1, 2, 3});
  geometries.push_back({1, 9, 15, 31, 48, 2, 3, 1, 1, 0, 0, 3, 2});
  geometries.push_back({2, 18, 9, 20, 54, 3, 5, 1, 1, 1, 2, 1, 1, 3});
  check_all(geometries);
}

TEST_CASE("strides, dilations and groups agree with the definition") {
  check_all({
      {2, 3, 17, 19, 4, 3, 3, 2, 2, 1, 1},
      {2, 3, 17, 19, 4, 5, 3, 3, 2, 2, 1},
      {1, 3, 16, 18, 4, 4, 4, 2, 3, 0, 3},
      {1, 2, 7, 8, 2, 1, 1, 2, 3},
      {2, 3, 17, 40, 4, 3, 5, 1, 1, 2, 4, 2, 2},
      {1, 3, 15, 11, 4, 2, 3, 1, 1, 0, 0, 3, 2},
      {1, 2, 15, 21, 2, 3, 3, 2, 2, 2, 2, 2, 2},
      {2, 4, 9, 10, 6, 3, 3, 1, 1, 1, 1, 1, 1, 2},
      {2, 6, 9, 10, 6, 5, 5, 1, 1, 2, 2, 1, 1, 6},
      {1, 6, 9, 20, 12, 3, 3, 2, 1, 1, 1, 1, 2, 3},
      {3, 4, 33, 40, 4, 1, 1, 1, 1, 0, 0, 1, 1, 4},
  });
}

TEST_CASE("convolutions without images, channels or output are empty or zero") {
  check_all({
      same(0, 3, 8, 9, 4, 3),
      same(2, 0, 8, 9, 4, 3),
      same(2, 3, 8, 9, 0, 3),
      same(2, 3, 0, 9, 4, 3),
      {2, 3, 4, 9, 4, 7, 3},  // the kernel is larger than the image
      {0, 3, 17, 19, 4, 3, 3, 2, 2, 1, 1},
  });
}

TEST_CASE("convolutions give the same bits every time, for any number of threads") {
  const int before = ThreadPool::instance().size();
  for (const auto& g : {same(3, 7, 40, 37, 9, 3), same(2, 5, 64, 64, 6, 9), same(4, 6, 33, 20, 5, 1)}) {
    const Reference reference(g, Random(3));
    for (const ConvAlgorithm algorithm : algorithms) {
      CAPTURE(static_cast<int>(algorithm));
      for (const int threads : {1, 2, 3}) {
        ThreadPool::instance().resize(threads);
        const auto first = compute<float>(g, reference, algorithm);
        CHECK(compute<float>(g, reference, algorithm) == first);
        CHECK(error(first.gw, reference.gw) <= 1e-5);
        CHECK(error(first.y, reference.y) <= 1e-5);
      }
    }
  }
  ThreadPool::instance().resize(before);
}

TEST_CASE("a repeated convolution asks the system for no memory and leaves none in use") {
  const ConvGeometry g = same(2, 6, 50, 41, 7, 5);
  const Operands operands(g, Random(5));
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    std::shared_ptr<void> slot;
    compute<float>(g, operands, algorithm, &slot);
    const auto before = Memory::instance().use();
    compute<float>(g, operands, algorithm, &slot);
    const auto after = Memory::instance().use();
    CHECK(after.allocations == before.allocations);
    CHECK(after.current == before.current);
  }
}

TEST_CASE("one cache of weights serves both directions and several images, and is lost when the weights change") {
  Random random(11);
  Tensor<double> w = uniform<double>(Shape{4, 3, 9, 9}, -1, 1, random);
  const ConvGeometry small = same(1, 3, 20, 24, 4, 9), large = same(2, 3, 70, 66, 4, 9);
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    for (int round = 0; round < 2; ++round) {
      CHECK(*w.derived() == nullptr);
      for (const auto& g : {small, large, small}) {
        Operands operands(g, Random(13));
        std::copy(w.data(), w.data() + w.size(), operands.w.begin());
        const auto plain = compute<double>(g, operands, algorithm);
        const auto cached = compute<double>(g, operands, algorithm, w.derived());
        CHECK(error(cached.y, plain.y) <= 1e-12);
        CHECK(error(cached.gx, plain.gx) <= 1e-12);
      }
      CHECK(*w.derived() != nullptr);
      w.mutable_data()[5] += 1;
    }
  }
}

TEST_CASE("a cache filled for one shape of the weights is not used for another") {
  const ConvGeometry wide = same(1, 4, 33, 20, 2, 3), narrow = same(1, 2, 33, 20, 4, 3);
  const Operands first(wide, Random(1));
  Operands second(narrow, Random(2));
  second.w = first.w;
  for (const ConvAlgorithm algorithm : algorithms) {
    CAPTURE(static_cast<int>(algorithm));
    std::shared_ptr<void> slot;
    compute<double>(wide, first, algorithm, &slot);
    const auto plain = compute<double>(narrow, second, algorithm), cached = compute<double>(narrow, second, algorithm,
                                                                                          &slot);
    CHECK(error(cached.y, plain.y) <= 1e-12);
    CHECK(error(cached.gx, plain.gx) <= 1e-12);
  }
}

TEST_CASE("the cost model takes each algorithm where it is fast, and gemm where the one asked for cannot serve") {
  using enum ConvAlgorithm;
  for (const ConvDirection d : {ConvDirection::forward, ConvDirection::input_grad, ConvDirection::weight_grad}) {
    CHECK(choose_algorithm(same(1, 25, 150, 150, 25, 15), d) == fft);
    CHECK(choose_algorithm(same(4, 25, 150, 150, 25, 9), d) == fft);
    CHECK(choose_algorithm(same(1, 12, 32, 32, 12, 3), d) == direct);
    CHECK(choose_algorithm(same(1, 25, 150, 150, 25, 1), d) == direct);
    CHECK(choose_algorithm(same(1, 1, 64, 64, 8, 7), d) == direct);
    ConvGeometry g = same(1, 8, 64, 64, 8, 15);
    CHECK(choose_algorithm(g, d, direct) == direct);
    CHECK(choose_algorithm(g, d, gemm) == gemm);
    g.dilation_h = 2;
    CHECK(choose_algorithm(g, d, fft) == gemm);
    CHECK(choose_algorithm(g, d) == direct);
    g.stride_w = 2;
    CHECK(choose_algorithm(g, d) == gemm);
    CHECK(choose_algorithm(g, d, direct) == gemm);
    CHECK(choose_algorithm(same(1, 2, 90, 90, 2, 65), d, fft) == gemm);
    const auto side = [&](const ConvGeometry& layer) {
      return cpu::detail::plan_convolution(layer, d, fft, true).tile_side;
    };
    CHECK(side(same(8, 25, 64, 64, 25, 9)) == 32);
    CHECK(side(same(8, 25, 64, 64, 25, 15)) == 48);
    CHECK(side(same(4, 25, 150, 150, 25, 15)) == 64);
    // Transforms of the weights' gradient are dearer: smaller tiles where images are few or small.
    const bool weights = d == ConvDirection::weight_grad;
    CHECK(side(same(8, 25, 32, 32, 25, 15)) == (weights ? 32 : 48));
    CHECK(side(same(1, 25, 150, 150, 25, 15)) == (weights ? 48 : 64));
  }
}

template <int n, class T>
void check_transform() {
  using Transform = TileTransform<n, T>;
  using Complex = std::complex<double>;
  Random random(17);
  const auto tiles = uniform<T>(Shape{2, n, n}, -1, 1, random);
  const T* a = tiles.data();
  const T* b = a + n * n;
  std::vector<T> spectrum(2 * Transform::packets * Transform::complex_size);
  const auto tile = [](auto* plane) {
    return TileWindow<std::remove_pointer_t<decltype(plane)>>{plane, 0, n, 0, n, 0, n};
  };
  Transform::forward(tile(a), tile(b), spectrum.data(), 2 * Transform::complex_size, true,
                     [](int, int, Packet<T>, Packet<T>) {});

  std::array<Complex, n> roots;
  for (int k = 0; k < n; ++k) roots[static_cast<std::size_t>(k)] = std::polar(1.0, -2 * std::acos(-1.0) * k / n);
  const auto root = [&](int k) { return roots[static_cast<std::size_t>(k % n)]; };
  std::vector<Complex> rows(n * n);  // [y][kx]
  for (int y = 0; y < n; ++y)
    for (int k = 0; k < n; ++k)
      for (int x = 0; x < n; ++x)
        rows[static_cast<std::size_t>(y * n + k)] += Complex(a[y * n + x], b[y * n + x]) * root(k * x);
  const auto expected = [&](int ky, int kx) {
    Complex z = 0;
    for (int y = 0; y < n; ++y) z += rows[static_cast<std::size_t>(y * n + kx)] * root(ky * y);
    return z;
  };
  const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-12;
  for (int j = 0; j < Transform::groups; ++j)
    for (int kx = 0; kx < Transform::half; ++kx)
      for (int lane = 0; lane < Transform::lanes; ++lane) {
        const T* at = spectrum.data() + (j * Transform::half + kx) * 2 * Transform::complex_size + lane;
        const int ky = Transform::ky(j, lane);
        const Complex z = expected(ky, kx), negative = std::conj(expected((n - ky) % n, (n - kx) % n));
        REQUIRE(std::abs(Complex(at[0], at[Transform::lanes]) - z) <= tolerance);
        at += Transform::complex_size;
        REQUIRE(std::abs(Complex(at[0], at[Transform::lanes]) - negative) <= tolerance);
      }

  std::vector<T> back(2 * n * n);
  Transform::inverse(
      [&](int p, int column) {
        return Transform::read(spectrum.data() + (2 * p + column) * Transform::complex_size);
      },
      tile(back.data()), tile(back.data() + n * n));
  for (int i = 0; i < 2 * n * n; ++i)
    REQUIRE(std::abs(static_cast<double>(back[static_cast<std::size_t>(i)]) / (n * n) - a[i]) <= tolerance);
}

TEST_CASE_TEMPLATE("the transpose of a square of packets exchanges positions and lanes", T, float, double) {
  constexpr int lanes = packet_size<T>;
  T numbers[lanes * lanes];
  for (int i = 0; i < lanes * lanes; ++i) numbers[i] = static_cast<T>(i);
  Packet<T> square[lanes];
  for (int r = 0; r < lanes; ++r) square[r] = load(numbers + r * lanes);
  cpu::detail::transpose(square);
  for (int r = 0; r < lanes; ++r)
    for (int l = 0; l < lanes; ++l) CHECK(T(square[r][l]) == numbers[l * lanes + r]);
}

TEST_CASE_TEMPLATE("the transform of a pair of tiles agrees with the definition and its inverse returns the tiles", T,
                   float, double) {
  for (const int side : cpu::detail::tile_sides) {
    CAPTURE(side);
    cpu::detail::with_tile_side(side, [](auto n) { check_transform<n, T>(); });
  }
}
