#pragma once
#include "settle/optim/parameter_groups.hpp"
#include "settle/optim/parameter_state.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// What a step makes of a parameter, its gradient and its momentum; `now` and `past` are the shares of the gradient and
/// of the new momentum in the step.
struct SgdUpdate {
  static constexpr bool rarely_differentiated = true;

  constexpr auto operator()(auto w, auto g, auto b, auto decay, auto momentum, auto now, auto past, auto rate) const {
    const auto slope = g + decay * w, b1 = momentum * b + slope;
    return outputs(w - rate * (now * slope + past * b1), b1);
  }
};

}  // namespace detail

/// Stochastic gradient descent with momentum, as in PyTorch: with the gradient g (plus weight_decay times the parameter
/// p), b = momentum b + g and p = p - rate b; with Nesterov's momentum p = p - rate (g + momentum b). Keeps one tensor
/// per parameter.
template <Scalar T, class Device = Cpu>
class Sgd {
 public:
  struct Options {
    double rate = 1e-2;       ///< >= 0
    double momentum = 0;      ///< from 0, below 1
    double weight_decay = 0;  ///< >= 0
    bool nesterov = false;
    std::vector<ParameterGroup> groups = {};
  };

  Options options;  ///< may change between steps

  Sgd() = default;
  explicit Sgd(const Options& o) : options(o) {}

  /// Updates the parameters of a module of constants, given one gradient for each in the module's order. Allocates
  /// nothing after the first step. Throws Error when the gradients, the parameters or the groups do not fit, or an
  /// option is out of its range.
  template <class M>
  void step(M& module, const std::vector<Var<T, Device>>& gradients) {
    detail::require_amount("sgd", "rate", options.rate);
    detail::require_amount("sgd", "weight_decay", options.weight_decay);
    detail::require_memory("sgd", "momentum", options.momentum);
    require(!options.nesterov || options.momentum > 0, "sgd", "Nesterov's momentum needs a momentum above 0, got ",
            options.momentum);
    if (momentum_.empty()) check_groups("sgd", options.groups, module);
    momentum_.prepare("sgd", module);
    const double now = options.nesterov ? 1 : 0, past = options.nesterov ? options.momentum : 1;
    detail::for_each_gradient("sgd", module, gradients, [&](std::size_t k, auto& p, const auto& gradient) {
      const GroupSettings own(options.groups, momentum_.parameter(k), options.rate, options.weight_decay);
      const auto updated = map(detail::SgdUpdate{}, p, gradient, Var(momentum_[k]), own.weight_decay, options.momentum,
                               now, past, own.rate);
      p = updated[0], momentum_[k] = updated[1].value();
    });
  }

  /// The momentum, by name.
  NamedTensors<T, Device> state() const {
    NamedTensors<T, Device> out;
    momentum_.save(out);
    return out;
  }

  /// Continues with a module from a saved state. Throws Error, and changes nothing, when it is another module's.
  template <class M>
  void restore(const NamedTensors<T, Device>& state, M& module) {
    momentum_.restore("sgd", state, module);
  }

 private:
  detail::ParameterState<T, Device> momentum_{"momentum"};
};

}  // namespace settle
