#pragma once
#include <algorithm>
#include <cmath>
#include <numbers>
#include <variant>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// Throws Error unless it can be a learning rate, or a factor of one: finite and not negative.
inline void require_rate(const char* name, double rate) {
  require(std::isfinite(rate) && rate >= 0, "schedule", "expected ", name, " >= 0 and finite, got ", rate);
}

inline void require_steps(const char* name, Index steps, Index least) {
  require(steps >= least, "schedule", "expected ", name, " >= ", least, ", got ", steps);
}

}  // namespace detail

// Schedules throw Error when they are asked with an option out of its range, or for a step before the first.

/// The same learning rate for ever.
struct ConstantRate {
  double rate = 1e-3;  ///< >= 0

  double operator()(Index step) const {
    detail::require_rate("rate", rate), detail::require_steps("step", step, 0);
    return rate;
  }
};

/// The rate times `factor` after every `period` steps, as PyTorch's StepLR.
struct StepRate {
  double rate = 1e-3;   ///< >= 0
  Index period = 1000;  ///< >= 1
  double factor = 0.1;  ///< >= 0

  double operator()(Index step) const {
    detail::require_rate("rate", rate), detail::require_steps("step", step, 0);
    detail::require_steps("period", period, 1);
    detail::require_rate("factor", factor);
    const double out = rate * std::pow(factor, static_cast<double>(step / period));
    detail::require_rate("rate", out);
    return out;
  }
};

/// From `first` (progress 0 and before) to `last` (progress 1 and beyond) along half a cosine.
inline double half_cosine(double first, double last, double progress) {
  return last + (first - last) * (1 + std::cos(std::numbers::pi * std::min(1.0, std::max(progress, 0.0)))) / 2;
}

/// A linear rise over the first `warm_up` steps, to the full rate at the last of them; then half a cosine that reaches
/// `last` at step `steps` and stays there. Where all steps are warm-up, `last` comes one step after them.
struct CosineRate {
  double rate = 1e-3;  ///< >= 0
  Index steps = 1000;  ///< >= 0
  Index warm_up = 0;   ///< >= 0
  double last = 0;     ///< >= 0

  double operator()(Index step) const {
    detail::require_rate("rate", rate), detail::require_rate("last", last);
    detail::require_steps("step", step, 0);
    detail::require_steps("steps", steps, 0), detail::require_steps("warm_up", warm_up, 0);
    if (step < warm_up) return rate * (static_cast<double>(step) + 1) / static_cast<double>(warm_up);
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
