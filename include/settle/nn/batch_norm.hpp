#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "settle/ops/reduce.hpp"
#include "settle/ops/reshape.hpp"
#include "settle/ops/slice.hpp"

namespace settle {

/// A vector of one value per channel, shaped (C, 1, 1) so that it broadcasts against (N, C, H, W).
template <class T, class D>
Var<T, D> per_channel(const Var<T, D>& x) {
  require(x.shape().rank() == 1, "per_channel", "expected a vector (C), got ", x.shape());
  return reshape(x, {x.shape(0), 1, 1});
}

/// Each channel's mean and biased variance over a batch, shaped (1, C, 1, 1).
template <class T, class Device = Cpu>
struct BatchStatistics {
  Var<T, Device> mean, variance;
};

namespace detail {

/// For each channel of x (N, C, H, W) a constant near its mean, (1, C, 1, 1): the mean over a grid of at most 8 x 8
/// pixels.
template <class T, class D>
Var<T, D> rough_mean(const Var<T, D>& x) {
  const Shape& s = x.shape();
  const Index rows = std::min<Index>(8, s[2]), columns = std::min<Index>(8, s[3]);
  const Window grid{{0, 0, 0, 0}, {s[0], s[1], rows, columns}, {1, 1, s[2] / rows, s[3] / columns}};
  return mean(slice(stop_gradient(x), grid), {0, 2, 3});
}

struct FromCentre {
  constexpr auto operator()(auto v, auto c) const { return outputs(v - c, square(v - c)); }
};

/// For each channel of x (N, C, H, W) a constant near its mean, and the sums of the distances from it and of their
/// squares, all (1, C, 1, 1): those that the operation that made x left beside it, or computed.
template <class T, class D>
std::array<Var<T, D>, 3> channel_moments(const Var<T, D>& x) {
  std::vector<Tensor<T, D>> known;
  if constexpr (requires { Backend<D>::channel_moments(x.value()); }) known = Backend<D>::channel_moments(x.value());
  Var<T, D> centre;
  if (known.empty()) {
    centre = rough_mean(x);
  } else {
    centre = known.front();
    known.erase(known.begin());
  }
  const Shape shape = centre.shape();
  const auto sums = pointwise<T, D>(PointwiseFunction<T, D>::template of<FromCentre, 2>(), x.shape(), {x, centre},
                                    {shape, shape}, {true, true}, known);
  return {centre, sums[0], sums[1]};
}

}  // namespace detail

/// The statistics of x (N, C, H, W) over N, H and W, in one pass, or none where they were found while x was made.
/// Throws Error for another rank and for an empty batch. The squares are summed about a constant near the mean: the
/// result does not depend on it, nor do its gradients, and nothing cancels where a map is almost constant, as a settled
/// state's background is.
template <class T, class D>
BatchStatistics<T, D> batch_statistics(const Var<T, D>& x) {
  require(x.shape().rank() == 4, "batch_norm", "expected (N, C, H, W), got ", x.shape());
  require(x.size() > 0, "batch_norm", "the statistics of an empty batch are undefined, got ", x.shape());
  const auto [centre, sums, squares] = detail::channel_moments(x);
  const double count = static_cast<double>(x.size()) / static_cast<double>(x.shape(1));
  const auto [average, variance] = map(
      [](auto sum, auto sum_of_squares, auto c, auto weight) {
        const auto offset = weight * sum;
        return outputs(c + offset, weight * sum_of_squares - offset * offset);
      },
      sums, squares, centre, 1.0 / count);
  return {average, variance};
}

/// A normalisation as the pointwise function x * scale + shift with one value per channel, for the map that uses it:
/// the normalised values are then never stored.
template <class T, class Device = Cpu>
struct ScaleShift {
  Var<T, Device> scale, shift;
};

/// Batch norm on the batch's own statistics, in training and evaluation alike: (x - mean) / sqrt(variance + epsilon)
/// · weight + bias per channel, as PyTorch's BatchNorm2d(track_running_stats=False). It couples the samples of a batch.
template <Scalar T, class Device = Cpu>
struct BatchNorm {
  Var<T, Device> weight, bias;  ///< (C)
  double epsilon = 1e-5;

  /// All channels with the same weight and bias.
  static BatchNorm initial(Index channels, double weight, double bias, double epsilon) {
    return {Tensor<T, Device>(Shape{channels}, static_cast<T>(weight)),
            Tensor<T, Device>(Shape{channels}, static_cast<T>(bias)), epsilon};
  }

  /// The normalisation for given statistics.
  ScaleShift<T, Device> fold(const BatchStatistics<T, Device>& statistics) const {
    const auto [scale, shift] = map(
        [](auto mean, auto variance, auto w, auto b, auto eps) {
          const auto s = w * rsqrt(variance + eps);
          return outputs(s, b - mean * s);
        },
        statistics.mean, statistics.variance, per_channel(weight), per_channel(bias), epsilon);
    return {scale, shift};
  }

  /// The normalisation for x (N, C, H, W).
  ScaleShift<T, Device> fold(const Var<T, Device>& x) const { return fold(batch_statistics(x)); }

  /// x normalised.
  Var<T, Device> operator()(const Var<T, Device>& x) const {
    const auto [scale, shift] = fold(x);
    return map([](auto v, auto s, auto b) { return v * s + b; }, x, scale, shift);
  }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

}  // namespace settle
