#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "settle/fixed_point/flattened.hpp"

namespace settle::inline v0_2::fixed_point {

/// Unbiased online recurrent optimisation (Tallec and Ollivier 2018): an estimate of rank one, s w, of the state's
/// derivative for all arguments is carried forward with the state, so nothing is kept for a backward pass.
struct Uoro {
  int steps = 6;
  std::uint64_t seed = 0;  ///< of the signs; give another at each training step
};

/// z after `steps` applications of z <- f(z, arguments...) from z0, on the arguments' tape, with an unbiased estimate
/// of the gradient of back-propagation through all of them, (cotangent · s) w, in memory that does not grow with their
/// number. At each step, with random signs v, J = ∂f/∂z and ∂f the derivative for the arguments,
///
///     s <- a J s + b v      w <- w / a + (v · ∂f) / b      a² = |w| / |J s|,  b² = |v · ∂f| / |v|
///
/// The estimate's variance grows with the size of the state: it is for small nets, and for comparison. z0 gets no
/// gradient. Throws Error for less than one step.
template <class F, State Z, class... A>
[[nodiscard]] Z iterate_online(const F& step, const Uoro& options, const Z& z0, const A&... arguments) {
  using V = detail::variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  using Values = detail::Values<T, D>;
  using Vars = detail::Vars<T, D>;
  require(options.steps >= 1, "uoro", "expected at least 1 step, got ", options.steps);
  const auto flat = detail::flattened(step, z0, arguments...);
  Values z = flat.start, s = detail::zeros_like(z), w;
  std::vector<std::size_t> differentiable;
  for (std::size_t k = 0; k < flat.arguments.size(); ++k)
    if (flat.arguments[k].tape())
      differentiable.push_back(k), w.push_back(Tensor<T, D>(flat.arguments[k].shape(), T{0}));
  Random random(options.seed);
  const auto norm = [](const Values& v) { return v.empty() ? 0.0 : detail::norms(v, 1).front(); };
  for (int k = 0; k < options.steps; ++k) {
    Tape<T, D> tape;
    Vars fixed, state, inputs;
    for (const auto& a : flat.arguments) fixed.push_back(stop_gradient(a));
    for (const std::size_t i : differentiable) inputs.push_back(fixed[i] = tape.leaf(fixed[i].value()));
    for (const auto& part : z) state.push_back(tape.leaf(part));
    const Vars next = flat.step(fixed)(state);
    Values signs;
    for (const auto& part : next) {
      Tensor<T> drawn(part.shape());
      T* const x = drawn.mutable_data();
      for (Index i = 0; i < drawn.size(); ++i) x[i] = random.bits() & 1u ? T{1} : T{-1};
      signs.push_back(to<D>(drawn));
    }
    // J s as the derivative of c -> Jᵀ c along s.
    Vars c, along;
    for (const auto& part : next) c.push_back(tape.leaf(Tensor<T, D>(part.shape(), T{0})));
    const Vars transposed = Pullback<T, D>(next, state)(c, true);
    Values forward = detail::values_of(Pullback<T, D>(transposed, c)(detail::constants<T, D>(s)));
    Values taken;
    if (!inputs.empty()) taken = detail::values_of(Pullback<T, D>(next, inputs)(detail::constants<T, D>(signs)));
    const auto ratio = [](double above, double below) {
      return above > 0 && below > 0 ? std::sqrt(above / below) : 1.0;
    };
    const double a = ratio(norm(w), norm(forward)), b = ratio(norm(taken), norm(signs));
    s = detail::combined(a, forward, b, signs);
    if (!w.empty()) w = detail::combined(1 / a, w, 1 / b, taken);
    z = detail::values_of(next);
  }
  const auto pull = [s, w, differentiable](const Values& cotangent, const std::vector<std::size_t>& needed,
                                           Cotangents<T, D>& gradients) {
    const double share = detail::dots(cotangent, s, 1).front();
    for (std::size_t i = 0; i < differentiable.size(); ++i)
      for (const std::size_t k : needed)
        if (k == differentiable[i]) {
          Values own{w[i]};
          detail::scale(own, {share});
          gradients.add(k, Var<T, D>(own.front()));
        }
  };
  return detail::on_arguments_tape<Z>("uoro", flat, z, pull);
}

}  // namespace settle::fixed_point
