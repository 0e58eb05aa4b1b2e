#pragma once
#include <span>

#include "settle/autodiff/grad.hpp"
#include "settle/fixed_point/adjoint.hpp"
#include "settle/fixed_point/variables.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::fixed_point {

namespace detail {

template <class T, class D>
Values<T, D> values_of(const Vars<T, D>& vars) {
  Values<T, D> out;
  for (const auto& v : vars) out.push_back(v.value());
  return out;
}

template <class T, class D>
Vars<T, D> constants(const Values<T, D>& values) {
  return {values.begin(), values.end()};
}

template <class T, class D>
Vars<T, D> filled_like(const Vars<T, D>& vars, T value) {
  Vars<T, D> out;
  for (const auto& v : vars) out.emplace_back(Tensor<T, D>(v.shape(), value));
  return out;
}

template <class T, class D>
Var<T, D> total(const Vars<T, D>& terms) {
  Var<T, D> out = Tensor<T, D>(Shape{}, T{0});
  for (const auto& term : terms) out = out + term;
  return out;
}

/// A penalty's value, and the scalar whose gradient is the penalty's.
template <class T, class D>
struct PenaltyTerm {
  Var<T, D> value, root;
};

/// The sum of what r exceeds lambda by, squared.
template <class T, class D>
Var<T, D> hinge(const Var<T, D>& r, const Lcp& options) {
  if (options.two_sided)
    return sum(map(
        [](auto v, auto limit) {
          const auto above = max(v - limit, 0.), below = max(-v - limit, 0.);
          return above * above + below * below;
        },
        r, options.lambda));
  return sum(map(
      [](auto v, auto limit) {
        const auto above = max(v - limit, 0.);
        return above * above;
      },
      r, options.lambda));
}

template <class T, class D>
Var<T, D> hinges(const Vars<T, D>& r, const Lcp& options) {
  Vars<T, D> terms;
  Index count = 0;
  for (const auto& part : r) {
    terms.push_back(hinge(part, options));
    count += part.size();
  }
  return options.reduction == Reduction::sum || count == 0 ? total(terms)
                                                           : (1.0 / static_cast<double>(count)) * total(terms);
}

template <class T, class D>
PenaltyTerm<T, D> lcp_of_block(const Vars<T, D>& z_next, const Vars<T, D>& z, const Lcp& options) {
  Pullback<T, D> product(z_next, z);
  if (options.route == Route::second_order_tape) {
    const Var<T, D> value = hinges(product(filled_like(z_next, T{1}), true), options);
    return {value, value};
  }
  // u = d value / d r, on a tape of its own; then 1ᵀ J u as the derivative of c -> Jᵀ c along u.
  Tape<T, D> local;
  Vars<T, D> r;
  for (const auto& part : product(filled_like(z_next, T{1}))) r.push_back(local.leaf(part.value()));
  const Var<T, D> value = hinges(r, options);
  const Vars<T, D> u = constants<T, D>(values_of(grad(value, r)));
  Vars<T, D> c;
  for (const auto& part : z_next) c.push_back(z.front().tape()->leaf(Tensor<T, D>(part.shape(), T{0})));
  Vars<T, D> terms;
  for (const auto& part : Pullback<T, D>(product(c, true), c)(u, true)) terms.push_back(sum(part));
  return {stop_gradient(value), total(terms)};
}

template <class T, class D>
PenaltyTerm<T, D> lcp_of(const Vars<T, D>& z_next, const Vars<T, D>& z, const Lcp& options) {
  require(z_next.size() == z.size(), "lcp", "expected a next state of ", z.size(), " parts, got ", z_next.size());
  if (options.blocks == Blocks::full) return lcp_of_block(z_next, z, options);
  Vars<T, D> values, roots;
  for (std::size_t p = 0; p < z.size(); ++p) {
    const PenaltyTerm<T, D> term = lcp_of_block<T, D>({z_next[p]}, {z[p]}, options);
    values.push_back(term.value);
    roots.push_back(term.root);
  }
  return {total(values), total(roots)};
}

template <class T, class D>
Var<T, D> hutchinson_of(const Vars<T, D>& z_next, const Vars<T, D>& z, const Hutchinson& options) {
  require(options.probes >= 1, "hutchinson", "expected at least 1 probe, got ", options.probes);
  Pullback<T, D> product(z_next, z);
  Vars<T, D> terms;
  Index count = 0;
  for (const auto& part : z) count += part.size();
  for (int probe = 0; probe < options.probes; ++probe) {
    Random random(options.seed, static_cast<std::uint64_t>(probe));
    Vars<T, D> v;
    for (const auto& part : z_next) {
      Tensor<T> direction(part.shape());
      T* x = direction.mutable_data();
      for (Index k = 0; k < direction.size(); ++k)
        x[k] = static_cast<T>(options.rademacher ? (random.bits() & 1u ? 1.0 : -1.0) : random.normal());
      v.emplace_back(to<D>(direction));
    }
    for (const auto& part : product(v, true)) terms.push_back(sum(map([](auto x) { return x * x; }, part)));
  }
  const double divisor =
      static_cast<double>(options.probes) * (options.reduction == Reduction::mean ? static_cast<double>(count) : 1.0);
  return (1.0 / divisor) * total(terms);
}

/// Unit vectors, one for each system: scaled in place.
template <class T, class D>
void normalise(Values<T, D>& v, Index systems) {
  Numbers lengths = norms(v, systems);
  for (double& length : lengths) length = length > 0 && std::isfinite(length) ? 1 / length : 0;
  scale(v, lengths);
}

/// `direction` is where the power iteration starts from: of z's shapes, or empty. A system that has none, or is not
/// finite there, starts from a random one.
template <class T, class D>
Var<T, D> spectral_hinge_of(const Vars<T, D>& z_next, const Vars<T, D>& z, const SpectralHinge& options, Index systems,
                            Values<T, D> direction) {
  require(options.products >= 0 && options.target > 0, "spectral_hinge", "expected products >= 0 and target > 0, got ",
          options.products, " and ", options.target);
  Pullback<T, D> product(z_next, z);
  if (direction.empty()) direction = zeros_like(values_of(z));
  Numbers has = norms(direction, systems);
  for (double& length : has) length = length > 0 && std::isfinite(length) ? 1 : 0;
  if (!is_full(has)) {
    Values<T, D> drawn;
    Random random(options.seed);
    for (const auto& part : z) drawn.push_back(normal<T, D>(part.shape(), 0, 1, random));
    mix(direction, has, drawn, others(has));
  }
  normalise(direction, systems);
  for (int k = 0; k < options.products; ++k) {
    direction = values_of(product(constants<T, D>(direction)));
    normalise(direction, systems);
  }
  Var<T, D> squared;
  for (const auto& part : product(constants<T, D>(direction), true)) {
    Shape per_system = part.shape();
    for (int axis = 0; axis < per_system.rank(); ++axis)
      if (axis > 0 || systems == 1) per_system[axis] = 1;
    const Var<T, D> squares = sum_to(map([](auto x) { return x * x; }, part), per_system);
    require(!squared.defined() || squared.shape().rank() == squares.shape().rank(), "spectral_hinge",
            "the state's parts must have the same number of axes");
    squared = squared.defined() ? squared + squares : squares;
  }
  return mean(map(  // the square root is kept away from 0, where it has no derivative
      [](auto s, auto target) {
        const auto above = sqrt(max(s, target * target)) - target;
        return above * above;
      },
      squared, options.target));
}

}  // namespace detail

/// The Lipschitz coefficient penalty of a recorded step from z to z_next, a scalar on their tape: see Lcp. Its gradient
/// flows through z too, into whatever made it (C-BPTT, paper 1.9); that needs Route::second_order_tape.
template <State Z>
detail::variable_of<Z> lcp(const Z& z_next, const Z& z, const Lcp& options = {}) {
  using V = detail::variable_of<Z>;
  require(options.route == Route::second_order_tape, "lcp", "a penalty on a tape needs Route::second_order_tape");
  return detail::lcp_of(detail::variables<V>(z_next), detail::variables<V>(z), options).value;
}

}  // namespace settle::fixed_point
