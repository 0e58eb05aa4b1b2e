#pragma once
#include <cmath>
#include <type_traits>

#include "settle/ops/reduce.hpp"
#include "settle/ops/reshape.hpp"

namespace settle {

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

/// The objective of the released code: loss + weight · penalty.
template <class T, class D>
Var<T, D> penalised(const Var<T, D>& loss, const Var<T, D>& penalty, double weight = 10) {
  return map([](auto l, auto p, auto w) { return l + w * p; }, loss, penalty, weight);
}

/// The task loss's share s in the objective that the released training logs recorded: sigmoid((16.5 - 10^7 P) / 3.375)
/// of the penalty P: 0.5 at P = 1.65e-6.
inline double gated_share(double penalty) { return 1 / (1 + std::exp((1e7 * penalty - 16.5) / 3.375)); }

/// The objective that the released training logs recorded: s · loss + (1 - s) · weight · P + weight · P with
/// s = gated_share(P), held constant. The task counts only once the penalty P is small.
template <class T, class D>
Var<T, D> gated(const Var<T, D>& loss, const Var<T, D>& penalty, double weight = 10) {
  const double s = gated_share(static_cast<double>(penalty.item()));
  return map([](auto l, auto p, auto share, auto w) { return share * l + (2. - share) * w * p; }, loss, penalty, s,
             weight);
}

}  // namespace settle
