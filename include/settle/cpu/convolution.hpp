#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "settle/cpu/convolution/cache.hpp"
#include "settle/cpu/convolution/direct.hpp"
#include "settle/cpu/convolution/fft.hpp"
#include "settle/cpu/convolution/gemm.hpp"
#include "settle/cpu/convolution/weight_grad.hpp"
#include "settle/cpu/note_slow_build.hpp"

// The three convolutions of a layer on plain arrays: y = conv(x, w), its gradient in x and its gradient in w.
// They are the partial derivatives of one form, sum gy · conv(x, w). Results are overwritten unless it says otherwise;
// the same call gives the same bits for the same number of threads on the same processor.

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

enum class ConvDirection { forward, input_grad, weight_grad };

namespace detail {

/// The sides of the tiles that the transforms take, in pixels.
inline constexpr std::array tile_sides{32, 48, 64};

/// What choose_algorithm decides: an algorithm, for fft with its transform's side.
struct ConvPlan {
  ConvAlgorithm algorithm;
  int tile_side = 0;
};

/// The work of the frequency domain, in multiply-adds at the speed that the direct algorithm reaches. A transform of
/// one channel's tile costs 5.4 n² log2 n such (measured, with its share of memory traffic), a frequency of a pair of
/// channels 4, and 16 once a call for the weights' spectrum, which comes from afar. Transforms of weights are free when
/// they are kept for many calls. Those of a weight gradient, in double precision, were measured to take 1.5 of what
/// that gives, the rest of it 0.9.
inline double fft_cost(const ConvGeometry& g, ConvDirection direction, int n, bool spectra_kept) {
  if (4 * std::max(g.kernel_height, g.kernel_width) > 3 * n) return std::numeric_limits<double>::infinity();
  const TilePlan plan(direction == ConvDirection::input_grad ? transposed(g) : g, n);
  const double tiles = static_cast<double>(plan.count);
  const double channels = static_cast<double>(g.in_channels + g.out_channels);
  const double pairs = static_cast<double>(g.in_channels * g.out_channels);
  const double transform = 5.4 * n * n * std::log2(n), frequencies = n * (n / 2 + 1);
  const double of_weights = pairs * transform;
  const double rest = tiles * (channels * transform + 4 * pairs * frequencies) + 16 * pairs * frequencies;
  if (direction == ConvDirection::weight_grad) return 0.9 * rest + 1.5 * of_weights;
  return spectra_kept ? rest : rest + of_weights;
}

/// The work of the direct algorithm in the same unit. On a processor with wide units a multiply-add of a weight
/// gradient was measured to take 0.5 where output channels are lanes and 0.9 elsewhere; on another 1, as in all
/// directions.
inline double direct_cost(const ConvGeometry& g, ConvDirection direction) {
  const double all = static_cast<double>(g.multiply_adds());
  if (direction != ConvDirection::weight_grad || !wide_units()) return all;
  const auto outputs = static_cast<double>(g.out_channels / g.groups);
  const auto in_lanes = static_cast<double>(outputs_in_lanes<float>(g));
  return all * (0.5 * in_lanes + 0.9 * (outputs - in_lanes)) / outputs;
}

/// `spectra_kept`: there is a slot that keeps what is derived from the weights.
inline ConvPlan plan_convolution(const ConvGeometry& g, ConvDirection direction, ConvAlgorithm asked,
                                 bool spectra_kept) {
  const bool dense = g.stride_h == 1 && g.stride_w == 1;
  if (!dense || asked == ConvAlgorithm::gemm || g.in_size() == 0 || g.out_size() == 0) return {ConvAlgorithm::gemm};
  if (asked == ConvAlgorithm::direct) return {ConvAlgorithm::direct};
  double fft = std::numeric_limits<double>::infinity();
  int tile_side = 0;
  if (g.groups == 1 && g.dilation_h == 1 && g.dilation_w == 1)
    for (const int n : tile_sides)
      if (const double cost = fft_cost(g, direction, n, spectra_kept); cost < fft) fft = cost, tile_side = n;
  if (asked == ConvAlgorithm::fft) return {tile_side ? ConvAlgorithm::fft : ConvAlgorithm::gemm, tile_side};
  const bool frequencies = fft < direct_cost(g, direction);
  return frequencies ? ConvPlan{ConvAlgorithm::fft, tile_side} : ConvPlan{ConvAlgorithm::direct};
}

/// Calls f(std::integral_constant<int, n>) for the transform's side n, one of tile_sides.
template <class F>
void with_tile_side(int n, const F& f) {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (void)((n == tile_sides[i] && (f(std::integral_constant<int, tile_sides[i]>{}), true)) || ...);
  }
  (std::make_index_sequence<tile_sides.size()>{});
}

/// The weights in one of the packed orders, from the cache or made by pack(geometry, w, T*).
template <class T>
Tensor<T> packed_weights(typename WeightCache<T>::Form form, void (*pack)(const ConvGeometry&, const T*, T*),
                         const ConvGeometry& g, const T* w, std::shared_ptr<void>* slot) {
  return WeightCache<T>::get(slot, WeightCache<T>::key(form, 0, g), g.weight_size(),
                             [&](T* packed) { pack(g, w, packed); });
}

