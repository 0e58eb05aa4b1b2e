#pragma once
#include <set>
#include <string>
#include <utility>

#include "settle/autodiff/module.hpp"
#include "settle/io/safetensors.hpp"
#include "settle/optim/parameter_state.hpp"

namespace settle {

/// Adds a module's parameters and buffers to a file, as prefix + name.
template <class M>
void add_module(SafetensorsWriter& writer, const std::string& prefix, const M& module) {
  M copy = module;
  visit_state(copy, [&](const std::string& name, const auto& value) { writer.add(prefix + name, value.value()); });
}

/// Adds named tensors, such as an optimiser's state, to a file, as prefix + name.
template <class T, class Device>
void add_tensors(SafetensorsWriter& writer, const std::string& prefix, const NamedTensors<T, Device>& tensors) {
  for (const auto& [name, tensor] : tensors) writer.add(prefix + name, tensor);
}

/// The tensors that a file holds as prefix + name, in its order, converted to T.
template <Scalar T, class Device = Cpu>
NamedTensors<T, Device> load_tensors(const SafetensorsFile& file, const std::string& prefix) {
  NamedTensors<T, Device> out;
  for (const std::string& key : file.names)
    if (key.starts_with(prefix)) out.emplace_back(key.substr(prefix.size()), to<Device>(file.get_as<T>(key)));
  return out;
}

namespace detail {

/// each(module, visit) visits what is to be loaded.
template <class M, class Each>
void load_values(const SafetensorsFile& file, const std::string& prefix, M& module, const Each& each) {
  M result = module;
  std::set<std::string> loaded;
  each(result, [&]<class T, class D>(const std::string& name, Var<T, D>& value) {
    const std::string key = prefix + name;
    require(file.shape(key) == value.shape(), "safetensors", file.path(), ": '", key, "': expected shape ",
            value.shape(), ", got ", file.shape(key));
    value = to<D>(file.get_as<T>(key));
    loaded.insert(key);
  });
  for (const std::string& key : file.names)
    require(!key.starts_with(prefix) || loaded.contains(key), "safetensors", file.path(), ": '", key,
            "' is not a parameter of this model");
  module = std::move(result);
}

}  // namespace detail

/// Gives a module, on whichever device, the parameters that a file holds as prefix + name, converted to its scalar
/// type. Throws Error, and changes nothing, where one is missing or has another shape, or where the prefix names
/// others.
template <class M>
void load_parameters(const SafetensorsFile& file, const std::string& prefix, M& module) {
  detail::load_values(file, prefix, module, [](M& m, const auto& visit) { m.parameters(visit); });
}

/// The same for the parameters and the buffers: what add_module wrote.
template <class M>
void load_module(const SafetensorsFile& file, const std::string& prefix, M& module) {
  detail::load_values(file, prefix, module, [](M& m, const auto& visit) { visit_state(m, visit); });
}

}  // namespace settle
