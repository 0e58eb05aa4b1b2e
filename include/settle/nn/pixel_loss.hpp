#pragma once
#include <cmath>
#include <vector>

#include "settle/distributed/all_reduce.hpp"
#include "settle/nn/losses.hpp"

namespace settle::inline v0_2 {

/// The focal loss of any number of classes: with the true class's softmax probability p of each pixel and its weight w
/// (that of its class, 0 where it is ignored),
///
///     loss = Σ w (1 - p)^gamma (-log p) / Σ w
///
/// where the factor (1 - p)^gamma is held constant, as in focal_loss of two classes; gamma 0 is the weighted
/// cross-entropy. 0 where all is ignored. Under distributed::Together the weights are summed over all ranks.
/// logits (N, K, H, W), target (N, H, W) of class numbers below K, ignore (N, H, W) of 0 and 1 or none, shape (0),
/// class_weights: K numbers, or none: all 1. Throws Error when they do not fit.
template <class T, class D>
Var<T, D> pixel_loss(const Var<T, D>& logits, const Tensor<T, D>& target, const Tensor<T, D>& ignore = {},
                     double gamma = 2, const std::vector<double>& class_weights = {}) {
  const char* where = "pixel_loss";
  const Shape& l = logits.shape();
  require(l.rank() == 4 && l[1] >= 2, where, "expected logits (N, K, H, W) of K >= 2 classes, got ", l);
  const Shape mask{l[0], l[2], l[3]}, pixels{l[0], 1, l[2], l[3]};
  require(target.shape() == mask, where, "expected a target (N, H, W) = ", mask, ", got ", target.shape());
  require(ignore.size() == 0 || ignore.shape() == mask, where, "expected an ignore mask (N, H, W) = ", mask, ", got ",
          ignore.shape());
  require(target.size() > 0, where, "the mean over no pixels is undefined, got a target ", target.shape());
  require(gamma >= 0, where, "expected gamma of at least 0, got ", gamma);
  if constexpr (std::is_same_v<D, Cpu>)
    for (const T t : target.values())
      require(t >= 0 && t < static_cast<T>(l[1]) && t == std::floor(t), where, "expected targets 0 ... ", l[1] - 1,
              ", got ", t);
  const auto [number, class_weight] = detail::class_tables<T, D>(where, {l[1], 1, 1}, class_weights);
  const Var<T, D> t(target.reshape(pixels));
  const auto chosen = [](auto value, auto is, auto k) { return value * (is == k); };
  Var<T, D> weight = reduce(chosen, {1}, broadcast_to(Var<T, D>(class_weight), l), t, number);
  if (ignore.size() > 0)
    weight = map([](auto w, auto left_out) { return w * (1. - left_out); }, weight, Var<T, D>(ignore.reshape(pixels)));
  const auto [largest, exponentials] = detail::sum_of_exponentials(logits, {1});
  const Var<T, D> loss = reduce([](auto z, auto m, auto s, auto is, auto k) { return select(is == k, s - (z - m), 0.); },
                                {1}, logits, largest, map([](auto s) { return log(s); }, exponentials), t, number);
  Var<T, D> factor = weight;
  if (gamma > 0)
    factor = map(
        [](auto w, auto v, auto g) { return select(w == 0., 0., w * exp(g * log(max(-expm1(-v), 1e-30)))); }, weight,
        stop_gradient(loss), gamma);
  Var<T, D> total = sum(weight);
  if (const distributed::JoinedBatch* const batch = distributed::Together::current())
    total = batch->share.weight() * distributed::all_reduce(total, batch->group);
  return map([](auto s, auto n) { return s / max(n, 1e-30); },
             sum(map([](auto w, auto v) { return select(w == 0., 0., w * v); }, factor, loss)), total);
}

}  // namespace settle
