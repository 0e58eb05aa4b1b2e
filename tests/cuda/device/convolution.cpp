#include <doctest/doctest.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "settle/cpu/convolution.hpp"
#include "settle/cuda/convolution.hpp"

using namespace settle;
using cpu::ConvGeometry;

namespace {

template <class T>
Tensor<T, Cuda> undefined(Index size) {
  return Tensor<T, Cuda>(Shape{size}, std::numeric_limits<T>::quiet_NaN());
}

/// The largest difference from the CPU's values, against their largest.
template <class T>
double error(const Tensor<T, Cuda>& got, const Tensor<double>& expected) {
  const Tensor<T> here = to<Cpu>(got);
  double worst = 0, scale = 1e-300;
  for (Index k = 0; k < expected.size(); ++k) {
    const double difference = std::abs(static_cast<double>(here.data()[k]) - expected.data()[k]);
    if (!(difference <= worst)) worst = difference;  // not-a-number stays
    scale = std::max(scale, std::abs(expected.data()[k]));
  }
  return worst / scale;
}

/// All three products on the device against the CPU's in float64.
template <class T>
void check(const ConvGeometry& g, ConvAlgorithm asked) {
  CAPTURE(static_cast<int>(asked));
  Random random(9);
  const auto x = uniform<float>(Shape{g.in_size()}, -1, 1, random),
             w = uniform<float>(Shape{g.weight_size()}, -1, 1, random),
             gy = uniform<float>(Shape{g.out_size()}, -1, 1, random);
  const auto exact_x = cast<double>(x), exact_w = cast<double>(w), exact_gy = cast<double>(gy);
  Tensor<double> y(gy.shape()), gx(x.shape()), gw(w.shape());
  cpu::conv_forward(g, exact_x.data(), exact_w.data(), y.mutable_data(), ConvAlgorithm::gemm, nullptr);
  cpu::conv_input_grad(g, exact_gy.data(), exact_w.data(), gx.mutable_data(), ConvAlgorithm::gemm, nullptr);
  cpu::conv_weight_grad(g, exact_x.data(), exact_gy.data(), gw.mutable_data(), ConvAlgorithm::gemm);

  const auto there_x = to<Cuda>(cast<T>(x)), there_w = to<Cuda>(cast<T>(w)), there_gy = to<Cuda>(cast<T>(gy));
  auto got_y = undefined<T>(y.size()), got_gx = undefined<T>(gx.size()), got_gw = undefined<T>(gw.size());
  cuda::conv_forward(g, there_x.data(), there_w.data(), got_y.mutable_data(), asked, there_w.derived());
  cuda::conv_input_grad(g, there_gy.data(), there_w.data(), got_gx.mutable_data(), asked, there_w.derived());
  cuda::conv_weight_grad(g, there_x.data(), there_gy.data(), got_gw.mutable_data(), asked);
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 1e-14;
  CHECK(error(got_y, y) <= tolerance);
  CHECK(error(got_gx, gx) <= tolerance);
  CHECK(error(got_gw, gw) <= tolerance);
}

}  // namespace

TEST_CASE("a convolution on the device agrees with the CPU's, whichever library or kernel computes it") {
  using enum ConvAlgorithm;
  const ConvGeometry plain{2, 3, 7, 8, 4, 3, 3, 1, 1, 1, 1}, strided{2, 3, 7, 8, 2, 3, 2, 2, 3, 1, 0},
      dilated{2, 2, 9, 8, 3, 3, 3, 1, 1, 2, 2, 2, 2}, grouped{3, 4, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2};
  for (const ConvGeometry& g : {plain, strided, dilated, grouped}) {
    for (const ConvAlgorithm asked : {automatic, direct, gemm}) check<float>(g, asked);
    check<double>(g, automatic);
  }
  check<float>(plain, fft);
  check<double>(plain, fft);
  check<float>(dilated, fft);
  // Nothing to compute, or nothing to add up.
  for (const ConvGeometry& g : {ConvGeometry{0, 3, 7, 8, 4, 3, 3}, ConvGeometry{2, 0, 7, 8, 4, 3, 3},
                                ConvGeometry{2, 3, 7, 8, 0, 3, 3}, ConvGeometry{2, 3, 2, 2, 4, 3, 3}}) {
    check<float>(g, automatic);
    check<double>(g, automatic);
  }
}

