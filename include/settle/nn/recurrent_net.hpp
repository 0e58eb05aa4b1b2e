#pragma once
#include <array>
#include <memory>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "settle/autodiff/module.hpp"
#include "settle/fixed_point/online.hpp"
#include "settle/fixed_point/penalty.hpp"
#include "settle/fixed_point/reversible.hpp"
#include "settle/fixed_point/solve.hpp"

namespace settle::inline v0_2 {

/// Training by back-propagation through time: all steps are recorded, so memory grows with their number. With the
/// penalty Lcp it is the paper's C-BPTT: the penalty of the last step, whose gradient flows back through the earlier
/// ones.
struct Bptt {
  int steps = 6;
  fixed_point::Penalty penalty = fixed_point::NoPenalty{};
  int recorded = 0;         ///< truncated: only the last so many steps are recorded; 0: all
  bool every_step = false;  ///< the run gives the logits after every recorded step, to supervise all of them
};

/// Training through the fixed point: constant memory. With the penalty Lcp it is the paper's C-RBP. The number of steps
/// is `options.stop = fixed_point::Steps{20}`.
struct Rbp {
  fixed_point::Options options;

  /// As the released code does it (paper 1.8): a fixed number of steps, its Neumann series with its stop rule, on the
  /// state's first part only, and no error where the state has not settled.
  static Rbp released(int steps, int terms = 15, fixed_point::Penalty penalty = fixed_point::NoPenalty{}) {
    return {{.stop = fixed_point::Steps{.count = steps},
             .adjoint = fixed_point::ReleasedNeumann{.terms = terms},
             .adjoint_state = fixed_point::AdjointState::first_part,
             .penalty = penalty,
             .on_fail = fixed_point::OnFail::report}};
  }
};

/// Training by the exact gradient of a coupled, damped iteration that is computed backwards: constant memory. The net
/// is then used by plain steps, whose fixed points are the same.
struct Reversibly {
  fixed_point::Reversible options;
};

/// Training by an unbiased estimate of the gradient of back-propagation through time that is carried along: constant
/// memory.
struct Online {
  fixed_point::Uoro options;
};

/// How a recurrent net is trained.
using Training = std::variant<Bptt, Rbp, Reversibly, Online>;

/// A recurrent net: stem(images) is the drive x, the cell runs from its initial state on x, and the readout makes
/// logits of the state (of its first part, where it has several). A stem is callable on images, a cell on (state, x), a
/// readout on a state; each names its parameters.
template <class Stem, class Cell, class Readout>
struct RecurrentNet {
  Stem stem;
  Cell cell;
  Readout readout;