template <class T>
void fft_convolve(const ConvGeometry& g, int tile_side, const T* x, const T* w, bool transpose, T* y, bool add,
                  std::shared_ptr<void>* slot) {
  with_tile_side(tile_side, [&](auto n) {
    using Cache = WeightCache<T>;
    const auto spectra = Cache::get(slot, Cache::key(Cache::Form::spectra, n, g), spectra_size<n, T>(g),
                                    [&](T* out) { weight_spectra<n>(g, w, out); });
    fft_apply<n>(g, x, spectra.data(), transpose, y, add, [&] {
      return packed_weights<T>(transpose ? Cache::Form::packed_turned : Cache::Form::packed,
                               transpose ? pack_weights_turned<T> : pack_weights<T>, g, w, slot);
    });
  });
}

}  // namespace detail

/// The algorithm that computes one direction of a convolution: the one asked for where it can serve the geometry (else
/// gemm), or the one that takes the least time by a cost model that was fitted to measurements: fft for large kernels
/// and many channels, direct for small ones, gemm for strides above 1. The weights' spectra are taken to be kept.
inline ConvAlgorithm choose_algorithm(const ConvGeometry& geometry, ConvDirection direction,
                                      ConvAlgorithm asked = ConvAlgorithm::automatic) {
  return detail::plan_convolution(geometry, direction, asked, true).algorithm;
}

/// y (N, O, H', W') = the cross-correlation of x (N, C, H, W) with w (O, C / groups, kh, kw), as PyTorch's conv2d.
/// `weight_cache` may be the slot for data derived from w (Tensor::derived), to be emptied whenever w changes: what
/// depends on the weights alone, such as their spectra, is then kept there for the next call of either direction.
template <class T>
void conv_forward(const ConvGeometry& geometry, const T* x, const T* w, T* y, ConvAlgorithm asked,
                  std::shared_ptr<void>* weight_cache = nullptr) {
  if (geometry.in_channels == 0) return void(std::fill_n(y, geometry.out_size(), T{0}));
  if (geometry.multiply_adds() >= 1'000'000) detail::note_slow_build();
  const auto plan = detail::plan_convolution(geometry, ConvDirection::forward, asked, weight_cache != nullptr);
  if (plan.algorithm == ConvAlgorithm::fft)
    return detail::fft_convolve(geometry, plan.tile_side, x, w, false, y, false, weight_cache);
  const auto packed = detail::packed_weights<T>(detail::WeightCache<T>::Form::packed, detail::pack_weights<T>, geometry,
                                                w, weight_cache);
  if (plan.algorithm == ConvAlgorithm::direct)
    detail::direct_forward(geometry, x, packed.data(), y, false);
  else
    detail::gemm_forward(geometry, x, packed.data(), y);
}

/// gx (N, C, H, W) = the gradient of sum gy · conv(x, w) in x, for gy (N, O, H', W'), or that is added to gx.
template <class T>
void conv_input_grad(const ConvGeometry& geometry, const T* gy, const T* w, T* gx, ConvAlgorithm asked,
                     std::shared_ptr<void>* weight_cache = nullptr, bool add = false) {
  if (geometry.out_channels == 0) {
    if (!add) std::fill_n(gx, geometry.in_size(), T{0});
    return;
  }
  const auto plan = detail::plan_convolution(geometry, ConvDirection::input_grad, asked, weight_cache != nullptr);
  using Form = typename detail::WeightCache<T>::Form;
  if (plan.algorithm == ConvAlgorithm::fft) {
    detail::fft_convolve(geometry, plan.tile_side, gy, w, true, gx, add, weight_cache);
  } else if (plan.algorithm == ConvAlgorithm::direct) {
    const auto packed =
        detail::packed_weights<T>(Form::packed_turned, detail::pack_weights_turned<T>, geometry, w, weight_cache);
    detail::direct_forward(detail::transposed(geometry), gy, packed.data(), gx, add);
  } else {
    const auto packed =
        detail::packed_weights<T>(Form::packed_by_tap, detail::pack_weights_by_tap<T>, geometry, w, weight_cache);
    detail::gemm_input_grad(geometry, gy, packed.data(), gx, add);
  }
}

/// gw (O, C / groups, kh, kw) = the gradient of sum gy · conv(x, w) in w.
template <class T>
void conv_weight_grad(const ConvGeometry& geometry, const T* x, const T* gy, T* gw, ConvAlgorithm asked) {
  const auto plan = detail::plan_convolution(geometry, ConvDirection::weight_grad, asked, false);
  if (plan.algorithm == ConvAlgorithm::direct)
    detail::direct_weight_grad(geometry, x, gy, gw);
  else if (plan.algorithm == ConvAlgorithm::fft)
    detail::with_tile_side(plan.tile_side, [&](auto n) { detail::fft_weight_grad<n>(geometry, x, gy, gw); });
  else
    detail::gemm_weight_grad(geometry, x, gy, gw);
  // Products with a padding's zeros are not zero where the other factor is not finite.
  detail::Largest<T> found;
  found.take(0, geometry.weight_size(), gw);
  if (!(found.value() <= std::numeric_limits<T>::max())) detail::plain_weight_grad(geometry, x, gy, gw);
}

}  // namespace settle::cpu
