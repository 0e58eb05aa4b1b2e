#pragma once
#include <cmath>
#include <optional>
#include <type_traits>
#include <vector>

#include "settle/distributed/together.hpp"
#include "settle/ops/reduce.hpp"
#include "settle/ops/reshape.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// logit of the true class minus logit of the other, (N, 1, H, W), for logits (N, 2, H, W) and targets (N, H, W).
template <class T, class D>
Var<T, D> true_class_margin(const char* where, const Var<T, D>& logits, const Tensor<T, D>& target) {
  const Shape& l = logits.shape();
  require(l.rank() == 4 && l[1] == 2, where, "expected logits (N, 2, H, W), got ", l);
  const Shape expected{l[0], l[2], l[3]};
  require(target.shape() == expected, where, "expected a target (N, H, W) = ", expected, ", got ", target.shape());
  require(target.size() > 0, where, "the mean over no pixels is undefined, got a target ", target.shape());
  if constexpr (std::is_same_v<D, Cpu>)
    for (T t : target.values()) require(t == 0 || t == 1, where, "expected targets 0 or 1, got ", t);
  const Var<T, D> is_one(target.reshape({l[0], 1, l[2], l[3]}));
  const Var<T, D> class_sign(Tensor<T, D>(Shape{2, 1, 1}, {T{-1}, T{1}}));
  return reduce([](auto logit, auto sign, auto t) { return logit * sign * (2. * t - 1.); }, {1}, logits, class_sign,
                is_one);
}

}  // namespace detail

/// The focal loss of two classes, the mean over all pixels of -(1 - p)^gamma log p, where p is the true class's softmax
/// probability, held constant in the factor (1 - p)^gamma: the gradient is that of a weighted cross-entropy.
/// logits (N, 2, H, W), target (N, H, W) of 0 and 1. Throws Error when they do not fit. Source: FocalLoss of the
/// released code, which uses the probability's value without its gradient; no class weights.
template <class T, class D>
Var<T, D> focal_loss(const Var<T, D>& logits, const Tensor<T, D>& target, double gamma = 2) {
  const Var<T, D> margin = detail::true_class_margin("focal_loss", logits, target);
  const Var<T, D> factor = map([](auto m, auto g) { return exp(-g * softplus(m)); }, stop_gradient(margin), gamma);
  return (1.0 / static_cast<double>(target.size())) *
         reshape(reduce([](auto m, auto f) { return f * softplus(-m); }, {0, 1, 2, 3}, margin, factor), {});
}

/// The cross-entropy of two classes, the mean over all pixels of -log p. Shapes as for focal_loss.
template <class T, class D>
Var<T, D> cross_entropy(const Var<T, D>& logits, const Tensor<T, D>& target) {
  const Var<T, D> margin = detail::true_class_margin("cross_entropy", logits, target);
  return mean(map([](auto m) { return softplus(-m); }, margin));
}

/// What becomes of a loss's terms: their sum, or their mean, which of no terms is 0.
enum class LossReduction { sum, mean };

namespace detail {

/// The sum of a loss's terms, or their sum divided by `count`, where that is above 0.
template <class T, class D>
Var<T, D> reduced_loss(const Var<T, D>& terms, LossReduction reduction) {
  const Var<T, D> total = sum(terms);
  return reduction == LossReduction::sum || terms.size() == 0 ? total
                                                              : (1.0 / static_cast<double>(terms.size())) * total;
}

template <class T, class D>
void require_equal_shapes(const char* where, const Var<T, D>& x, const Tensor<T, D>& target) {
  require(x.shape() == target.shape(), where, "expected a target ", x.shape(), ", got ", target.shape());
}

/// The numbers and the weights of K classes, where they broadcast over logits.
template <class T, class D>
struct ClassTables {
  Tensor<T, D> number, weight;
};

/// `shape` has K elements; `weights` are K numbers, or none: all 1.
template <class T, class D>
ClassTables<T, D> class_tables(const char* where, const Shape& shape, const std::vector<double>& weights) {
  const auto classes = static_cast<std::size_t>(shape.size());
  require(weights.empty() || weights.size() == classes, where, "expected ", classes, " class weights, got ",
          weights.size());
  std::vector<T> number(classes), weight(classes, T{1});
  for (std::size_t k = 0; k < classes; ++k) {
    number[k] = static_cast<T>(k);
    if (!weights.empty()) weight[k] = static_cast<T>(weights[k]);
  }
  return {Tensor<T, D>(shape, number), Tensor<T, D>(shape, weight)};
}

}  // namespace detail

struct CrossEntropyOptions {
  std::optional<double> ignore{};         ///< the label of what does not count, 255 as a rule; none: all counts
  std::vector<double> class_weights{};  ///< one for each class; none: all 1
  double label_smoothing = 0;           ///< the share of the target that is spread evenly over all classes
  LossReduction reduction = LossReduction::mean;  ///< the mean is weighted: terms divided by the labels' weights
};

