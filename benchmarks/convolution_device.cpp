// Convolutions on a CUDA device: milliseconds of each product by each algorithm, beside the one that is chosen; and of
// tiles with spectra as bfloat16, and by the number of images in a chunk. `convolution_device [BATCH [CHANNELS [SIZE
// [ROUNDS]]]]`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <utility>

#include "settle/cuda/convolution.hpp"

using namespace settle;

namespace {

/// The shortest of some rounds, in milliseconds, after one that compiles, plans and allocates.
double time_of(int rounds, const std::function<void()>& action) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int k = 0; k <= rounds; ++k) {
    cuda::Context::instance().synchronise();
    const auto start = Clock::now();
    action();
    cuda::Context::instance().synchronise();
    const std::chrono::duration<double, std::milli> taken = Clock::now() - start;
    if (k > 0) best = std::min(best, taken.count());
  }
  return best;
}

const char* name_of(ConvAlgorithm algorithm) {
  return algorithm == ConvAlgorithm::fft ? "fft" : algorithm == ConvAlgorithm::direct ? "direct" : "gemm";
}

}  // namespace

int main(int count, char** arguments) {
  const cuda::Probe probe = cuda::probe(cuda::Runtime(cuda::libraries_folder()));
  std::printf("%s\n", probe.sentence.c_str());
  if (probe.status != cuda::Status::ready) return 77;
  const auto argument = [&](int k, Index usual) { return k < count ? Index{std::atol(arguments[k])} : usual; };
  const Index batch = argument(1, 128), channels = argument(2, 25), size = argument(3, 150);
  const int rounds = static_cast<int>(argument(4, 10));
  std::printf("%s; batch %td, %td channels, %td x %td; milliseconds\n",
              cuda::Context::instance().architecture().c_str(), batch, channels, size, size);
  std::printf("kernel precision product          fft  direct    gemm  chosen\n");
  for (const Index kernel : {1, 3, 5, 7, 9, 15}) {
    const auto g = cpu::ConvGeometry::same(batch, channels, size, size, channels, kernel);
    Random random(1);
    const auto x = uniform<float, Cuda>(Shape{g.in_size()}, -1, 1, random);
    const auto w = uniform<float, Cuda>(Shape{g.weight_size()}, -1, 1, random);
    const auto gy = uniform<float, Cuda>(Shape{g.out_size()}, -1, 1, random);
    Tensor<float, Cuda> y(gy.shape()), gx(x.shape()), gw(w.shape());
    const std::pair<const char*, std::function<void(ConvAlgorithm)>> products[] = {
        {"convolution",
         [&](ConvAlgorithm a) { cuda::conv_forward(g, x.data(), w.data(), y.mutable_data(), a, w.derived()); }},
        {"by the input",
         [&](ConvAlgorithm a) { cuda::conv_input_grad(g, gy.data(), w.data(), gx.mutable_data(), a, w.derived()); }},
        {"by the weights",
         [&](ConvAlgorithm a) { cuda::conv_weight_grad(g, x.data(), gy.data(), gw.mutable_data(), a); }}};
    const auto print_products = [&](bool tf32) {
      for (const auto& product : products) {
        std::printf("%6td %-9s %-14s", kernel, tf32 ? "TF32" : "float32", product.first);
        for (const ConvAlgorithm a : {ConvAlgorithm::fft, ConvAlgorithm::direct, ConvAlgorithm::gemm})
          std::printf(" %7.3f", time_of(rounds, [&] { product.second(a); }));
        std::printf("  %s\n", name_of(cuda::choose_algorithm<float>(g, ConvAlgorithm::automatic, tf32)));
      }
    };
    print_products(false);
    {
      const cuda::AllowTf32 allow;
      print_products(true);
    }
    {
      const cuda::AllowBf16Spectra allow;
      for (const auto& product : products)
        std::printf("%6td %-9s %-14s %7.3f\n", kernel, "bfloat16", product.first,
                    time_of(rounds, [&] { product.second(ConvAlgorithm::fft); }));
    }
    if (kernel != 15) continue;
    std::printf("images of a chunk, convolution by tiles:");
    for (Index images = 2; images <= batch; images *= 2) {
      const kernels::FftConvolution tiles(g, kernels::Spectra::float32, images);
      auto scratch = cpu::detail::workspace<float, Cuda>(tiles.scratch());
      const auto spectra = cuda::detail::spectra_of(tiles, g, w.data(), w.derived());
      std::printf("  %td: %.3f", images, time_of(rounds, [&] {
                    tiles.convolve(cuda::detail::launch_kernel, x.data(), spectra.data(), y.mutable_data(),
                                   scratch.mutable_data());
                  }));
    }
    std::printf("\n");
  }
}
