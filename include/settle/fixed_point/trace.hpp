#pragma once
#include <memory>
#include <utility>

#include "settle/fixed_point/variables.hpp"

namespace settle::inline v0_2::fixed_point {

/// A step with an observer: see traced.
template <class F, class Observer>
struct Traced {
  F step;
  std::shared_ptr<Observer> observer;  ///< shared, so that a step stays a value that can be assigned
  bool couples_samples = false;

  template <class Z, class... A>
  auto operator()(const Z& z, const A&... arguments) const {
    const auto next = step(z, arguments...);
    (*observer)(z, next);
    return next;
  }
  template <class... A>
  requires requires(const F& f, const A&... arguments) { f.prepare(arguments...); }
  auto prepare(const A&... arguments) const { return step.prepare(arguments...); }

  void parameters(auto&& visit) {
    if constexpr (requires { step.parameters(visit); }) step.parameters(visit);
  }
};

/// The step, with `observer(z, f(z))` called at every evaluation that a solve makes: those of its iteration, that which
/// is recorded (whose values then are on a tape: take their value()), and those by which unrolled policies compute
/// states again. The observer takes the state's values wherever it wants, and may compute any quantity of them, or of
/// what the step left beside its result.
///
///     std::vector<double> energies;
///     const auto solution = solve(traced(cell, [&](const auto& z, const auto& next) { ... }), options, zero, x);
template <class F, class Observer>
Traced<F, Observer> traced(F step, Observer observer) {
  bool couples = false;
  if constexpr (requires { static_cast<bool>(step.couples_samples); })
    couples = static_cast<bool>(step.couples_samples);
  return {std::move(step), std::make_shared<Observer>(std::move(observer)), couples};
}

}  // namespace settle::fixed_point
