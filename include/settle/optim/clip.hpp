#pragma once
#include <cmath>
#include <vector>

#include "settle/ops/reduce.hpp"

namespace settle {

/// The Euclidean norm of all gradients taken as one vector.
template <class T, class D>
double global_norm(const std::vector<Var<T, D>>& gradients) {
  double squares = 0;
  for (const auto& g : gradients) squares += static_cast<double>(sum(map([](auto v) { return square(v); }, g)).item());
  return std::sqrt(squares);
}

/// Scales the gradients so that their global norm is at most `limit`, as PyTorch's clip_grad_norm_; returns the norm
/// they had. When that is not finite they are left as they are: look at it before using them.
template <class T, class D>
double clip_global_norm(std::vector<Var<T, D>>& gradients, double limit) {
  const double norm = global_norm(gradients);
  const double factor = limit / (norm + 1e-6);
  if (factor < 1 && std::isfinite(norm))
    for (auto& g : gradients) g = factor * stop_gradient(g);
  return norm;
}

}  // namespace settle
