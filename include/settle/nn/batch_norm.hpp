#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/together.hpp"
#include "settle/ops/reduce.hpp"
#include "settle/ops/reshape.hpp"
#include "settle/ops/slice.hpp"

namespace settle::inline v0_2 {

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
  double count = 0;  ///< of values in a channel
};

namespace detail {

/// For each channel of x (N, C, H, W) a constant near its mean, (1, C, 1, 1): the mean over a grid of at most 8 x 8
/// pixels, as the distance from one of them. Of a constant channel it is that constant.
template <class T, class D>
Var<T, D> rough_mean(const Var<T, D>& x) {
  const Shape& s = x.shape();
  const Index rows = std::min<Index>(8, s[2]), columns = std::min<Index>(8, s[3]);
  const Window grid{{0, 0, 0, 0}, {s[0], s[1], rows, columns}, {1, 1, s[2] / rows, s[3] / columns}};
  const Var<T, D> pixels = slice(stop_gradient(x), grid);
  const Var<T, D> one = slice(pixels, Window{{0, 0, 0, 0}, {1, s[1], 1, 1}, {1, 1, 1, 1}});
  return one + mean(pixels - one, {0, 2, 3});
}

struct FromCentre {
  constexpr auto operator()(auto v, auto c) const { return outputs(v - c, square(v - c)); }
};

/// For each channel of some values a constant near their mean, and the sums of the distances from it and of their
/// squares, all (1, C, 1, 1).
template <class T, class D>
struct ChannelMoments {
  double count = 0;  ///< of values in a channel
  Var<T, D> centre, sums, squares;
};

/// The sums about a centre, recorded; `known` are their values where somebody has found them already.
template <class T, class D>
ChannelMoments<T, D> moments_about(const Var<T, D>& centre, const Var<T, D>& x,
                                   const std::vector<Tensor<T, D>>& known) {
  const Shape shape = centre.shape();
  const auto sums = pointwise<T, D>(PointwiseFunction<T, D>::template of<FromCentre, 2>(), x.shape(), {x, centre},
                                    {shape, shape}, {true, true}, known);
  return {static_cast<double>(x.size()) / static_cast<double>(x.shape(1)), centre, sums[0], sums[1]};
}

/// Those of x (N, C, H, W), which the operation that made x left beside it, or computed.
template <class T, class D>
ChannelMoments<T, D> channel_moments(const Var<T, D>& x) {
  std::vector<Tensor<T, D>> known;
  if constexpr (requires { Backend<D>::channel_moments(x.value()); }) known = Backend<D>::channel_moments(x.value());
  if (known.empty()) return moments_about(rough_mean(x), x, known);
  const Var<T, D> centre = known.front();
  known.erase(known.begin());
  return moments_about(centre, x, known);
}

/// Those of the values of all ranks, of which this one has x, possibly none. Each rank tells the count, mean and squares
/// about its mean that it has; they are merged pair by pair (Chan, Golub and LeVeque 1983), and all sums follow for the
/// common centre, without another message and without cancellation however far the ranks' means are apart.
template <class T, class D>
ChannelMoments<T, D> channel_moments(const Var<T, D>& x, const distributed::Group& group) {
  const Index channels = x.shape(1);
  const auto c = static_cast<std::size_t>(channels);
  const Shape shape{1, channels, 1, 1};
  // A rank's count, and for each channel its mean and its squares about it.
  std::vector<double> mine(1 + 2 * c, 0.0);
  Tensor<T, Cpu> centre(shape, T{0}), sums = centre, squares = centre;
  if (x.size() > 0) {
    const ChannelMoments<T, D> own = channel_moments(stop_gradient(x));
    centre = to<Cpu>(own.centre.value()), sums = to<Cpu>(own.sums.value()), squares = to<Cpu>(own.squares.value());
    mine[0] = own.count;
    for (std::size_t k = 0; k < c; ++k) {
      const auto sum = static_cast<double>(sums.data()[k]), offset = sum / own.count;
      mine[1 + 2 * k] = static_cast<double>(centre.data()[k]) + offset;
      mine[2 + 2 * k] = static_cast<double>(squares.data()[k]) - sum * offset;
    }
  }
  std::vector<double> all = distributed::gather_numbers<double>(mine, group);
  distributed::add_in_tree(group.size(), [&](Index a, Index b) {
    double* const into = all.data() + static_cast<std::size_t>(a) * mine.size();
    const double* const from = all.data() + static_cast<std::size_t>(b) * mine.size();
    if (from[0] == 0) return;
    const double count = into[0] + from[0], part = from[0] / count;
    for (std::size_t k = 1; k < mine.size(); k += 2) {
      const double apart = from[k] - into[k];
      into[k + 1] += from[k + 1] + apart * apart * into[0] * part;
      into[k] += apart * part;
    }
    into[0] = count;
  });
  const double count = all[0];
  require(count > 0, "batch_norm", "the statistics of an empty batch are undefined, got ", x.shape(), " on all ranks");
  Tensor<T, Cpu> common(shape), total = common, total_squares = common;
  for (std::size_t k = 0; k < c; ++k) {
    const double mean = all[1 + 2 * k];
    common.mutable_data()[k] = static_cast<T>(mean);
    const auto there = static_cast<double>(common.data()[k]), rest = mean - there;
    total.mutable_data()[k] = static_cast<T>(count * rest);
    total_squares.mutable_data()[k] = static_cast<T>(all[2 + 2 * k] + count * rest * rest);
    const double shift = static_cast<double>(centre.data()[k]) - there, sum = static_cast<double>(sums.data()[k]);
    sums.mutable_data()[k] = static_cast<T>(sum + mine[0] * shift);
    squares.mutable_data()[k] =
        static_cast<T>(static_cast<double>(squares.data()[k]) + 2 * shift * sum + mine[0] * shift * shift);
  }
  const ChannelMoments<T, D> own = moments_about<T, D>(to<D>(common), x, {to<D>(sums), to<D>(squares)});
  const auto totals = distributed::all_reduce<T, D>({own.sums, own.squares}, group, {to<D>(total), to<D>(total_squares)});
  return {count, own.centre, totals[0], totals[1]};
}

/// Statistics of x (N, C, H, W), (1, C, 1, 1), with the mean as centre + offset.
template <class T, class D>
struct CentredStatistics {
  Var<T, D> centre, offset, variance;
  double count = 0;
};

template <class T, class D>
CentredStatistics<T, D> centred_statistics(const Var<T, D>& x) {
  require(x.shape().rank() == 4, "batch_norm", "expected (N, C, H, W), got ", x.shape());
  const distributed::JoinedBatch* const batch = distributed::Together::current();
  require(batch || x.size() > 0, "batch_norm", "the statistics of an empty batch are undefined, got ", x.shape());
  const auto [count, centre, sums, squares] =
      batch ? detail::channel_moments(x, batch->group) : detail::channel_moments(x);
  const auto [offset, variance] = map(
      [](auto sum, auto sum_of_squares, auto weight) {
        const auto distance = weight * sum;
        return outputs(distance, weight * sum_of_squares - distance * distance);
      },
      sums, squares, 1.0 / count);
  return {centre, offset, variance, count};
}

}  // namespace detail

