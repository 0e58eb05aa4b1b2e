#pragma once
#include <algorithm>
#include <cmath>
#include <numbers>
#include <variant>

#include "settle/core/shape.hpp"

namespace settle {

/// The same learning rate for ever.
struct ConstantRate {
  double rate = 1e-3;
  double operator()(Index) const { return rate; }
};

/// The rate times `factor` after every `period` steps, as PyTorch's StepLR.
struct StepRate {
  double rate = 1e-3;
  Index period = 1000;
  double factor = 0.1;
  double operator()(Index step) const { return rate * std::pow(factor, static_cast<double>(step / period)); }
};

/// From `first` (progress 0) to `last` (progress 1 and beyond) along half a cosine.
inline double half_cosine(double first, double last, double progress) {
  return last + (first - last) * (1 + std::cos(std::numbers::pi * std::min(1.0, progress))) / 2;
}

/// A linear rise over the first `warm_up` steps, to the full rate at the last of them; then half a cosine that reaches
/// `last` at step `steps` and stays there.
struct CosineRate {
  double rate = 1e-3;
  Index steps = 1000;
  Index warm_up = 0;
  double last = 0;
  double operator()(Index step) const {
    if (step < warm_up) return rate * static_cast<double>(step + 1) / static_cast<double>(warm_up);
    const double length = static_cast<double>(std::max<Index>(1, steps - warm_up));
    return half_cosine(rate, last, static_cast<double>(step - warm_up) / length);
  }
};

/// The learning rate as a function of the step, counted from 0.
using Schedule = std::variant<ConstantRate, StepRate, CosineRate>;

inline double rate_at(const Schedule& schedule, Index step) {
  return std::visit([&](const auto& s) { return s(step); }, schedule);
}

}  // namespace settle