  /// The cell's parameters are named "unit1.", as in the released code.
  void parameters(auto&& visit) { stem.parameters(visit), visit_part("unit1", cell, visit), readout.parameters(visit); }
};

/// What one run of a net in training gives.
template <fixed_point::State Z>
struct Run {
  using V = fixed_point::detail::variable_of<Z>;
  V logits;
  std::vector<V> earlier;                             ///< logits after the steps before; empty unless asked for
  Z state;                                            ///< after the last step
  V penalty;                                          ///< a scalar; 0 without a penalty
  std::shared_ptr<const fixed_point::Report> report;  ///< of the fixed point; null for Bptt
};

namespace detail {

template <class T, class D>
const Var<T, D>& first_part(const Var<T, D>& state) {
  return state;
}
template <class T, class D, std::size_t N>
const Var<T, D>& first_part(const std::array<Var<T, D>, N>& state) {
  return state[0];
}
template <class T, class D, class... Rest>
const Var<T, D>& first_part(const std::tuple<Var<T, D>, Rest...>& state) {
  return std::get<0>(state);
}

/// z -> cell(z, x), with what cell.prepare(x) makes of x, where the cell has that, computed once.
template <class Cell, class V>
auto prepared_step(const Cell& cell, const V& x) {
  if constexpr (requires { cell.prepare(x); })
    return [&cell, shared = cell.prepare(x)](const auto& z) {
      return std::apply([&](const auto&... part) { return cell(z, part...); }, shared);
    };
  else
    return [&cell, &x](const auto& z) { return cell(z, x); };
}

/// damping z + (1 - damping) f(z), part by part.
template <class Z>
Z damped(const Z& z, const Z& next, double damping) {
  if (damping == 0) return next;
  using V = fixed_point::detail::variable_of<Z>;
  const auto before = fixed_point::detail::variables<V>(z);
  auto old = before.begin();
  Z out = next;
  fixed_point::detail::each_variable<V>(out, [&](V& part) {
    part = map([](auto a, auto b, auto share) { return share * a + (1. - share) * b; }, *old++, part, damping);
  });
  return out;
}

/// Calls after_step(k, net, state) after every step k = 1 ... steps, with the net's parameters as constants. With
/// damping each step starts from a mixture of the last state and the one before; the states shown are those of the step
/// itself, as fixed_point::Plain has it.
template <class Net, class T, class D, class AfterStep>
void iterate_off_tape(const Net& net, const Var<T, D>& images, int steps, AfterStep&& after_step, double damping = 0) {
  require(steps >= 1, "predict", "expected at least 1 step, got ", steps);
  const Net constants = as_constants(net);
  const Var<T, D> x = constants.stem(stop_gradient(images));
  const auto step = prepared_step(constants.cell, x);
  auto state = constants.cell.initial_state(x);
  for (int k = 1; k <= steps; ++k) {
    auto next = step(state);
    after_step(k, constants, std::as_const(next));
    state = damped(state, next, damping);
  }
}

}  // namespace detail

/// Runs a net whose parameters are on a tape, all steps recorded, or the last ones.
/// images (N, 1, H, W). Throws Error when the shapes do not fit, for less than one step and more recorded steps than
/// steps.
template <class Net, class T, class D>
auto run(const Net& net, const Var<T, D>& images, const Bptt& policy) {
  require(policy.steps >= 1, "run", "expected at least 1 step, got ", policy.steps);
  require(policy.recorded >= 0 && policy.recorded <= policy.steps, "run", "expected 0 to ", policy.steps,
          " recorded steps, got ", policy.recorded);
  const Var<T, D> x = net.stem(images);
  const auto step = detail::prepared_step(net.cell, x);
  auto before = net.cell.initial_state(x);
  int left = policy.steps;
  if (policy.recorded > 0 && policy.recorded < policy.steps) {
    left = policy.recorded;
    const auto constants = as_constants(net);
    const Var<T, D> drive = stop_gradient(x);
    const auto off_tape = detail::prepared_step(constants.cell, drive);
    for (int k = left; k < policy.steps; ++k) before = off_tape(before);
  }
  const auto* lcp = std::get_if<fixed_point::Lcp>(&policy.penalty);
  if (lcp && left == 1 && x.tape())  // the penalty needs a state to differentiate for
    fixed_point::detail::each_variable<Var<T, D>>(before,
                                                  [&](Var<T, D>& part) { part = x.tape()->leaf(part.value()); });
  std::vector<Var<T, D>> earlier;
  auto state = step(before);
  for (int k = 1; k < left; ++k) {
    if (policy.every_step) earlier.push_back(net.readout(detail::first_part(state)));
    before = std::move(state);
    state = step(before);
  }
  Var<T, D> penalty(Tensor<T, D>(Shape{}, T{0}));
  if (lcp) penalty = fixed_point::lcp(state, before, *lcp);
  const Var<T, D> logits = net.readout(detail::first_part(state));
  return Run<decltype(state)>{logits, std::move(earlier), state, penalty, nullptr};
}

/// Runs a net whose parameters are on a tape to its fixed point: the steps before the last are not recorded.
/// images (N, 1, H, W). Throws Error when the shapes do not fit, and as fixed_point::solve does.
template <class Net, class T, class D>
auto run(const Net& net, const Var<T, D>& images, const Rbp& policy) {
  const Var<T, D> x = net.stem(images);
  const auto settled = fixed_point::solve(net.cell, policy.options, net.cell.initial_state(x), x);
  const Var<T, D> logits = net.readout(detail::first_part(settled.z));
  return Run<std::decay_t<decltype(settled.z)>>{logits, {}, settled.z, settled.penalty, settled.report};
}

namespace detail {

/// The run that ended in a state, without a penalty or a report.
template <class Net, class State>
Run<State> run_to(const Net& net, State state) {
  const auto logits = net.readout(first_part(state));
  using V = std::decay_t<decltype(logits)>;
  const V penalty(Tensor<typename V::value_type, typename V::device_type>(Shape{}, 0));
  return {logits, {}, std::move(state), penalty, nullptr};
}

}  // namespace detail

/// Runs a net whose parameters are on a tape by the reversible iteration. Throws Error as iterate_reversibly does.
template <class Net, class T, class D>
auto run(const Net& net, const Var<T, D>& images, const Reversibly& policy) {
  const Var<T, D> x = net.stem(images);
  return detail::run_to(net, fixed_point::iterate_reversibly(net.cell, policy.options, net.cell.initial_state(x), x));
}

/// Runs a net whose parameters are on a tape with an online estimate of the gradient. Throws Error as iterate_online
/// does.
template <class Net, class T, class D>
auto run(const Net& net, const Var<T, D>& images, const Online& policy) {
  const Var<T, D> x = net.stem(images);
  return detail::run_to(net, fixed_point::iterate_online(net.cell, policy.options, net.cell.initial_state(x), x));
}

/// Runs a net as a policy chosen at run time says.
template <class Net, class T, class D>
auto run(const Net& net, const Var<T, D>& images, const Training& policy) {
  return std::visit([&](const auto& p) { return run(net, images, p); }, policy);
}

/// The logits after a number of steps, nothing recorded, in the memory of one step. After every step k = 1 ... steps
/// the readout's logits are shown to `on_step(k, logits)`.
template <class Net, class T, class D, class OnStep>
Var<T, D> predict(const Net& net, const Var<T, D>& images, int steps, OnStep&& on_step) {
  Var<T, D> logits;
  detail::iterate_off_tape(net, images, steps, [&](int k, const Net& constants, const auto& state) {
    logits = constants.readout(detail::first_part(state));
    on_step(k, std::as_const(logits));
  });
  return logits;
}

/// The logits after a number of steps, nothing recorded, in the memory of one step; damped as fixed_point::Plain.
template <class Net, class T, class D>
Var<T, D> predict(const Net& net, const Var<T, D>& images, int steps, double damping = 0) {
  Var<T, D> logits;
  detail::iterate_off_tape(
      net, images, steps,
      [&](int k, const Net& constants, const auto& state) {
        if (k == steps) logits = constants.readout(detail::first_part(state));
      },
      damping);
  return logits;
}

}  // namespace settle