/// The statistics of x (N, C, H, W) over N, H and W, in one pass, or none where they were found while x was made.
/// Throws Error for another rank and for an empty batch. The squares are summed about a constant near the mean: the
/// result does not depend on it, nor do its gradients, and nothing cancels where a map is almost constant, as a settled
/// state's background is. Under distributed::Together they are those of all ranks' values, and x may be empty on some.
template <class T, class D>
BatchStatistics<T, D> batch_statistics(const Var<T, D>& x) {
  const auto [centre, offset, variance, count] = detail::centred_statistics(x);
  return {centre + offset, variance, count};
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
    require(statistics.mean.shape() == Shape{1, weight.size(), 1, 1} && bias.shape() == weight.shape(), "batch_norm",
            "expected images of ", weight.size(), " channels, those of weight ", weight.shape(), " and bias ",
            bias.shape(), ", got statistics ", statistics.mean.shape());
    const auto [scale, shift] = map(
        [](auto mean, auto variance, auto w, auto b, auto eps) {
          const auto s = w * rsqrt(variance + eps);
          return outputs(s, b - mean * s);
        },
        statistics.mean, statistics.variance, per_channel(weight), per_channel(bias), epsilon);
    return {scale, shift};
  }

  /// The normalisation for x (N, C, H, W). Where a channel's mean is a thousand times its spread, x * scale + shift
  /// loses three digits; the operator below does not.
  ScaleShift<T, Device> fold(const Var<T, Device>& x) const { return fold(batch_statistics(x)); }

  /// x normalised, without loss of digits however far a channel's mean is from 0.
  Var<T, Device> operator()(const Var<T, Device>& x) const {
    const auto [centre, offset, variance, count] = detail::centred_statistics(x);
    const auto [scale, shift] = fold({offset, variance, count});
    return map([](auto v, auto c, auto s, auto b) { return (v - c) * s + b; }, x, centre, scale, shift);
  }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

