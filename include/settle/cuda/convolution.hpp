#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "settle/cpu/convolution/cache.hpp"
#include "settle/cuda/convolution_plan.hpp"
#include "settle/cuda/matmul.hpp"
#include "settle/kernels/convolution_fft.hpp"
#include "settle/kernels/convolution_gemm.hpp"

// Convolution on the device and its two derivatives: by tiles in the frequency domain, by cuDNN, or by products of
// matrices.
namespace settle::inline v0_2::cuda {

/// While it lives, the tiles of this thread's convolutions store their spectra as bfloat16: `cuda::AllowBf16Spectra
/// allow;`. Half the way through memory, for a relative error (L2) of some 3e-3, and never without being asked for.
/// Images, weights, results and all arithmetic stay float32.
class AllowBf16Spectra {
 public:
  AllowBf16Spectra() : scope_(current(), kernels::Spectra::bfloat16) {}

  /// What this thread's spectra are stored as.
  static kernels::Spectra storage() { return current(); }

 private:
  static kernels::Spectra& current() {
    thread_local kernels::Spectra storage = kernels::Spectra::float32;
    return storage;
  }

  ScopedValue<kernels::Spectra> scope_;
};

/// The algorithm for a convolution, where automatic is asked for as well as otherwise: fft are tiles of 64 x 64, which
/// compute in float32; direct are cuDNN's engines, which give way to gemm where cuDNN has none; gemm serves all
/// geometries, and float64 always.
template <Scalar T>
ConvAlgorithm choose_algorithm(const cpu::ConvGeometry& g, ConvAlgorithm asked, bool tf32,
                               kernels::Spectra storage = kernels::Spectra::float32) {
  using enum ConvAlgorithm;
  if (std::is_same_v<T, double> || asked == gemm) return gemm;
  if (asked == direct || !kernels::FftConvolution::serves(g)) return asked == fft ? gemm : direct;
  if (asked == fft) return fft;
  // A model: tiles are bound by moving the spectra of all channels, taps by multiplying, which TF32 does faster. A
  // quarter of what moves are the images, which bfloat16 does not halve.
  const Index taps = g.taps() * g.out_pixels() * g.in_channels * g.out_channels;
  const Index spectra = 2 * 64 * 64 * kernels::FftConvolution(g).pairs_of_image() * (g.in_channels + g.out_channels);
  const Index eighths = storage == kernels::Spectra::bfloat16 ? 5 : 8;
  return 8 * taps >= (tf32 ? 500 : 75) * eighths * spectra ? fft : direct;
}

namespace detail {

/// The process-wide cuDNN.
struct ProcessCudnn {
  Cudnn library{libraries_folder()};
  CudnnHandle handle{library, Context::instance().stream(false)};
  std::mutex mutex;  ///< of the handle: one thread at a time may search plans or execute them
  ConvPlans strict{library, handle};
  ConvPlans with_tf32{library, handle, {.tf32 = true}};
};

/// Null where there is no cuDNN. Throws Error when it is there and does not work.
inline ProcessCudnn* process_cudnn() {
  static ProcessCudnn* instance =
      Cudnn(libraries_folder()).library.usable() ? new ProcessCudnn : nullptr;  // never destroyed, as the context
  return instance;
}

/// Runs a product by cuDNN; returns whether it has a plan.
template <Scalar T>
bool by_cudnn(const cpu::ConvGeometry& g, ConvProduct product, const T* x, const T* w, const T* y) {
  ProcessCudnn* const cudnn = process_cudnn();
  if (!cudnn) return false;
  const std::lock_guard lock(cudnn->mutex);
  const ConvPlan* const plan = (AllowTf32::allowed() ? cudnn->with_tf32 : cudnn->strict).find<T>(g, product);
  if (!plan) return false;
  auto workspace = cpu::detail::workspace<float, Cuda>((plan->workspace + 3) / 4);
  cudnn->handle.work_in(Context::instance().stream());
  execute(cudnn->library, cudnn->handle, *plan, x, w, y, workspace.mutable_data());
  return true;
}

inline constexpr auto launch_kernel = [](const kernels::Kernel& kernel, const kernels::Grid& grid, void** arguments) {
  Context::instance().launch(kernel, grid, arguments);
};
inline constexpr auto multiply_matrices = [](const kernels::MatrixProduct& p, const auto* a, const auto* b, auto* c) {
  blas().multiply(p, a, b, c, AllowTf32::allowed());
};

/// The weights' spectra: from their slot, where they stay, by their storage, until the weights change.
inline Tensor<float, Cuda> spectra_of(const kernels::FftConvolution& tiles, const cpu::ConvGeometry& g, const float* w,
                                      std::shared_ptr<void>* slot) {
  using Cache = cpu::detail::WeightCache<float, Cuda>;
  return Cache::get(slot, Cache::key(Cache::Form::spectra, tiles.spectrum(), g), tiles.weight_spectra(),
                    [&](float* spectra) { tiles.transform_weights(launch_kernel, w, spectra); });
}

/// What tiles leave beside their result: the moments [part][channel] of the parts of its channels.
struct PartMoments {
  Shape shape;  ///< of the result
  Tensor<double, Cuda> numbers;

