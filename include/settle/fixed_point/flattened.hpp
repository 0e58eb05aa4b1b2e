#pragma once
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/fixed_point/solve.hpp"

namespace settle::inline v0_2::fixed_point::detail {

/// A step with its arguments in terms of flat lists.
template <class T, class D>
struct Flattened {
  FlatStep<T, D> step;
  Vars<T, D> arguments;  ///< the step's parameters, then the arguments' variables
  Values<T, D> start;
};

template <class Z, class F, class... A>
auto flattened_prepared(const F& step, const Z& z0, const A&... arguments) {
  using V = variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  return Flattened<T, D>{flatten_step<Z>(step, arguments...), variables<V>(std::tuple<F, A...>(step, arguments...)),
                         values_of<T, D>(variables<V>(z0))};
}

/// The step with what its `prepare` makes of the arguments, if it has one.
template <class Z, class F, class... A>
auto flattened(const F& step, const Z& z0, const A&... arguments) {
  if constexpr (requires { step.prepare(arguments...); }) {
    const auto prepared = step.prepare(arguments...);
    if constexpr (is_tuple_like<std::remove_cvref_t<decltype(prepared)>>::value)
      return std::apply([&](const auto&... part) { return flattened_prepared(step, z0, part...); }, prepared);
    else
      return flattened_prepared(step, z0, prepared);
  } else {
    return flattened_prepared(step, z0, arguments...);
  }
}

/// The step on values, its arguments constant.
template <class T, class D>
ValueMap<T, D> value_map(const Flattened<T, D>& flat) {
  Vars<T, D> fixed;
  for (const auto& a : flat.arguments) fixed.push_back(stop_gradient(a));
  return on_values<T, D>(flat.step(fixed));
}

/// Puts a state on the arguments' tape; pull(cotangents of its parts, needed arguments, gradients) is the rule.
template <class Z, class T, class D, class Pull>
Z on_arguments_tape(const char* name, const Flattened<T, D>& flat, const Values<T, D>& z, const Pull& pull) {
  Tape<T, D>* tape = recording_tape<T, D>(name, flat.arguments);
  const Vars<T, D> results = record_outputs<T, D>(
      name, z, flat.arguments,
      [name, tape, pull, arguments = flat.arguments, z](std::span<const Var<T, D>> given, Cotangents<T, D>& gradients) {
        require(!tape->recording(), name, "this gradient cannot be differentiated again");
        std::vector<std::size_t> needed;
        for (std::size_t k = 0; k < arguments.size(); ++k)
          if (arguments[k].tape() && gradients.needs(k)) needed.push_back(k);
        Values<T, D> b;
        for (std::size_t p = 0; p < z.size(); ++p)
          b.push_back(given[p].defined() ? given[p].value() : Tensor<T, D>(z[p].shape(), T{0}));
        if (!needed.empty()) pull(b, needed, gradients);
      });
  Z out{};
  auto part = results.begin();
  replace_variables<Var<T, D>>(out, part);
  return out;
}

/// a x + b y for all parts.
template <class T, class D>
Values<T, D> combined(double a, const Values<T, D>& x, double b, const Values<T, D>& y) {
  Values<T, D> out = x;
  mix(out, {a}, y, {b});
  return out;
}

}  // namespace settle::fixed_point::detail
