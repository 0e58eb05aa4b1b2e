#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "settle/core/random.hpp"
#include "settle/distributed/all_reduce.hpp"
#include "settle/distributed/together.hpp"
#include "settle/fixed_point/linearised.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::inline v0_2::fixed_point {

namespace detail {

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

/// A sum over the elements of the ranks' samples: this rank's own, so that its mean by samples is that of all.
template <class T, class D>
Var<T, D> sum_of_batch(const Var<T, D>& own) {
  const distributed::JoinedBatch* const batch = distributed::Together::current();
  return batch ? (1 / batch->share.weight()) * own : own;
}

/// Passes over the random words of the other ranks' samples, while `draw` draws those of a part of a state: `words` for
/// each of its numbers. So a sample's numbers go by its place in the whole batch.
template <class Draw>
void draw_by_place(const Shape& part, Random& random, std::uint64_t words, const Draw& draw) {
  const distributed::JoinedBatch* const batch = distributed::Together::current();
  const bool shared = batch && part.rank() > 0 && part[0] == batch->share.count;
  std::uint64_t sample = words;  // words of one
  for (int axis = 1; axis < part.rank(); ++axis) sample *= static_cast<std::uint64_t>(part[axis]);
  const auto pass_over = [&](Index samples) {
    if (shared) random.skip(static_cast<std::uint64_t>(samples) * sample);
  };
  const distributed::Share share = batch ? batch->share : distributed::Share{};
  pass_over(share.first);
  draw();
  pass_over(share.all - share.first - share.count);
}

/// Standard normal numbers in the shapes of a state.
template <class T, class D>
Values<T, D> normal_by_place(const Values<T, D>& like, Random& random) {
  Values<T, D> out;
  for (const auto& part : like)
    draw_by_place(part.shape(), random, 4, [&] { out.push_back(normal<T, D>(part.shape(), 0, 1, random)); });
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
  if (options.reduction == Reduction::sum) return sum_of_batch(total(terms));
  return count == 0 ? total(terms) : (1.0 / static_cast<double>(count)) * total(terms);
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
  // Over ranks J mixes what they have: each one's u is to have its weight in the whole batch's value.
  const distributed::JoinedBatch* const batch = distributed::Together::current();
  Values<T, D> slopes = values_of(grad(value, r));
  if (batch) scale(slopes, filled(1, batch->share.weight()));
  const Vars<T, D> u = constants<T, D>(slopes);
  Vars<T, D> c;
  for (const auto& part : z_next) c.push_back(z.front().tape()->leaf(Tensor<T, D>(part.shape(), T{0})));
  Vars<T, D> terms;
  for (const auto& part : Pullback<T, D>(product(c, true), c)(u, true)) terms.push_back(sum(part));
  return {stop_gradient(value), sum_of_batch(total(terms))};
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
      draw_by_place(part.shape(), random, options.rademacher ? 1 : 4, [&] {
        for (Index k = 0; k < direction.size(); ++k)
          x[k] = static_cast<T>(options.rademacher ? (random.bits() & 1u ? 1.0 : -1.0) : random.normal());
      });
      v.emplace_back(to<D>(direction));
    }
    for (const auto& part : product(v, true)) terms.push_back(sum(map([](auto x) { return x * x; }, part)));
  }
  const double probes = static_cast<double>(options.probes);
  if (options.reduction == Reduction::sum) return sum_of_batch((1.0 / probes) * total(terms));
  return (1.0 / (probes * static_cast<double>(count))) * total(terms);
}

/// The shape of a number for each system, as it stands beside a part of a state.
inline Shape shape_of_systems(Shape part, Index systems) {
  for (int axis = 0; axis < part.rank(); ++axis)
    if (axis > 0 || systems == 1) part[axis] = 1;
  return part;
}

