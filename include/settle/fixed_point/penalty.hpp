#pragma once
#include "settle/autodiff/grad.hpp"
#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/variables.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::fixed_point {

namespace detail {

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
Var<T, D> lcp_of_block(const Vars<T, D>& z_next, const Vars<T, D>& z, const Lcp& options) {
  Vars<T, D> ones;
  for (const auto& part : z_next) ones.emplace_back(Tensor<T, D>(part.shape(), T{1}));
  const Vars<T, D> r = Pullback<T, D>(z_next, z)(ones, true);
  Var<T, D> total;
  Index count = 0;
  for (const auto& part : r) {
    const Var<T, D> excess = hinge(part, options);
    total = total.defined() ? total + excess : excess;
    count += part.size();
  }
  return options.reduction == Reduction::sum || count == 0 ? total : (1.0 / static_cast<double>(count)) * total;
}

template <class T, class D>
Var<T, D> lcp_of(const Vars<T, D>& z_next, const Vars<T, D>& z, const Lcp& options) {
  require(z_next.size() == z.size(), "lcp", "expected a next state of ", z.size(), " parts, got ", z_next.size());
  if (options.blocks == Blocks::full) return lcp_of_block(z_next, z, options);
  Var<T, D> total;
  for (std::size_t p = 0; p < z.size(); ++p) {
    const Var<T, D> term = lcp_of_block<T, D>({z_next[p]}, {z[p]}, options);
    total = total.defined() ? total + term : term;
  }
  return total;
}

}  // namespace detail

/// The Lipschitz coefficient penalty of a recorded step from z to z_next, a scalar on their tape: see Lcp. Its gradient
/// flows through z too, into whatever made it (C-BPTT, paper 1.9).
template <State Z>
detail::variable_of<Z> lcp(const Z& z_next, const Z& z, const Lcp& options = {}) {
  using V = detail::variable_of<Z>;
  return detail::lcp_of(detail::variables<V>(z_next), detail::variables<V>(z), options);
}

}  // namespace settle::fixed_point
