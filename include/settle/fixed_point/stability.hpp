#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/distributed/together.hpp"
#include "settle/fixed_point/solve.hpp"

namespace settle::inline v0_2::fixed_point {

/// What stability_profile measures after `step` applications of the step.
struct StabilityPoint {
  int step = 0;
  double residual = 0;         ///< |f(z) - z| / |f(z)|
  double distance = 0;         ///< |z - reference state| / |reference state|
  double spectral_radius = 0;  ///< of the step's Jacobian at z: see StabilitySettings::products
  double metric = 0;
};

struct StabilitySettings {
  int steps = 60;      ///< how far the iteration is followed
  int reference = 20;  ///< the step whose state distances are measured from: that of training
  /// Products with Jᵀ at each step, 0 for no spectral radius: a power iteration that is carried on from step to step,
  /// so that it is exact only after a few steps near a point. The first product of several turns the direction, in
  /// which a thousandth is random, to this step's Jacobian; the growth is that of the others.
  int products = 4;
};

namespace detail {

template <class P>
auto as_tuple(const P& prepared) {
  if constexpr (is_tuple_like<P>::value)
    return prepared;
  else
    return std::tuple<P>(prepared);
}

template <class F, class Z, class Metric, class... A>
std::vector<StabilityPoint> profile_prepared(const F& step, const StabilitySettings& settings, const Z& z0,
                                             const Metric& metric, const A&... arguments) {
  using V = variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  const FlatStep<T, D> flat = flatten_step<Z>(step, arguments...);
  Vars<T, D> fixed = variables<V>(std::tuple<F, A...>(step, arguments...));
  for (auto& v : fixed) v = stop_gradient(v);
  const VariableMap<T, D> map = flat(fixed);
  const ValueMap<T, D> f = on_values<T, D>(map);

  require(settings.steps >= 0 && settings.reference >= 0 && settings.products >= 0, "stability_profile",
          "expected steps, reference and products of at least 0, got ", settings.steps, ", ", settings.reference,
          " and ", settings.products);
  const OverRanks whole_batch(distributed::Together::now().group);
  Values<T, D> z = values_of<T, D>(variables<V>(z0)), reference = z, direction = zeros_like(z);
  for (int k = 0; k < settings.reference; ++k) reference = f(reference);
  const double reference_size = norms(reference, 1).front();
  Random random(0);
  const auto growth_in = [&](Pullback<T, D>& product) {
    refresh(direction, normal_by_place(z, random), 1);
    double logarithm = 0;
    for (int i = 0; i < settings.products; ++i) {
      direction = values_of<T, D>(product(constants<T, D>(direction)));
      if (i > 0 || settings.products == 1) logarithm += std::log(norms(direction, 1).front());
      normalise(direction, 1);
    }
    return std::exp(logarithm / std::max(1, settings.products - 1));
  };

  std::vector<StabilityPoint> out;
  for (int k = 1; k <= settings.steps; ++k) {
    z = f(z);
    StabilityPoint point{.step = k};
    // The Jacobian at z and f(z) come from one recorded application.
    Tape<T, D> tape;
    Vars<T, D> state;
    for (const auto& part : z) state.push_back(tape.leaf(part));
    const Vars<T, D> next = map(state);
    const Values<T, D> next_values = values_of<T, D>(next);
    const Moved by_step = moved(next_values, z, 1);
    point.residual = relative(by_step.distances.front(), by_step.sizes.front());
    point.distance = relative(moved(z, reference, 1).distances.front(), reference_size);
    Pullback<T, D> product(next, state);
    if (settings.products > 0) point.spectral_radius = growth_in(product);
    Z now{};
    const Vars<T, D> parts = constants<T, D>(z);
    auto part = parts.begin();
    replace_variables<V>(now, part);
    point.metric = static_cast<double>(metric(std::as_const(now)));
    out.push_back(point);
  }
  return out;
}

}  // namespace detail

/// Follows z <- f(z, arguments...) for many more steps than training took, and measures at each of them whether the
/// state has settled, and the task's metric: `metric(z)`, a number. Norms are over the whole batch.
template <class F, State Z, class Metric, class... A>
std::vector<StabilityPoint> stability_profile(const F& step, const StabilitySettings& settings, const Z& z0,
                                              const Metric& metric, const A&... arguments) {
  if constexpr (requires { step.prepare(arguments...); })
    return std::apply(
        [&](const auto&... prepared) { return detail::profile_prepared(step, settings, z0, metric, prepared...); },
        detail::as_tuple(step.prepare(arguments...)));
  else
    return detail::profile_prepared(step, settings, z0, metric, arguments...);
}

}  // namespace settle::fixed_point
