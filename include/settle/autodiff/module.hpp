#pragma once
#include <concepts>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"

namespace settle::inline v0_2 {

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

/// Visits the buffers of a part of a module, if it has any, under "prefix.".
template <class M, class Visit>
void visit_buffers(const std::string& prefix, M& part, Visit&& visit) {
  const auto named = [&](const std::string& name, auto& buffer) { visit(prefix + '.' + name, buffer); };
  if constexpr (requires { part.buffers(named); }) part.buffers(named);
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

/// Finds what a module forgets: `check(net)`, once when it is written. Throws Error where
/// - it holds a tensor, also in a part or in a container, that neither parameters() nor buffers() visits: a silent
///   constant, which no training changes and no file has;
/// - two parameters have one name, one is visited twice, or one has no value;
/// - copies of the module share a parameter, as through a pointer: a copy on a tape would change the module.
/// It counts who shares each tensor's memory while it copies the module, so no other thread may copy it meanwhile.
template <class M>
  requires requires(M& m) { m.parameters([](const std::string&, auto&) {}); }
void check(const M& module) {
  std::string listed;
  std::set<std::string> names;
  std::set<const void*> places;
  std::map<const void*, int> visited;  // how many parameters each block has
  using References = std::map<const void*, int> (*)();
  std::set<References> devices{[] { return Memory::instance().references(); }};
  M probe = module, other = module;
  visit_state(probe, [&]<class T, class D>(const std::string& name, Var<T, D>& parameter) {
    require(names.insert(name).second, "check", "two parameters are called '", name, "'");
    require(places.insert(&parameter).second, "check", "'", name, "' is visited under another name too");
    require(parameter.defined(), "check", "'", name, "' has no value");
    if (parameter.size() > 0) ++visited[parameter.value().data()];
    listed += (listed.empty() ? "" : ", ") + name;
    if constexpr (!std::same_as<D, Cpu>) devices.insert([] { return MemoryOf<D>::instance().references(); });
  });
  visit_state(other, [&](const std::string& name, auto& parameter) {
    require(!places.contains(&parameter), "check", "copies of the module share '", name, "'");
  });
  for (const References references : devices) {
    constexpr int copies = 8;  // what other threads do with other tensors meanwhile counts less
    const auto before = references();
    const std::vector<M> held(copies, module);
    for (const auto& [data, count] : references()) {
      const auto known = before.find(data);
      const int grown = count - (known == before.end() ? count : known->second);
      const auto seen = visited.find(data);
      require(grown / copies <= (seen == visited.end() ? 0 : seen->second), "check",
              "the module holds a tensor that neither parameters() nor buffers() visits, and so is never trained or "
              "saved; they visit ", listed.empty() ? "nothing" : listed.c_str());
    }
  }
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
