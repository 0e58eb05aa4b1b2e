#pragma once
#include <cmath>
#include <vector>

#include "settle/fixed_point/vectors.hpp"
#include "settle/ops/map.hpp"

namespace settle::inline v0_2 {

/// The Euclidean norm of all gradients taken as one vector: finite and not 0 unless it is, of float32 and of double.
template <class T, class D>
double global_norm(const std::vector<Var<T, D>>& gradients) {
  fixed_point::detail::Values<T, D> values;
  for (const auto& g : gradients) values.push_back(g.value());
  return fixed_point::detail::norms(values, 1).front();
}

/// Scales the gradients so that their global norm is at most `limit`, as PyTorch's clip_grad_norm_; returns the norm
/// they had. When that is not finite they are left as they are: look at it before using them. Throws Error for a limit
/// that is negative or not a number.
template <class T, class D>
double clip_global_norm(std::vector<Var<T, D>>& gradients, double limit) {
  require(limit >= 0, "clip_global_norm", "expected limit >= 0, got ", limit);
  const double norm = global_norm(gradients);
  const double factor = limit / (norm + 1e-6);
  const double first = factor < 1e-30 ? 1e-20 : 1;  // a factor that float32 does not hold, in two
  if (factor < 1 && std::isfinite(norm))
    for (auto& g : gradients) g = first < 1 ? (factor / first) * (first * stop_gradient(g)) : factor * stop_gradient(g);
  return norm;
}

}  // namespace settle
