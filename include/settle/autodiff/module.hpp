#pragma once
#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"

namespace settle {

/// A module is a copyable value that names its parameters: `parameters(visit)` calls visit(name, var) for each of them,
/// always in the same order, with a Var that may be replaced:
///
///     struct Cell {
///       Var<float> w, b;
///       void parameters(auto&& visit) { visit("w", w), visit("b", b); }
///     };
template <class M, class V>
concept Module = std::copyable<M> && requires(M& m) { m.parameters([](const std::string&, V&) {}); };

/// Visits the parameters of a part of a module under "prefix.": `visit_part("unit1", cell, visit)`.
template <class M, class Visit>
void visit_part(const std::string& prefix, M& part, Visit&& visit) {
  part.parameters([&](const std::string& name, auto& parameter) { visit(prefix + '.' + name, parameter); });
}

/// A copy of the module with each parameter replaced by f(parameter).
template <class M, class F>
M with_parameters(M module, F&& f) {
  module.parameters([&](const std::string&, auto& parameter) { parameter = f(std::as_const(parameter)); });
  return module;
}

/// A copy of the module whose parameters are leaves of `tape`: what it computes can be differentiated.
template <class M, class T, class D>
M on_tape(const M& module, Tape<T, D>& tape) {
  return with_parameters(module, [&](const Var<T, D>& p) { return tape.leaf(p.value()); });
}

/// A copy of the module whose parameters are constants.
template <class M>
M as_constants(const M& module) {
  return with_parameters(module, [](const auto& p) { return stop_gradient(p); });
}

/// The module's parameters, in the order in which it names them.
template <class V, class M>
std::vector<V> parameters(const M& module) {
  std::vector<V> out;
  M copy = module;
  copy.parameters([&](const std::string&, const V& p) { out.push_back(p); });
  return out;
}

/// The parameters' names, in the same order.
template <class M>
std::vector<std::string> parameter_names(const M& module) {
  std::vector<std::string> out;
  M copy = module;
  copy.parameters([&](const std::string& name, const auto&) { out.push_back(name); });
  return out;
}

/// The number of values in all parameters together.
template <class M>
Index parameter_count(const M& module) {
  Index count = 0;
  M copy = module;
  copy.parameters([&](const std::string&, const auto& p) { count += p.size(); });
  return count;
}

}  // namespace settle
