#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "settle/fixed_point/adjoint.hpp"
#include "settle/fixed_point/forward.hpp"
#include "settle/fixed_point/penalty.hpp"
#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/report.hpp"
#include "settle/fixed_point/variables.hpp"

namespace settle::fixed_point {

/// What solve returns.
template <State Z>
struct Solution {
  Z z;                                   ///< f(z) at the end, on the arguments' tape
  detail::variable_of<Z> penalty;        ///< a scalar on the arguments' tape; 0 without one
  std::shared_ptr<const Report> report;  ///< its adjoint part is filled in by the backward pass
};

namespace detail {

template <class T, class D = Cpu>
using VariableMap = std::function<Vars<T, D>(const Vars<T, D>&)>;

/// The step as a function of flat lists: from the variables of its parameters and arguments to z -> f(z).
template <class T, class D = Cpu>
using FlatStep = std::function<VariableMap<T, D>(const Vars<T, D>&)>;

template <class Z, class F, class... A>
auto flatten_step(const F& step, const A&... arguments) {
  using V = variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  return FlatStep<T, D>([bundle = std::tuple<F, A...>(step, arguments...)](const Vars<T, D>& given) {
    auto bound = bundle;
    auto next = given.begin();
    replace_variables<V>(bound, next);
    return VariableMap<T, D>([bound = std::move(bound)](const Vars<T, D>& z) {
      Z state{};
      auto part = z.begin();
      replace_variables<V>(state, part);
      return std::apply([&](const F& f, const A&... a) { return variables<V>(Z(f(std::as_const(state), a...))); },
                        bound);
    });
  });
}

/// Whether a step declares that it mixes samples: a member `couples_samples`, false by default.
template <class F>
bool couples_samples(const F& step) {
  if constexpr (requires { static_cast<bool>(step.couples_samples); })
    return static_cast<bool>(step.couples_samples);
  else
    return false;
}

template <class T, class D>
Values<T, D> values_of(const Vars<T, D>& vars) {
  Values<T, D> out;
  for (const auto& v : vars) out.push_back(v.value());
  return out;
}

template <class T, class D>
Vars<T, D> constants(const Values<T, D>& values) {
  return {values.begin(), values.end()};
}

/// A function that takes variables, on values; a result on a tape means that it used a variable it was not given.
template <class T, class D>
ValueMap<T, D> on_values(VariableMap<T, D> f) {
  return [f = std::move(f)](const Values<T, D>& z) {
    const Vars<T, D> out = f(constants<T, D>(z));
    require(out.size() == z.size(), "fixed_point", "the step was given a state of ", z.size(), " parts and returned ",
            out.size());
    for (std::size_t p = 0; p < out.size(); ++p) {
      require(out[p].tape() == nullptr, "fixed_point",
              "the step uses a variable on a tape that is not among its arguments, so its gradient would be lost: pass "
              "it to "
              "solve as an argument or declare it in the step's parameters(visit)");
      require(out[p].shape() == z[p].shape(), "fixed_point", "the step must keep the state's shape ", z[p].shape(),
              ", got ", out[p].shape());
    }
    return values_of<T, D>(out);
  };
}

/// What stays of a solve for its gradient: one application of the step on a tape of its own.
template <class T, class D = Cpu>
class Node {
 public:
  Node(const FlatStep<T, D>& step, const Options& options, const Values<T, D>& z, const Vars<T, D>& arguments,
       Index systems, std::shared_ptr<Report> report)
      : options_(options), systems_(systems), report_(std::move(report)) {
    const std::size_t before = Memory::instance().use().current;
    for (const auto& part : z) z_.push_back(tape_.leaf(part));
    for (const auto& a : arguments) arguments_.push_back(a.tape() ? tape_.leaf(a.value()) : a);
    try {
      z_next_ = step(arguments_)(z_);
    } catch (const Error& error) {
      if (!std::strstr(error.what(), "two different tapes")) throw;
      fail("fixed_point",
           "the step uses a variable on a tape that is not among its arguments, so its gradient would be lost: pass it "
           "to "
           "solve as an argument or declare it in the step's parameters(visit)");
    }
    if (const auto* options_of_lcp = std::get_if<Lcp>(&options_.penalty))
      penalty_ = lcp_of(z_next_, z_, *options_of_lcp);
    report_->bytes = Memory::instance().use().current - before;
  }

  Values<T, D> z_next() const { return values_of<T, D>(z_next_); }
  const Var<T, D>& penalty() const { return penalty_; }

