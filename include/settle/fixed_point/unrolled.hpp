#pragma once
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "settle/fixed_point/linearised.hpp"

// Back-propagation through plain steps.
namespace settle::inline v0_2::fixed_point::detail {

/// Adds the gradient of one step from z for the needed arguments, and returns that for z.
template <class T, class D>
Values<T, D> pull_step(const FlatStep<T, D>& step, const Vars<T, D>& given, const Values<T, D>& z,
                       const Values<T, D>& cotangent, double damping, const std::vector<std::size_t>& needed,
                       Cotangents<T, D>& gradients) {
  Tape<T, D> tape;
  Vars<T, D> arguments = given, state, inputs;
  for (std::size_t k = 0; k < arguments.size(); ++k) arguments[k] = stop_gradient(arguments[k]);
  for (std::size_t k : needed) inputs.push_back(arguments[k] = tape.leaf(arguments[k].value()));
  for (const auto& part : z) state.push_back(tape.leaf(part));
  inputs.insert(inputs.end(), state.begin(), state.end());
  Values<T, D> weighted = cotangent;
  if (damping > 0) scale(weighted, filled(1, 1 - damping));
  const Vars<T, D> results = Pullback<T, D>(step(arguments)(state), inputs)(constants<T, D>(weighted), false, true);
  for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
  Values<T, D> out;
  for (std::size_t p = 0; p < z.size(); ++p) out.push_back(results[needed.size() + p].value());
  if (damping > 0) add_scaled(out, cotangent, filled(1, damping));
  return out;
}

/// Adds the gradient of the plain iteration from `start`, step by step backwards. About sqrt(steps) states are kept,
/// and the others are computed again from them.
template <class T, class D>
void pull_unrolled(const NodeSource<T, D>& source, const Vars<T, D>& arguments, const Values<T, D>& b,
                   const Values<T, D>& start, const std::vector<std::size_t>& needed, Cotangents<T, D>& gradients) {
  const auto* plain = std::get_if<Plain>(&source.options.forward);
  const double damping = plain ? plain->damping : 0;
  const auto n = static_cast<std::size_t>(source.systems);
  Vars<T, D> fixed;
  for (const auto& a : arguments) fixed.push_back(stop_gradient(a));
  const ValueMap<T, D> f = on_values<T, D>(source.step(fixed));
  const auto next = [&](const Values<T, D>& z) {
    Values<T, D> out = f(z);
    if (damping > 0) mix(out, filled(n, 1 - damping), z, filled(n, damping));
    return out;
  };
  const int steps = source.steps, stride = std::max(1, static_cast<int>(std::ceil(std::sqrt(steps))));
  std::vector<Values<T, D>> kept{start};
  Values<T, D> z = start;
  for (int k = 1; k < steps; ++k) {
    z = next(z);
    if (k % stride == 0) kept.push_back(z);
  }
  Values<T, D> cotangent = b;
  for (int segment = static_cast<int>(kept.size()) - 1; segment >= 0; --segment) {
    const int begin = segment * stride, end = std::min(steps, begin + stride);
    std::vector<Values<T, D>> states{kept[static_cast<std::size_t>(segment)]};
    for (int k = begin + 1; k < end; ++k) states.push_back(next(states.back()));
    for (int k = end - 1; k >= begin; --k) {
      const bool damped = damping > 0 && k + 1 < steps;  // the last step is not
      cotangent = pull_step(source.step, arguments, states.back(), cotangent, damped ? damping : 0, needed, gradients);
      states.pop_back();
    }
    kept.pop_back();
  }
}

}  // namespace settle::fixed_point::detail
