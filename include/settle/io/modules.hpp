#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/autodiff/module.hpp"
#include "settle/io/safetensors.hpp"
#include "settle/optim/parameter_state.hpp"

namespace settle::inline v0_2 {

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

/// What became of each name when a file was loaded into a module. All are written as in the file, prefix and all.
struct LoadReport {
  std::vector<std::string> loaded;
  std::vector<std::string> missing;     ///< the module has it, the file has not
  std::vector<std::string> unexpected;  ///< the file has it under that prefix, the module has not
  std::vector<std::string> mismatched;  ///< of another shape in the file, or of a type that is not computed with
  std::string complaints;  ///< what is wrong, in one text of bounded length; empty where the whole module was loaded

  bool complete() const { return complaints.empty(); }
};

namespace detail {

/// Loads what fits. Only PyTorch's num_batches_tracked, which no model here has a use for, may be left over in silence.
class ModuleLoader {
 public:
  ModuleLoader(const SafetensorsFile& file, const std::string& prefix) : file_(file), prefix_(prefix) {}

  template <class T, class D>
  void load(const std::string& name, Var<T, D>& value) {
    const std::string key = prefix_ + name;
    known_.insert(key);
    if (!file_.has(key)) {
      report_.missing.push_back(key);
      absent_.push_back(name);
      complain(report_.missing.size() == 1 ? file_.absent(key) : "nor '" + shortened(key) + "'");
    } else if (const Shape expected = value.shape(); !std::ranges::equal(file_.extents(key), expected)) {
      report_.mismatched.push_back(key);
      std::ostringstream text;
      text << '\'' << shortened(key) << "': expected shape " << expected << ", got " << in_words(file_.extents(key));
      complain(text.str());
    } else if (!file_.converts(key)) {
      report_.mismatched.push_back(key);
      complain(file_.description(key) + ": this type is not one to compute with");
    } else {
      report_.loaded.push_back(key);
      value = to<D>(file_.get_as<T>(key));
    }
  }

  LoadReport finish() {
    for (const std::string& key : file_.names) {
      if (!key.starts_with(prefix_) || known_.contains(key) || is_count(key)) continue;
      report_.unexpected.push_back(key);
      complain("'" + shortened(key) + "' is not a parameter of this model");
    }
    report_.complaints = listed(complaints_, "; ") + hint();
    return std::move(report_);
  }

 private:
  void complain(std::string text) { complaints_.push_back(std::move(text)); }

  static bool is_count(std::string_view key) {
    const std::string_view count = "num_batches_tracked";
    return key == count || (key.ends_with(count) && key[key.size() - count.size() - 1] == '.');
  }

  /// The prefix under which most of what is missing would be found, as "module." of PyTorch's DataParallel.
  std::string hint() const {
    std::map<std::string, std::size_t> prefixes;
    for (const std::string& name : absent_)
      for (const std::string& key : file_.names)
        if (key.ends_with(name)) {
          const std::string prefix = key.substr(0, key.size() - name.size());
          if (prefix.empty() || prefix.ends_with('.')) ++prefixes[prefix];
        }
    const auto best = std::max_element(prefixes.begin(), prefixes.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    if (best == prefixes.end() || 2 * best->second < absent_.size()) return {};
    return "; with the prefix '" + shortened(best->first) + "' in place of '" + shortened(prefix_) + "', " +
           std::to_string(best->second) + " of the " + std::to_string(absent_.size()) + " missing would be found";
  }

  const SafetensorsFile& file_;
  std::string prefix_;
  std::set<std::string> known_;
  std::vector<std::string> absent_, complaints_;
  LoadReport report_;
};

template <class M, class Each>
LoadReport load_values(const SafetensorsFile& file, const std::string& prefix, M& module, const Each& each) {
  ModuleLoader loader(file, prefix);
  each(module, [&](const std::string& name, auto& value) { loader.load(name, value); });
  return loader.finish();
}

template <class M, class Each>
void load_all(const SafetensorsFile& file, const std::string& prefix, M& module, const Each& each) {
  M result = module;
  const LoadReport report = load_values(file, prefix, result, each);
  require(report.complete(), "safetensors", file.path(), ": ", report.complaints);
  module = std::move(result);
}

}  // namespace detail

/// Gives a module, on whichever device, the parameters that a file holds as prefix + name, converted to its scalar
/// type. Throws Error, and changes nothing, where one is missing or has another shape, or where the prefix names
/// others; PyTorch's num_batches_tracked is passed over. The message lists all of them, what the file has in their
/// place, and the prefix with which they would be found.
template <class M>
void load_parameters(const SafetensorsFile& file, const std::string& prefix, M& module) {
  detail::load_all(file, prefix, module, [](M& m, const auto& visit) { m.parameters(visit); });
}

/// The same for the parameters and the buffers: what add_module wrote.
template <class M>
void load_module(const SafetensorsFile& file, const std::string& prefix, M& module) {
  detail::load_all(file, prefix, module, [](M& m, const auto& visit) { visit_state(m, visit); });
}

/// Gives a module those parameters and buffers of a file that fit, leaves the others as they are, and says which.
template <class M>
LoadReport load_what_fits(const SafetensorsFile& file, const std::string& prefix, M& module) {
  return detail::load_values(file, prefix, module, [](M& m, const auto& visit) { visit_state(m, visit); });
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
