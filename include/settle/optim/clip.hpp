#pragma once
#include <cmath>
#include <vector>

#include "settle/ops/map.hpp"

namespace settle {

/// The Euclidean norm of all gradients taken as one vector.
template <class T, class D>
double global_norm(const std::vector<Var<T, D>>& gradients) {
  std::vector<double> squares{0};  // in double: the norm of finite gradients in float32 is finite
  for (const auto& g : gradients) Backend<D>::add_dots(g.size(), g.value().data(), g.value().data(), squares);
  return std::sqrt(squares.front());
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
