#pragma once
#include <array>
#include <concepts>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "settle/autodiff/module.hpp"

// How a step's state and arguments are seen as flat lists of variables: a Var is one, an array, tuple or vector has
// those of its elements, a module those that it names, and anything else has none.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D = Cpu>
using Vars = std::vector<Var<T, D>>;

template <class X>
struct is_tuple_like : std::false_type {};
template <class V, std::size_t N>
struct is_tuple_like<std::array<V, N>> : std::true_type {};
template <class... V>
struct is_tuple_like<std::tuple<V...>> : std::true_type {};

template <class X>
struct is_vector : std::false_type {};
template <class V>
struct is_vector<std::vector<V>> : std::true_type {};

/// Calls visit(var) for each variable of type V in x, always in the same order.
template <class V, class X, class Visit>
void each_variable(X& x, const Visit& visit) {
  if constexpr (std::same_as<X, V>) {
    visit(x);
  } else if constexpr (is_tuple_like<X>::value) {
    std::apply([&](auto&... parts) { (each_variable<V>(parts, visit), ...); }, x);
  } else if constexpr (is_vector<X>::value) {
    for (auto& part : x) each_variable<V>(part, visit);
  } else if constexpr (Module<X, V>) {
    x.parameters([&](const std::string&, auto& parameter) { each_variable<V>(parameter, visit); });
  }
}

/// The variables in x.
template <class V, class X>
std::vector<V> variables(const X& x) {
  std::vector<V> out;
  X copy = x;
  each_variable<V>(copy, [&](const V& v) { out.push_back(v); });
  return out;
}

/// Replaces the variables in x by those from `next` on, which is moved past them.
template <class V, class X>
void replace_variables(X& x, typename std::vector<V>::const_iterator& next) {
  each_variable<V>(x, [&](V& v) { v = *next++; });
}

template <class Z>
struct state_variable;
template <class T, class D>
struct state_variable<Var<T, D>> {
  using type = Var<T, D>;
};
template <class T, class D, std::size_t N>
struct state_variable<std::array<Var<T, D>, N>> {
  using type = Var<T, D>;
};
template <class T, class D, std::same_as<Var<T, D>>... Rest>
struct state_variable<std::tuple<Var<T, D>, Rest...>> {
  using type = Var<T, D>;
};

/// The type of variable that a state is made of.
template <class Z>
using variable_of = typename state_variable<Z>::type;

}  // namespace settle::fixed_point::detail

namespace settle::inline v0_2::fixed_point {

/// A state: a Var, or a std::array or std::tuple of Vars of one type.
template <class Z>
concept State = requires {
  typename detail::variable_of<Z>;
};

/// A step: a callable `Z f(const Z& z, const A&... arguments)` without side effects. Whatever is to be differentiated
/// is an argument, or a parameter that the step declares as a Module.
template <class F, class Z, class... A>
concept Step = State<Z> && requires(const F& f, const Z& z, const A&... arguments) {
  { f(z, arguments...) } -> std::convertible_to<Z>;
};

}  // namespace settle::fixed_point