/// Batch norm with running statistics, as PyTorch's BatchNorm2d: training uses the batch's statistics and moves the
/// running ones by `momentum` towards them (the variance unbiased); evaluation uses the running ones. Both give a factor
/// and a number added, which lose three digits where a channel's mean is a thousand times its spread.
template <Scalar T, class Device = Cpu>
struct RunningBatchNorm {
  BatchNorm<T, Device> norm;
  Var<T, Device> running_mean, running_var;  ///< (C); no gradient
  double momentum = 0.1;

  static RunningBatchNorm initial(Index channels, double epsilon) {
    return {BatchNorm<T, Device>::initial(channels, 1, 0, epsilon), Tensor<T, Device>(Shape{channels}, T{0}),
            Tensor<T, Device>(Shape{channels}, T{1})};
  }

  /// The normalisation for x (N, C, H, W) on its own statistics; updates the running ones.
  ScaleShift<T, Device> train(const Var<T, Device>& x) {
    const auto statistics = batch_statistics(x);
    const double count = statistics.count;
    require(count > 1, "batch_norm", "expected more than one value per channel when training, got ", x.shape());
    const Shape vector{x.shape(1)};
    const auto towards = [&](const Var<T, Device>& running, const Var<T, Device>& now, double correction) {
      return map([](auto old, auto value, auto m, auto c) { return (1. - m) * old + m * c * value; }, running,
                 reshape(stop_gradient(now), vector), momentum, correction);
    };
    running_mean = towards(running_mean, statistics.mean, 1);
    running_var = towards(running_var, statistics.variance, count / (count - 1));
    return norm.fold(statistics);
  }

  /// The normalisation on the running statistics.
  ScaleShift<T, Device> evaluate() const {
    const Shape shape{1, running_mean.size(), 1, 1};
    return norm.fold(BatchStatistics<T, Device>{reshape(running_mean, shape), reshape(running_var, shape)});
  }

  void parameters(auto&& visit) { norm.parameters(visit); }
  /// The running statistics: saved with the weights, but not trained.
  void buffers(auto&& visit) { visit("running_mean", running_mean), visit("running_var", running_var); }
};

/// Batch norm whose statistics, weight and bias are constants: (x - running_mean) / sqrt(running_var + epsilon) · weight
/// + bias per channel, as detectron2's FrozenBatchNorm2d. All four are buffers: saved, never trained.
template <Scalar T, class Device = Cpu>
struct FrozenBatchNorm {
  Var<T, Device> weight, bias, running_mean, running_var;  ///< (C)
  double epsilon = 1e-5;

  /// The identity: weight 1, bias 0, mean 0 and a variance of 1 - epsilon.
  static FrozenBatchNorm initial(Index channels, double epsilon = 1e-5) {
    const auto filled = [&](double value) { return Tensor<T, Device>(Shape{channels}, static_cast<T>(value)); };
    return {filled(1), filled(0), filled(0), filled(1 - epsilon), epsilon};
  }

  /// The factor and the number added, (C, 1, 1): what a convolution before it can be multiplied by. Where a channel's
  /// mean is a thousand times its spread three digits are lost; the operator below does not lose them.
  ScaleShift<T, Device> fold() const {
    const auto [scale, shift] = map(
        [](auto w, auto b, auto mean, auto variance, auto eps) {
          const auto s = w * rsqrt(variance + eps);
          return outputs(s, b - mean * s);
        },
        weight, bias, running_mean, running_var, epsilon);
    return {per_channel(scale), per_channel(shift)};
  }

  /// x (N, C, H, W) normalised. Throws Error for another number of channels.
  Var<T, Device> operator()(const Var<T, Device>& x) const {
    require(x.shape().rank() == 4 && x.shape(1) == weight.size(), "batch_norm", "expected images (N, C, H, W) of ",
            weight.size(), " channels, got ", x.shape());
    return map([](auto v, auto mean, auto s, auto b) { return (v - mean) * s + b; }, x, per_channel(running_mean),
               fold().scale, per_channel(bias));
  }

  void parameters(auto&&) {}
  void buffers(auto&& visit) {
    visit("weight", weight), visit("bias", bias);
    visit("running_mean", running_mean), visit("running_var", running_var);
  }
};

}  // namespace settle