  kernels::Moments* data() { return reinterpret_cast<kernels::Moments*>(numbers.mutable_data()); }
};

/// One of the three products, into `result`, which is one of x, w and y: by_tiles(FftConvolution, scratch),
/// which is asked of float32 only, and by_matrices(GemmConvolution, scratch) compute it.
template <Scalar T, class ByTiles, class ByMatrices>
void convolution(const cpu::ConvGeometry& g, ConvProduct product, ConvAlgorithm asked, const T* x, const T* w,
                 const T* y, T* result, Index size, const ByTiles& by_tiles, const ByMatrices& by_matrices) {
  if (size == 0) return;
  if (g.multiply_adds() == 0) return Context::instance().zero(result, static_cast<std::size_t>(size) * sizeof(T));
  const kernels::Spectra storage = AllowBf16Spectra::storage();
  const ConvAlgorithm algorithm = choose_algorithm<T>(g, asked, AllowTf32::allowed(), storage);
  if constexpr (std::is_same_v<T, float>) {
    if (algorithm == ConvAlgorithm::fft) {
      const kernels::FftConvolution tiles(g, storage);
      return by_tiles(tiles, cpu::detail::workspace<float, Cuda>(tiles.scratch()).mutable_data());
    }
  }
  if (algorithm == ConvAlgorithm::direct && by_cudnn(g, product, x, w, y)) return;
  const kernels::GemmConvolution<T> matrices(g);
  by_matrices(matrices, cpu::detail::workspace<T, Cuda>(matrices.scratch()).mutable_data());
}

}  // namespace detail

/// y = conv(x, w). Where there is a slot for what is derived from w, its spectra stay there; where there is one for
/// what is found on the way to y, tiles leave the moments of its channels there, for channel_moments().
template <Scalar T>
void conv_forward(const cpu::ConvGeometry& g, const T* x, const T* w, T* y, ConvAlgorithm asked,
                  std::shared_ptr<void>* slot, std::shared_ptr<void>* byproduct = nullptr) {
  detail::convolution(
      g, ConvProduct::convolution, asked, x, w, y, y, g.out_size(),
      [&](const auto& tiles, float* scratch) {
        kernels::Moments* moments = nullptr;
        if (byproduct) {
          const MemoryTag tag("channel moments");
          const auto left = std::make_shared<detail::PartMoments>(
              detail::PartMoments{{g.batch, g.out_channels, g.out_height(), g.out_width()},
                                  Tensor<double, Cuda>(Shape{tiles.parts(), g.out_channels, 3})});
          moments = left->data();
          *byproduct = left;
        }
        tiles.convolve(detail::launch_kernel, x, detail::spectra_of(tiles, g, w, slot).data(), y, scratch, moments);
      },
      [&](const kernels::GemmConvolution<T>& matrices, T* scratch) {
        matrices.convolve(detail::launch_kernel, detail::multiply_matrices, x, w, y, scratch);
      });
}

/// A constant near the mean of each channel of x (N, C, H, W), and the sums of the distances from it and of their
/// squares, all (1, C, 1, 1), where the convolution that made x left what they follow from; otherwise nothing.
template <Scalar T>
std::vector<Tensor<T, Cuda>> channel_moments(const Tensor<T, Cuda>& x) {
  std::vector<Tensor<T, Cuda>> out;
  if constexpr (std::is_same_v<T, float>) {  // as tiles
    if (!x.byproduct() || !*x.byproduct()) return out;
    const auto& left = *static_cast<const detail::PartMoments*>(x.byproduct()->get());
    if (left.shape != x.shape()) return out;
    for (int k = 0; k < 3; ++k) out.emplace_back(Shape{1, x.shape(1), 1, 1});
    launch(kernels::merge_moments(), {kernels::groups_of(1, x.shape(1)), 1, 256, 1},
           static_cast<std::int32_t>(left.numbers.shape(0)), left.numbers.data(), out[0].mutable_data(),
           out[1].mutable_data(), out[2].mutable_data());
  }
  return out;
}

/// gx, the derivative of <gy, conv(x, w)> by x.
template <Scalar T>
void conv_input_grad(const cpu::ConvGeometry& g, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                     std::shared_ptr<void>* slot) {
  detail::convolution(
      g, ConvProduct::input_gradient, asked, gx, w, gy, gx, g.in_size(),
      [&](const auto& tiles, float* scratch) {
        tiles.input_gradient(detail::launch_kernel, gy, detail::spectra_of(tiles, g, w, slot).data(), gx, scratch);
      },
      [&](const kernels::GemmConvolution<T>& matrices, T* scratch) {
        matrices.input_gradient(detail::launch_kernel, detail::multiply_matrices, gy, w, gx, scratch);
      });
}

/// gw, the derivative of <gy, conv(x, w)> by w.
template <Scalar T>
void conv_weight_grad(const cpu::ConvGeometry& g, const T* x, const T* gy, T* gw, ConvAlgorithm asked) {
  detail::convolution(
      g, ConvProduct::weight_gradient, asked, x, gw, gy, gw, g.weight_size(),
      [&](const auto& tiles, float* scratch) { tiles.weight_gradient(detail::launch_kernel, x, gy, gw, scratch); },
      [&](const kernels::GemmConvolution<T>& matrices, T* scratch) {
        matrices.weight_gradient(detail::launch_kernel, detail::multiply_matrices, x, gy, gw, scratch);
      });
}

}  // namespace settle::cuda
