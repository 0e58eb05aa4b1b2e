#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "settle/fixed_point/flattened.hpp"
#include "settle/fixed_point/unrolled.hpp"

namespace settle::inline v0_2::fixed_point {

/// A coupled, damped iteration that can be run backwards (as RevDEQ's, 2025): from y = z = z0,
///
///     y <- (1 - mixing) y + mixing f(z)        z <- (1 - mixing) z + mixing f(y)
///
/// so `steps` rounds are two applications of the step each. Its fixed points are the step's.
struct Reversible {
  int steps = 10;
  double mixing = 0.5;      ///< above 0, below 1
  double tolerance = 1e-2;  ///< what rounding may grow to, relative to the state, while states are computed backwards
};

/// z after a reversible iteration of z = f(z, arguments...) from z0, on the arguments' tape, with the exact gradient of
/// that iteration in memory that does not grow with its steps: the backward pass computes each state again from the one
/// after it. Rounding grows by a factor of 1 / (1 - mixing) with each backward step; throws Error where steps and
/// mixing would let it exceed the tolerance (in float with a mixing of 0.5 beyond 16 steps), and for options out of
/// their range. z0 gets no gradient.
template <class F, State Z, class... A>
[[nodiscard]] Z iterate_reversibly(const F& step, const Reversible& options, const Z& z0, const A&... arguments) {
  using V = detail::variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  const double keep = 1 - options.mixing, share = options.mixing;
  require(options.steps >= 1 && share > 0 && share < 1, "reversible",
          "expected at least 1 step and a mixing between 0 and 1, got ", options.steps, " and ", share);
  const double rounding = static_cast<double>(std::numeric_limits<T>::epsilon()) * std::pow(keep, -options.steps);
  require(rounding <= options.tolerance, "reversible", options.steps, " steps with a mixing of ", share,
          " let rounding grow to ", rounding, " of the state on the way back, above the tolerance of ",
          options.tolerance, ": take fewer steps, a smaller mixing, or double precision");
  const auto flat = detail::flattened(step, z0, arguments...);
  const auto f = detail::value_map(flat);
  detail::Values<T, D> y = flat.start, z = flat.start;
  for (int k = 0; k < options.steps; ++k) {
    y = detail::combined(keep, y, share, f(z));
    z = detail::combined(keep, z, share, f(y));
  }
  const auto pull = [flat, f, y, z, keep, share, steps = options.steps](const detail::Values<T, D>& b,
                                                                        const std::vector<std::size_t>& needed,
                                                                        Cotangents<T, D>& gradients) {
    detail::Values<T, D> at_y = y, at_z = z, to_z = b, to_y = detail::zeros_like(b);
    // The gradient of share f at a state, added for the arguments, returned for the state.
    const auto through = [&](const detail::Values<T, D>& at, const detail::Values<T, D>& cotangent) {
      detail::Values<T, D> weighted = cotangent;
      detail::scale(weighted, {share});
      return detail::pull_step(flat.step, flat.arguments, at, weighted, 0, needed, gradients);
    };
    for (int k = 0; k < steps; ++k) {
      at_z = detail::combined(1 / keep, at_z, -share / keep, f(at_y));
      to_y = detail::combined(1, to_y, 1, through(at_y, to_z));
      detail::scale(to_z, {keep});
      at_y = detail::combined(1 / keep, at_y, -share / keep, f(at_z));
      to_z = detail::combined(1, to_z, 1, through(at_z, to_y));
      detail::scale(to_y, {keep});
    }
  };
  return detail::on_arguments_tape<Z>("reversible", flat, z, pull);
}

}  // namespace settle::fixed_point