  /// The rule of differentiation: cotangents of the state's parts, and of the penalty if there is one.
  void pull(std::span<const Var<T, D>> given, Cotangents<T, D>& gradients) {
    std::vector<std::size_t> needed;
    for (std::size_t k = 0; k < arguments_.size(); ++k)
      if (arguments_[k].tape() && gradients.needs(k)) needed.push_back(k);
    if (needed.empty()) return;

    Vars<T, D> outputs = z_next_, cotangents, inputs;
    const auto state = given.subspan(0, z_next_.size());
    if (std::any_of(state.begin(), state.end(), [](const auto& c) { return c.defined(); })) {
      Values<T, D> b;
      for (std::size_t p = 0; p < state.size(); ++p)
        b.push_back(state[p].defined() ? state[p].value() : Tensor<T, D>(z_next_[p].shape(), T{0}));
      cotangents = constants<T, D>(solve_adjoint_system(b));
    } else {
      cotangents.resize(z_next_.size());
    }
    if (penalty_.defined() && penalty_.tape() && given.back().defined()) {
      outputs.push_back(penalty_);
      cotangents.push_back(stop_gradient(given.back()));
    }
    for (std::size_t k : needed) inputs.push_back(arguments_[k]);
    const Vars<T, D> results = Pullback<T, D>(outputs, inputs)(cotangents);
    for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
  }

 private:
  /// g = b + Jᵀ g, and b where the adjoint does not couple a part.
  Values<T, D> solve_adjoint_system(const Values<T, D>& b) {
    const std::size_t coupled = options_.adjoint_state == AdjointState::first_part ? 1 : b.size();
    const auto first = [&](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(coupled));
    };
    Pullback<T, D> replay(first(z_next_), first(z_));
    AdjointProblem<T, D> problem{[&](const Values<T, D>& v) { return values_of<T, D>(replay(constants<T, D>(v))); },
                                 systems_};

    AdjointReport& report = report_->adjoint;
    const int passes = report.passes;
    report = {};
    report.passes = passes + 1;
    report.samples.assign(static_cast<std::size_t>(systems_), Verdict::not_run);

    const bool absolute = std::holds_alternative<ReleasedNeumann>(options_.adjoint);
    Values<T, D> right = first(b);
    const Numbers unit =
        absolute ? Numbers(static_cast<std::size_t>(systems_), 1.0) : powers_of_two_to_unit(right, systems_);
    scale(right, unit);
    Values<T, D> g =
        std::visit([&](const auto& s) { return solve_adjoint(s, problem, right, report); }, options_.adjoint);

    Values<T, D> again = problem.product(g);
    add_scaled(again, right, Numbers(unit.size(), 1.0));
    report.residuals = quotients(distances(again, g, systems_), norms(right, systems_));
    report.verdict = worst(report.samples);
    if (failed(report.verdict) && options_.on_fail == OnFail::throw_error)
      fail("fixed_point", "the adjoint solve failed for ", count_failures(report.samples),
           "; |b + J'g - g| / |b| = ", largest(report.residuals), " after ", report.products, " products");

    Numbers back(unit.size());
    for (std::size_t s = 0; s < unit.size(); ++s) back[s] = 1.0 / unit[s];
    scale(g, back);
    Values<T, D> out = b;
    std::move(g.begin(), g.end(), out.begin());
    return out;
  }

