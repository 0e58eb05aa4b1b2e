#pragma once
#include <concepts>
#include <set>
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

/// Visits the parameters and, where the module has `buffers(visit)`, those values that are saved but not trained.
template <class M, class Visit>
void visit_state(M& module, Visit&& visit) {
  module.parameters(visit);
  if constexpr (requires { module.buffers(visit); }) module.buffers(visit);
}

/// Gives a module the parameters and buffers of another, by name; the other may be on another device. The way to a net
/// on another device is to make one of the same options there and to copy into it:
///
///     HgruNet<float> net = hgru_net<float>(options);
///     copy_parameters(trained_on_the_device, net);
///
/// Throws Error, and changes nothing, where names or shapes differ.
template <class From, class To>
void copy_parameters(const From& from, To& target) {
  From source = from;
  To result = target;
  std::set<std::string> left;
  visit_state(source, [&](const std::string& name, const auto&) { left.insert(name); });
  visit_state(result, [&]<class T, class D>(const std::string& name, Var<T, D>& parameter) {
    require(left.erase(name) == 1, "copy_parameters", "there is no '", name, "' to copy");
    visit_state(source, [&]<class U, class E>(const std::string& other, const Var<U, E>& given) {
      static_assert(std::same_as<T, U>, "settle: parameters are copied between modules of the same scalar type");
      if (other != name) return;
      require(given.shape() == parameter.shape(), "copy_parameters", "'", name, "': expected ", parameter.shape(),
              ", got ", given.shape());
      parameter = to<D>(given.value());
    });
  });
  if (!left.empty()) fail("copy_parameters", "there is no '", *left.begin(), "' to copy to");
  target = std::move(result);
}

}  // namespace settle