/// The cross-entropy of K classes, as PyTorch's: with w the weights of classes, t a place's label, p its softmax
/// probabilities over axis 1 and s the smoothing, the sum over places that count of
///
///     sum over k of w_k ((1 - s) [k = t] + s / K) (-log p_k)
///
/// or that divided by the sum of w_t, 0 where nothing counts.
/// logits (N, K, ...), target (N, ...) of labels 0 ... K - 1 and `ignore`. Throws Error when they do not fit.
template <class T, class D>
Var<T, D> cross_entropy(const Var<T, D>& logits, const Tensor<T, D>& target, const CrossEntropyOptions& options) {
  const char* where = "cross_entropy";
  const Shape& l = logits.shape();
  require(l.rank() >= 2 && l[1] >= 1, where, "expected logits (N, K, ...) of at least one class, got ", l);
  Shape expected{l[0]}, place{l[0], 1}, per_class{l[1]};
  for (int a = 2; a < l.rank(); ++a) expected.append(l[a]), place.append(l[a]), per_class.append(1);
  require(target.shape() == expected, where, "expected a target (N, ...) = ", expected, ", got ", target.shape());
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, where,
          "expected a label smoothing from 0 to 1, got ", options.label_smoothing);
  const T ignored = static_cast<T>(options.ignore.value_or(-1));
  if constexpr (std::is_same_v<D, Cpu>)
    for (const T t : target.values())
      require((t >= 0 && t < static_cast<T>(l[1]) && t == std::floor(t)) || (options.ignore && t == ignored), where,
              "expected labels 0 ... ", l[1] - 1, options.ignore ? " and the ignored one" : "", ", got ", t);
  const auto [number, class_weight] = detail::class_tables<T, D>(where, per_class, options.class_weights);
  const Tensor<T, D> label = target.reshape(place);
  // A class without a share takes no part, and a logit of -infinity that it may have neither.
  const auto [largest, total] = detail::sum_of_exponentials(logits, {1});
  const auto terms = reduce(
      [](auto z, auto m, auto s, auto t, auto k, auto w, auto nothing, auto smoothing, auto count) {
        const auto share = select(t == nothing, 0., w * ((1. - smoothing) * (t == k) + smoothing / count));
        return select(share == 0., 0., share * (s - (z - m)));
      },
      {1}, logits, largest, map([](auto s) { return log(s); }, total), label, number, class_weight,
      static_cast<double>(ignored), options.label_smoothing, static_cast<double>(l[1]));
  if (options.reduction == LossReduction::sum) return sum(terms);
  const auto counted = reduce(
      [](auto t, auto k, auto w, auto nothing) { return select(t == nothing, 0., w * (t == k)); }, {1}, label, number,
      class_weight, static_cast<double>(ignored));
  return map([](auto s, auto n) { return select(n == 0., 0., s / n); }, sum(terms), sum(counted));
}

/// The cross-entropy of two classes from one logit z each, with t the probability of the class:
/// log(1 + exp(z)) - t z, finite for large z, and 0 where t is 0 or 1 and z infinite on that side; else PyTorch's
/// binary_cross_entropy_with_logits.
/// logits and target of one shape. Throws Error when they do not fit.
template <class T, class D>
Var<T, D> binary_cross_entropy_with_logits(const Var<T, D>& logits, const Tensor<T, D>& target,
                                           LossReduction reduction = LossReduction::mean) {
  detail::require_equal_shapes("binary_cross_entropy_with_logits", logits, target);
  const auto terms = map(
      [](auto z, auto t) {
        return softplus(select(t == 1., -z, z)) - select((t == 0.) + (t == 1.) > 0., 0., t * z);
      },
      logits, target);
  return detail::reduced_loss(terms, reduction);
}

/// The distance d from the target, |d| - beta / 2 and below beta d² / (2 beta), as PyTorch's smooth_l1_loss; with beta
/// 0 it is |d|, whose slope at 0 is 0. Throws Error when the shapes differ and for a beta below 0.
template <class T, class D>
Var<T, D> smooth_l1_loss(const Var<T, D>& x, const Tensor<T, D>& target, double beta = 1,
                         LossReduction reduction = LossReduction::mean) {
  detail::require_equal_shapes("smooth_l1_loss", x, target);
  require(beta >= 0, "smooth_l1_loss", "expected a beta of at least 0, got ", beta);
  if (beta == 0) return detail::reduced_loss(map([](auto v, auto t) { return abs(v - t); }, x, target), reduction);
  return detail::reduced_loss(map(
                                  [](auto v, auto t, auto b) {
                                    const auto d = abs(v - t);
                                    return select(d < b, d * d / (2. * b), d - 0.5 * b);
                                  },
                                  x, target, beta),
                              reduction);
}

/// The squared distance from the target, as PyTorch's mse_loss. Throws Error when the shapes differ.
template <class T, class D>
Var<T, D> mse_loss(const Var<T, D>& x, const Tensor<T, D>& target, LossReduction reduction = LossReduction::mean) {
  detail::require_equal_shapes("mse_loss", x, target);
  return detail::reduced_loss(map([](auto v, auto t) { return square(v - t); }, x, target), reduction);
}

/// The objective of the released code: loss + weight · penalty.
template <class T, class D>
Var<T, D> penalised(const Var<T, D>& loss, const Var<T, D>& penalty, double weight = 10) {
  return map([](auto l, auto p, auto w) { return l + w * p; }, loss, penalty, weight);
}

/// The task loss's share s in the objective that the released training logs recorded: sigmoid((16.5 - 10^7 P) / 3.375)
/// of the penalty P: 0.5 at P = 1.65e-6.
inline double gated_share(double penalty) { return 1 / (1 + std::exp((1e7 * penalty - 16.5) / 3.375)); }

/// The objective that the released training logs recorded: s · loss + (1 - s) · weight · P + weight · P with
/// s = gated_share(P), held constant. The task counts only once the penalty P, that of the whole batch, is small.
template <class T, class D>
Var<T, D> gated(const Var<T, D>& loss, const Var<T, D>& penalty, double weight = 10) {
  const double s = gated_share(distributed::mean_over_batch(static_cast<double>(penalty.item())));
  return map([](auto l, auto p, auto share, auto w) { return share * l + (2. - share) * w * p; }, loss, penalty, s,
             weight);
}

}  // namespace settle
