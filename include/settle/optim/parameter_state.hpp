#pragma once
#include <string>
#include <utility>
#include <vector>

#include "settle/autodiff/module.hpp"
#include "settle/ops/map.hpp"

namespace settle::inline v0_2 {

/// Tensors with names, as they are saved and restored.
template <class T, class Device = Cpu>
using NamedTensors = std::vector<std::pair<std::string, Tensor<T, Device>>>;

namespace detail {

/// What an optimiser keeps for a module: one tensor of its shape per parameter, zero at first.
template <class T, class Device>
class ParameterState {
 public:
  explicit ParameterState(std::string name) : name_(std::move(name)) {}

  /// Makes the zeros on the first use. Throws Error when the module's parameters are not those of before.
  template <class M>
  void prepare(const char* where, M& module) {
    const bool first_use = values_.empty();
    std::size_t count = 0;
    module.parameters([&](const std::string& name, const Var<T, Device>& p) {
      if (first_use) values_.emplace_back(name, Tensor<T, Device>(p.shape(), T{0}));
      require(count < values_.size(), where, "expected ", values_.size(), " parameters as before, got ", name, " too");
      const auto& [known, value] = values_[count++];
      require(known == name && value.shape() == p.shape(), where, "expected parameter ", known, ' ', value.shape(),
              " as before, got ", name, ' ', p.shape());
    });
    require(count == values_.size(), where, "expected ", values_.size(), " parameters as before, got ", count);
  }

  Tensor<T, Device>& operator[](std::size_t k) { return values_[k].second; }
  /// The name of the parameter that the k-th is kept for.
  const std::string& parameter(std::size_t k) const { return values_[k].first; }

  /// Adds the tensors to a list, as "name.parameter".
  void save(NamedTensors<T, Device>& out) const {
    for (const auto& [parameter, value] : values_) out.emplace_back(name_ + '.' + parameter, value);
  }

  /// Takes back those tensors of a list that save() named. Throws Error, and changes nothing, when they are there but
  /// are not those of the module's parameters; none are where no step had been taken.
  template <class M>
  void restore(const char* where, const NamedTensors<T, Device>& from, M& module) {
    ParameterState restored(name_);
    for (const auto& [name, value] : from)
      if (name.starts_with(name_ + '.')) restored.values_.emplace_back(name.substr(name_.size() + 1), value);
    if (!restored.values_.empty()) restored.prepare(where, module);
    *this = std::move(restored);
  }

  bool empty() const { return values_.empty(); }

 private:
  std::string name_;
  NamedTensors<T, Device> values_;
};

/// Calls f(k, parameter, gradient) for each parameter, once all gradients are known to fit: an error changes nothing.
template <class T, class Device, class M, class F>
void for_each_gradient(const char* where, M& module, const std::vector<Var<T, Device>>& gradients, F&& f) {
  std::size_t count = 0;
  module.parameters([&](const std::string& name, const Var<T, Device>& p) {
    require(!p.tape(), where, "expected a module of constants: parameter ", name, " is on a tape");
    require(count < gradients.size(), where, "expected a gradient for each parameter, got ", gradients.size());
    require(gradients[count].shape() == p.shape(), where, "expected a gradient of shape ", p.shape(), " for ", name,
            ", got ", gradients[count].shape());
    ++count;
  });
  require(count == gradients.size(), where, "expected ", count, " gradients, got ", gradients.size());
  std::size_t k = 0;
  module.parameters([&](const std::string&, Var<T, Device>& p) {
    f(k, p, stop_gradient(gradients[k]));
    ++k;
  });
}

/// The tensor called `name` in a list. Throws Error when there is none.
template <class T, class Device>
const Tensor<T, Device>& find_named(const char* where, const NamedTensors<T, Device>& list, const std::string& name) {
  for (const auto& [known, value] : list)
    if (known == name) return value;
  fail(where, "expected a tensor '", name, "' in the saved state, found none");
}

}  // namespace detail
}  // namespace settle
