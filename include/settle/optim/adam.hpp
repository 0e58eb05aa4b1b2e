#pragma once
#include <cmath>
#include <limits>

#include "settle/optim/parameter_groups.hpp"
#include "settle/optim/parameter_state.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// What a step makes of a parameter, its gradient and its moments.
struct AdamUpdate {
  static constexpr bool rarely_differentiated = true;

  constexpr auto operator()(auto w, auto g, auto m, auto v, auto kept, auto decay, auto b1, auto b2, auto new1,
                            auto new2, auto largest, auto eps, auto rate, auto correction) const {
    const auto sum = g + decay * w;
    const auto slope = select(abs(sum) < infinity, clamp(sum, -largest, largest), sum);
    const auto m1 = b1 * m + new1 * slope, v1 = b2 * v + new2 * square(slope);
    return outputs(kept * w - rate * m1 / (sqrt(v1) * correction + eps), m1, v1);
  }

  static constexpr double infinity = std::numeric_limits<double>::infinity();
};

/// What Adam and AdamW keep: the number of steps, and each parameter's first and second moment.
template <Scalar T, class Device>
struct AdamMoments {
  int steps = 0;
  ParameterState<T, Device> first{"first"}, second{"second"};

  NamedTensors<T, Device> state() const {
    NamedTensors<T, Device> out{{"steps", Tensor<T, Device>(Shape{}, static_cast<T>(steps))}};
    first.save(out), second.save(out);
    return out;
  }

  /// Those of a saved state. Throws Error when it lacks the number of steps or, after any, a module's moments.
  template <class M>
  static AdamMoments restored(const char* where, const NamedTensors<T, Device>& state, M& module) {
    AdamMoments out;
    out.steps = static_cast<int>(find_named(where, state, "steps").item());
    out.first.restore(where, state, module), out.second.restore(where, state, module);
    for (const auto* moments : {&out.first, &out.second})
      require(out.steps == 0 || !moments->empty(), where, "expected both moments in the saved state of ", out.steps,
              " steps");
    return out;
  }
};

/// Adam, whose weight decay is part of the gradient, and AdamW, whose is not (`decoupled`).
template <Scalar T, class Device, bool decoupled>
class AdamFamily {
 public:
  struct Options {
    double rate = 1e-3;                          ///< >= 0
    double beta1 = 0.9, beta2 = 0.999;           ///< from 0, below 1
    double epsilon = 1e-8;                       ///< > 0
    double weight_decay = decoupled ? 1e-2 : 0;  ///< >= 0
    std::vector<ParameterGroup> groups = {};
  };

  Options options;  ///< may change between steps: `adam.options.rate = schedule(step);`

  AdamFamily() = default;
  explicit AdamFamily(const Options& o) : options(o) {}

  /// Updates the parameters of a module of constants, given one gradient for each in the module's order. Allocates
  /// nothing after the first step. Throws Error when the gradients, the parameters or the groups do not fit, or an
  /// option is out of its range.
  template <class M>
  void step(M& module, const std::vector<Var<T, Device>>& gradients) {
    require_amount(name, "rate", options.rate), require_amount(name, "weight_decay", options.weight_decay);
    require_memory(name, "beta1", options.beta1), require_memory(name, "beta2", options.beta2);
    require(options.epsilon > 0 && std::isfinite(options.epsilon), name, "expected epsilon > 0 and finite, got ",
            options.epsilon);
    if (moments_.steps == 0) check_groups(name, options.groups, module);
    moments_.first.prepare(name, module), moments_.second.prepare(name, module);
    const int steps = moments_.steps + 1;
    const double correction = 1 - std::pow(options.beta1, steps);
    const double root = 1 / std::sqrt(1 - std::pow(options.beta2, steps));
    const double largest = std::sqrt(static_cast<double>(std::numeric_limits<T>::max())) / 2;
    for_each_gradient(name, module, gradients, [&](std::size_t k, auto& p, const auto& gradient) {
      const GroupSettings own(options.groups, moments_.first.parameter(k), options.rate, options.weight_decay);
      const auto updated = map(AdamUpdate{}, p, gradient, Var(moments_.first[k]), Var(moments_.second[k]),
                               decoupled ? 1 - own.rate * own.weight_decay : 1, decoupled ? 0 : own.weight_decay,
                               options.beta1, options.beta2, 1 - options.beta1, 1 - options.beta2, largest,
                               options.epsilon, own.rate / correction, root);
      p = updated[0], moments_.first[k] = updated[1].value(), moments_.second[k] = updated[2].value();
    });
    moments_.steps = steps;
  }

  /// The number of steps taken.
  int steps() const { return moments_.steps; }

  /// The moments and the number of steps, by name.
  NamedTensors<T, Device> state() const { return moments_.state(); }

  /// Continues with a module from a saved state. Throws Error, and changes nothing, when the state lacks the number of
  /// steps or, after any, the moments of the module's parameters.
  template <class M>
  void restore(const NamedTensors<T, Device>& state, M& module) {
    moments_ = AdamMoments<T, Device>::restored(name, state, module);
  }

 private:
  static constexpr const char* name = decoupled ? "adamw" : "adam";
  AdamMoments<T, Device> moments_;
};

}  // namespace detail

/// Adam (Kingma and Ba, 2015) as in PyTorch: with the gradient g (plus weight_decay times the parameter p),
///
///     m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g²
///     p = p - rate / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
///
/// One pass over memory per parameter. Keeps two tensors per parameter. A finite g counts at most as half the root of
/// the largest number, 9e18 in float32, so that its square is a number: one of 1e20 moves p by the rate, as one of 1
/// does.
template <Scalar T, class Device = Cpu>
using Adam = detail::AdamFamily<T, Device, false>;

/// AdamW (Loshchilov and Hutter, 2019) as in PyTorch: Adam whose weight decay is no part of the gradient g,
///
///     p = p (1 - rate weight_decay)
///     m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g²
///     p = p - rate / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
///
/// With weight_decay 0 it is Adam; the bound on g is the same.
template <Scalar T, class Device = Cpu>
using AdamW = detail::AdamFamily<T, Device, true>;

}  // namespace settle