  Tape<T, D> tape_;
  Vars<T, D> z_, arguments_, z_next_;
  Var<T, D> penalty_;
  Options options_;
  Index systems_;
  std::shared_ptr<Report> report_;
};

template <class T, class D>
struct FlatSolution {
  Vars<T, D> z;
  Var<T, D> penalty;
  std::shared_ptr<const Report> report;
};

template <class T, class D>
FlatSolution<T, D> solve_flat(const FlatStep<T, D>& step, const Options& options, const Vars<T, D>& z0,
                              const Vars<T, D>& arguments, bool couples) {
  check(options.forward, options.stop);
  check(options.adjoint);
  require(!z0.empty(), "fixed_point", "the state has no parts");
  for (const auto& part : z0)
    require(couples || (part.shape().rank() >= 1 && part.shape()[0] == z0.front().shape()[0]), "fixed_point",
            "the state's parts must agree in axis 0, the batch, got ", z0.front().shape(), " and ", part.shape());
  const Index systems = couples ? 1 : z0.front().shape()[0];

  auto report = std::make_shared<Report>();
  report->couples_samples = couples;
  Tape<T, D>* tape = recording_tape<T, D>("fixed_point", arguments);
  const bool linearise = tape || !std::holds_alternative<NoPenalty>(options.penalty);

  Vars<T, D> fixed;
  for (const auto& a : arguments) fixed.push_back(stop_gradient(a));
  const ValueMap<T, D> f = on_values<T, D>(step(fixed));
  const auto make_node = [&](const Values<T, D>& at) {
    return std::make_shared<Node<T, D>>(step, options, at, tape ? arguments : fixed, systems, report);
  };

  Progress progress(report->forward, systems);
  Values<T, D> z = values_of<T, D>(z0);
  // A start that is already a fixed point costs one application: the first one is recorded in case it is the last.
  std::shared_ptr<Node<T, D>> node;
  std::optional<Values<T, D>> known;
  if (linearise && std::holds_alternative<Residual>(options.stop)) {
    node = make_node(z);
    known = node->z_next();
  }
  known = iterate(f, options.forward, options.stop, z, systems, std::move(known), progress, [&] { node.reset(); });
  if (linearise) {
    if (!node) node = make_node(z);
    known = node->z_next();
  } else if (!known) {
    known = f(z);
  }
  if (const auto* steps = std::get_if<Steps>(&options.stop)) {
    progress.observe(distances(*known, z, systems), norms(*known, systems));
    progress.judge(*steps);
  }
  progress.finish();
  const ForwardReport& forward = report->forward;
  if (failed(forward.verdict) && options.on_fail == OnFail::throw_error)
    fail("fixed_point", "the iteration failed for ", count_failures(forward.samples),
         "; |f(z) - z| = ", forward.residuals.back(), " after ", forward.steps, " steps, ", forward.residuals.front(),
         " at the first");

  FlatSolution<T, D> out{constants<T, D>(*known), Var<T, D>(Tensor<T, D>(Shape{}, T{0})), report};
  const bool has_penalty = node && node->penalty().defined();
  if (has_penalty) {
    out.penalty = stop_gradient(node->penalty());
    report->penalty = static_cast<double>(out.penalty.item());
  }
  if (!tape) return out;

  Values<T, D> outputs = *known;
  if (has_penalty) outputs.push_back(out.penalty.value());
  out.z = record_outputs<T, D>(
      "fixed_point", outputs, arguments,
      [node, tape](std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
        require(!tape->recording(), "fixed_point",
                "the gradient through a fixed point cannot be recorded to be differentiated again");
        node->pull(cotangents, gradients);
      });
  if (has_penalty) {
    out.penalty = out.z.back();
    out.z.pop_back();
  }
  return out;
}

template <class Z, class F, class... A>
Solution<Z> solve_prepared(const F& step, const Options& options, const Z& z0, const A&... arguments) {
  static_assert(
      Step<F, Z, A...>,
      "settle: the step must be callable as Z f(const Z& z, const A&... arguments) with the arguments given to "
      "solve (or the results of its prepare)");
  using V = variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  const auto flat = solve_flat<T, D>(flatten_step<Z>(step, arguments...), options, variables<V>(z0),
                                     variables<V>(std::tuple<F, A...>(step, arguments...)), couples_samples(step));
  Solution<Z> out{{}, flat.penalty, flat.report};
  auto part = flat.z.begin();
  replace_variables<V>(out.z, part);
  return out;
}

}  // namespace detail

/// Solves z = f(z, arguments...) from z0 and returns z as one operation on the arguments' tape, whose gradient is that
/// of the implicit function: memory does not grow with the number of steps. See Step for what f may be; its declared
/// parameters count as arguments, and z0 gets no gradient. If the step has a member `prepare(arguments...)`, that runs
/// once, on the tape, and the step is called with its result (a tuple's elements one by one) in place of the arguments.
/// Throws Error when a shape does not fit, when the step uses a taped variable that is not among its arguments, and,
/// unless `options.on_fail` says otherwise, when the iteration or later the adjoint solve fails.
template <class F, State Z, class... A>
[[nodiscard]] Solution<Z> solve(const F& step, const Options& options, const Z& z0, const A&... arguments) {
  if constexpr (requires { step.prepare(arguments...); }) {
    const auto prepared = step.prepare(arguments...);
    using P = std::remove_cvref_t<decltype(prepared)>;
    if constexpr (detail::is_tuple_like<P>::value)
      return std::apply([&](const auto&... p) { return detail::solve_prepared(step, options, z0, p...); }, prepared);
    else
      return detail::solve_prepared(step, options, z0, prepared);
  } else {
    return detail::solve_prepared(step, options, z0, arguments...);
  }
}

}  // namespace settle::fixed_point
