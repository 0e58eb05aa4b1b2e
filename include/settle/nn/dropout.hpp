#pragma once
#include "settle/ops/map.hpp"

namespace settle::inline v0_2 {

/// Dropout in training: each element of x is 0 with a probability, and otherwise divided by 1 - probability, so that the
/// mean stays. The draws are the next of `random` in row-major order, so a seed and a stream give the same mask on every
/// device and for any number of threads. In use, do not call it. Throws Error unless 0 <= probability < 1.
/// Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (JMLR 2014).
template <class T, class D>
Var<T, D> dropout(const Var<T, D>& x, double probability, Random& random) {
  require(probability >= 0 && probability < 1, "dropout", "expected a probability of at least 0 and below 1, got ",
          probability);
  const Tensor<T, D> drawn = uniform<T, D>(x.shape(), 0, 1, random);
  return map([](auto v, auto u, auto p, auto scale) { return select(u < p, 0., v * scale); }, x, drawn, probability,
             1 / (1 - probability));
}

}  // namespace settle