/// Each system's squared norm, over all parts.
template <class T, class D>
Var<T, D> squared_norms(const Vars<T, D>& parts, Index systems, const char* where) {
  Var<T, D> out;
  for (const auto& part : parts) {
    const Var<T, D> squares = sum_to(map([](auto x) { return x * x; }, part), shape_of_systems(part.shape(), systems));
    require(!out.defined() || out.shape().rank() == squares.shape().rank(), where,
            "the state's parts must have the same number of axes");
    out = out.defined() ? out + squares : squares;
  }
  return OverRanks::current() ? distributed::all_reduce(out, *OverRanks::current()) : out;
}

/// See Movement. A state of zeros that stays there does not move. One of an extreme size is brought near 1, where its
/// squares are numbers: the quotient stays what it is.
template <class T, class D>
Var<T, D> movement_of(const Vars<T, D>& z_next, const Vars<T, D>& z, Index systems) {
  const Units units(moved(values_of(z_next), values_of(z), systems), std::numeric_limits<T>::max_exponent);
  Vars<T, D> steps, sizes = z_next;
  for (std::size_t p = 0; p < z.size(); ++p) {
    steps.push_back(z_next[p] - stop_gradient(z[p]));
    if (units.all_one()) continue;
    Tensor<T> powers(shape_of_systems(z[p].shape(), systems));
    std::transform(units.powers.begin(), units.powers.end(), powers.mutable_data(),
                   [](double power) { return static_cast<T>(power); });
    const Var<T, D> unit(to<D>(powers));
    steps[p] = unit * steps[p], sizes[p] = unit * sizes[p];
  }
  return mean(map([](auto distance, auto size, auto least) { return distance / max(size, least); },
                  squared_norms(steps, systems, "movement"), squared_norms(sizes, systems, "movement"),
                  static_cast<double>(std::numeric_limits<T>::min())));
}

/// Unit vectors, one for each system: scaled in place.
template <class T, class D>
void normalise(Values<T, D>& v, Index systems) {
  Numbers lengths = norms(v, systems);
  for (double& length : lengths) length = std::isnormal(length) && std::isnormal(1 / length) ? 1 / length : 0;
  scale(v, lengths);
}

/// Mixes a thousandth of a random direction into those that a power iteration goes on with: what an earlier Jacobian
/// sent to nothing, no product brings back.
template <class T, class D>
void refresh(Values<T, D>& direction, Values<T, D> drawn, Index systems) {
  normalise(drawn, systems);
  add_scaled(direction, drawn, filled(static_cast<std::size_t>(systems), 1e-3));
  normalise(direction, systems);
}

/// `direction` is where the power iteration starts from, of z's shapes or empty, and then where it got to. A system
/// that has none, or is not finite there, starts from a random one.
template <class T, class D>
Var<T, D> spectral_hinge_of(const Vars<T, D>& z_next, const Vars<T, D>& z, const SpectralHinge& options, Index systems,
                            Values<T, D>& direction) {
  Pullback<T, D> product(z_next, z);
  const bool goes_on = !direction.empty();
  if (!goes_on) direction = zeros_like(values_of(z));
  Numbers has = norms(direction, systems);
  for (double& length : has) length = length > 0 && std::isfinite(length) ? 1 : 0;
  Random random(options.seed);
  const Values<T, D> drawn = normal_by_place(values_of(z), random);
  if (!is_full(has)) mix(direction, has, drawn, others(has));
  normalise(direction, systems);
  if (goes_on) refresh(direction, drawn, systems);
  for (int k = 0; k < options.products; ++k) {
    direction = values_of(product(constants<T, D>(direction)));
    normalise(direction, systems);
  }
  const Var<T, D> squared = squared_norms(product(constants<T, D>(direction), true), systems, "spectral_hinge");
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
  detail::check(options);
  require(options.route == Route::second_order_tape, "lcp", "a penalty on a tape needs Route::second_order_tape");
  return detail::lcp_of(detail::variables<V>(z_next), detail::variables<V>(z), options).value;
}

}  // namespace settle::fixed_point
