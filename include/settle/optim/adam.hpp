#pragma once
#include <cmath>

#include "settle/optim/parameter_state.hpp"

namespace settle {

namespace detail {

/// What a step makes of a parameter, its gradient and its moments.
struct AdamUpdate {
  static constexpr bool rarely_differentiated = true;

  constexpr auto operator()(auto w, auto g, auto m, auto v, auto decay, auto b1, auto b2, auto eps, auto rate,
                            auto correction) const {
    const auto slope = g + decay * w, m1 = b1 * m + (1. - b1) * slope, v1 = b2 * v + (1. - b2) * square(slope);
    return outputs(w - rate * m1 / (sqrt(v1) * correction + eps), m1, v1);
  }
};

}  // namespace detail

/// Adam (Kingma and Ba, 2015) as in PyTorch: with the gradient g (plus weight_decay times the parameter p),
///
///     m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g²
///     p = p - rate / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
///
/// One pass over memory per parameter. Keeps two tensors per parameter.
template <Scalar T, class Device = Cpu>
class Adam {
 public:
  struct Options {
    double rate = 1e-3;
    double beta1 = 0.9, beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0;
  };

  Options options;  ///< may change between steps: `adam.options.rate = schedule(step);`

  Adam() = default;
  explicit Adam(const Options& o) : options(o) {}

  /// Updates the parameters of a module of constants, given one gradient for each in the module's order. Allocates
  /// nothing after the first step. Throws Error when the gradients or the parameters do not fit.
  template <class M>
  void step(M& module, const std::vector<Var<T, Device>>& gradients) {
    first_.prepare("adam", module), second_.prepare("adam", module);
    const int steps = steps_ + 1;
    const double rate = options.rate / (1 - std::pow(options.beta1, steps));
    const double root = 1 / std::sqrt(1 - std::pow(options.beta2, steps));
    detail::for_each_gradient("adam", module, gradients, [&](std::size_t k, auto& p, const auto& gradient) {
      const auto updated = map(detail::AdamUpdate{}, p, gradient, Var(first_[k]), Var(second_[k]), options.weight_decay,
                               options.beta1, options.beta2, options.epsilon, rate, root);
      p = updated[0], first_[k] = updated[1].value(), second_[k] = updated[2].value();
    });
    steps_ = steps;
  }

  /// The number of steps taken.
  int steps() const { return steps_; }

  /// The moments and the number of steps, by name.
  NamedTensors<T, Device> state() const {
    NamedTensors<T, Device> out{{"steps", Tensor<T, Device>(Shape{}, static_cast<T>(steps_))}};
    first_.save(out), second_.save(out);
    return out;
  }

  /// Continues with a module from a saved state. Throws Error, and changes nothing, when the state lacks the number of
  /// steps or, after any, the moments of the module's parameters.
  template <class M>
  void restore(const NamedTensors<T, Device>& state, M& module) {
    Adam restored(options);
    restored.steps_ = static_cast<int>(detail::find_named("adam", state, "steps").item());
    restored.first_.restore("adam", state, module), restored.second_.restore("adam", state, module);
    for (const auto* moments : {&restored.first_, &restored.second_})
      require(restored.steps_ == 0 || !moments->empty(), "adam", "expected both moments in the saved state of ",
              restored.steps_, " steps");
    *this = std::move(restored);
  }

 private:
  int steps_ = 0;
  detail::ParameterState<T, Device> first_{"first"}, second_{"second"};
};

}  // namespace settle