TEST_CASE("tiles serve large kernels, cuDNN or products of matrices the others") {
  using enum ConvAlgorithm;
  const auto same = [](Index in, Index out, Index kernel) {
    return ConvGeometry::same(128, in, 150, 150, out, kernel);
  };
  const auto chosen = [&](Index kernel, bool tf32) {
    return cuda::choose_algorithm<float>(same(25, 25, kernel), automatic, tf32);
  };
  for (const Index kernel : {1, 3}) CHECK(chosen(kernel, false) == direct);
  for (const Index kernel : {5, 7, 9, 15}) CHECK(chosen(kernel, false) == fft);
  for (const Index kernel : {1, 3, 5, 7}) CHECK(chosen(kernel, true) == direct);
  for (const Index kernel : {9, 15}) CHECK(chosen(kernel, true) == fft);
  CHECK(cuda::choose_algorithm<float>(same(1, 25, 7), automatic, false) == direct);
  ConvGeometry strided = same(25, 25, 15);
  CHECK(cuda::choose_algorithm<double>(strided, automatic, false) == gemm);
  const auto bfloat16 = [&](Index kernel, bool tf32) {
    return cuda::choose_algorithm<float>(same(25, 25, kernel), automatic, tf32, kernels::Spectra::bfloat16);
  };
  for (const Index kernel : {1, 3, 5, 7, 9, 15}) {
    CHECK(bfloat16(kernel, false) == (kernel >= 3 ? fft : direct));
    CHECK(bfloat16(kernel, true) == (kernel >= 7 ? fft : direct));
  }
  strided.stride_h = 2;
  CHECK(cuda::choose_algorithm<float>(strided, automatic, false) == direct);
  CHECK(cuda::choose_algorithm<float>(strided, fft, false) == gemm);
}

TEST_CASE("the weights' spectra are made once for all products and lost when the weights are written") {
  const ConvGeometry g{1, 1, 8, 8, 1, 3, 3, 1, 1, 1, 1};
  Tensor<float, Cuda> w(Shape{9}, 1.0f), x(Shape{64}, 1.0f), y(Shape{64});
  const auto products = [&] {
    cuda::conv_forward(g, x.data(), w.data(), y.mutable_data(), ConvAlgorithm::fft, w.derived());
    cuda::conv_input_grad(g, x.data(), w.data(), y.mutable_data(), ConvAlgorithm::fft, w.derived());
    return to<Cpu>(y).data()[9];
  };
  const auto cached = [] {
    for (const auto& [name, use] : MemoryOf<Cuda>::instance().use_by_tag())
      if (name == "weight cache") return use.current;
    return std::size_t{0};
  };
  CHECK(cached() == 0);
  CHECK(products() == doctest::Approx(9));
  const std::size_t once = cached();
  CHECK(once == std::size_t{2 * 64 * 64 * 4});
  CHECK(products() == doctest::Approx(9));
  CHECK(cached() == once);
  Cuda::fill(w.mutable_data(), 9, 2.0f);
  CHECK(cached() == 0);
  CHECK(products() == doctest::Approx(18));
}

TEST_CASE("a repeated convolution asks the device for no memory and leaves none in use") {
  const ConvGeometry g{2, 3, 7, 8, 4, 3, 3, 1, 1, 1, 1};
  auto& memory = MemoryOf<Cuda>::instance();
  for (const ConvAlgorithm asked : {ConvAlgorithm::direct, ConvAlgorithm::gemm, ConvAlgorithm::fft}) {
    check<float>(g, asked);
    const MemoryUse before = memory.use();
    check<float>(g, asked);
    CHECK(memory.use().allocations == before.allocations);
    CHECK(memory.use().current == before.current);
  }
}

TEST_CASE("products of matrices on the device agree with the CPU's") {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const cpu::MatmulGeometry& g :
           {cpu::MatmulGeometry{3, 2, 4, 5, ta, tb}, cpu::MatmulGeometry{1, 1, 1, 1, ta, tb},
            cpu::MatmulGeometry{2, 3, 0, 2, ta, tb}, cpu::MatmulGeometry{0, 3, 2, 2, ta, tb}}) {
        Random random(2);
        const auto a = uniform<double>(Shape{g.batch * g.rows * g.inner}, -1, 1, random);
        const auto b = uniform<double>(Shape{g.batch * g.inner * g.columns}, -1, 1, random);
        Tensor<double> y(Shape{g.batch * g.rows * g.columns});
        cpu::matmul(g, a.data(), b.data(), y.mutable_data());
        auto got = undefined<double>(y.size());
        const auto there_a = to<Cuda>(a), there_b = to<Cuda>(b);
        cuda::matmul(g, there_a.data(), there_b.data(), got.mutable_data());
        CHECK(error(got, y) <= 1e-14);
      }
}
