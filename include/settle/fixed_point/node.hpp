#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "settle/fixed_point/krylov.hpp"
#include "settle/fixed_point/penalty.hpp"

// The operation on the tape that stands for a fixed point: what it keeps, and its rule of differentiation.
namespace settle::fixed_point::detail {

template <class T, class D = Cpu>
using VariableMap = std::function<Vars<T, D>(const Vars<T, D>&)>;

/// The step as a function of flat lists: from the variables of its parameters and arguments to z -> f(z).
template <class T, class D = Cpu>
using FlatStep = std::function<VariableMap<T, D>(const Vars<T, D>&)>;

inline constexpr const char* captured_variable =
    "the step uses a variable on a tape that is not among its arguments, so its gradient would be lost: pass it to "
    "solve as an "
    "argument or declare it in the step's parameters(visit)";

/// A function of variables, on values.
template <class T, class D>
ValueMap<T, D> on_values(VariableMap<T, D> f) {
  return [f = std::move(f)](const Values<T, D>& z) {
    const Vars<T, D> out = f(constants<T, D>(z));
    require(out.size() == z.size(), "fixed_point", "the step was given a state of ", z.size(), " parts and returned ",
            out.size());
    for (std::size_t p = 0; p < out.size(); ++p) {
      require(out[p].tape() == nullptr, "fixed_point", captured_variable);
      require(out[p].shape() == z[p].shape(), "fixed_point", "the step must keep the state's shape ", z[p].shape(),
              ", got ", out[p].shape());
    }
    return values_of<T, D>(out);
  };
}

/// Whether a policy's limit, if it has one of its own, allows more than a few products.
inline bool allows_many_products(const Adjoint& policy) {
  constexpr int few = 2;
  return std::visit(
      [](const auto& p) {
        if constexpr (requires { p.count; })
          return p.count > few;
        else if constexpr (requires { p.steps; })
          return p.steps > few;
        else if constexpr (requires { p.terms; })
          return p.terms > few;
        else if constexpr (requires { p.max_products; })
          return p.max_products > few;
        else
          return true;
      },
      policy);
}

/// What passes from one solve to the next that is warm: the last adjoint solution and the direction it ended in.
template <class T, class D = Cpu>
struct AdjointMemory {
  Values<T, D> g, direction;
};

template <class T, class D>
bool same_shapes(const Values<T, D>& a, const Values<T, D>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.shape() == y.shape(); });
}

/// What a node is made of.
template <class T, class D = Cpu>
struct NodeSource {
  FlatStep<T, D> step;
  Options options;
  Index systems = 1;
  Values<T, D> start;  ///< z0, for policies that iterate again
  int steps = 0;       ///< how many applications of the step lead from z0 to the result
  std::shared_ptr<Report> report;
  std::shared_ptr<AdjointMemory<T, D>> memory;  ///< null without a warm start
};

template <class T, class D = Cpu>
class Node;

/// Puts a node on its arguments' tape: its state's parts, and its penalty if it has one.
template <class T, class D>
Vars<T, D> record_node(const std::shared_ptr<Node<T, D>>& node, const Vars<T, D>& arguments, int order);

/// One application of the step on a tape of its own, from which gradients are pulled.
template <class T, class D>
class Node {
 public:
  /// The step at z. Arguments that are on a tape are differentiable.
  Node(NodeSource<T, D> source, const Values<T, D>& z, const Vars<T, D>& arguments) : source_(std::move(source)) {
    const std::size_t before = MemoryOf<D>::instance().use().current;
    for (const auto& part : z) z_.push_back(tape_.leaf(part));
    for (const auto& a : arguments) arguments_.push_back(a.tape() ? tape_.leaf(a.value()) : a);
    try {
      z_next_ = source_.step(arguments_)(z_);
    } catch (const Error& error) {
      if (std::strstr(error.what(), "two different tapes")) fail("fixed_point", captured_variable);
      throw;
    }
    for (std::size_t p = 0; p < z.size(); ++p)
      require(p < z_next_.size() && z_next_[p].shape() == z[p].shape(), "fixed_point",
              "the step must keep the state's shape ", z[p].shape());
    penalty_ = make_penalty();
    source_.report->bytes = MemoryOf<D>::instance().use().current - before + bytes_of(z);
  }

  Values<T, D> z_next() const { return values_of<T, D>(z_next_); }
  /// Undefined without a penalty.
  const Var<T, D>& penalty() const { return penalty_.value; }
  /// The node's results on the arguments' tape, which a recorded gradient goes through.
  void recorded_as(const Vars<T, D>& results, const Vars<T, D>& outer_arguments) {
    outer_z_.assign(results.begin(), results.begin() + static_cast<std::ptrdiff_t>(z_.size()));
    outer_arguments_ = outer_arguments;
  }

  /// The rule of differentiation: cotangents of the state's parts, and of the penalty if there is one.
  void pull(std::span<const Var<T, D>> given, Cotangents<T, D>& gradients) {
    const std::vector<std::size_t> needed = needed_arguments(gradients);
    if (needed.empty()) return;
    Vars<T, D> outputs = z_next_, cotangents(z_.size()), inputs;
    if (const auto b = state_cotangent(given); !b.empty()) {
      if (std::holds_alternative<Checkpointed>(source_.options.adjoint)) {
        start_report().verdict = Verdict::steps_done;
        pull_unrolled(b, source_.start, needed, gradients);
      } else {
        const Values<T, D> g = solve_adjoint_system(b);
        const Rows solved = samples_solved(), unsolved = samples_solved(false);
        if (unsolved.empty()) {
          cotangents = constants<T, D>(g);
        } else {
          // Elsewhere than where the others are: 0 times what is not finite there would reach what samples share.
          if (!solved.empty())
            pull_step(on_behalf(values_of<T, D>(z_), solved), g, 0, needed, gradients);
          if (source_.options.on_fail == OnFail::unroll)
            pull_unrolled(masked(b, unsolved), on_behalf(source_.start, unsolved), needed, gradients);
        }
      }
    }
    if (penalty_.root.defined() && penalty_.root.tape() && given.back().defined()) {
      outputs.push_back(penalty_.root);
      cotangents.push_back(stop_gradient(given.back()));
    }
    for (std::size_t k : needed) inputs.push_back(arguments_[k]);
    const Vars<T, D> results = Pullback<T, D>(outputs, inputs)(cotangents);
    for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
  }

  /// The same as operations on the arguments' tape. The adjoint's solution is itself a fixed point, g -> b + J(z)ᵀ g,
  /// so it is put on the tape by a node like this one, whose own adjoint solves with J.
  void pull_recorded(std::span<const Var<T, D>> given, Cotangents<T, D>& gradients, int order) {
    const bool exact = std::visit(
        [](const auto& p) {
          using P = std::decay_t<decltype(p)>;
          return !std::same_as<P, Terms> && !std::same_as<P, Phantom> && !std::same_as<P, Checkpointed> &&
                 !std::same_as<P, ReleasedNeumann>;
        },
        source_.options.adjoint);
    require(exact && source_.options.adjoint_state == AdjointState::full, "fixed_point",
            "the gradient of a gradient needs an adjoint policy that solves the full system to a tolerance");
    const std::vector<std::size_t> needed = needed_arguments(gradients);
    if (needed.empty()) return;
    // Aliases, so that what is pulled back below ends at the arguments and not at what made z of them.
    Vars<T, D> arguments = outer_arguments_, inputs;
    for (std::size_t k : needed) {
      arguments[k] = record<T, D>("alias", arguments[k].value(), {arguments[k]},
                                  [](const Var<T, D>& g, Cotangents<T, D>& c) { c.add(0, g); });
      inputs.push_back(arguments[k]);
    }
    Vars<T, D> outputs, cotangents;
    if (const auto b = state_cotangent(given); !b.empty()) {
      Vars<T, D> right = constants<T, D>(b), all;
      for (std::size_t p = 0; p < right.size(); ++p)
        if (given[p].defined()) right[p] = given[p];
      outputs = source_.step(arguments)(outer_z_);
      cotangents = attached_adjoint(right, order);
    }
    if (penalty_.value.defined() && given.back().defined()) {
      outputs.push_back(make_penalty_of(source_.step(arguments)(outer_z_), outer_z_, true).value);
      cotangents.push_back(given.back());
    }
    const Vars<T, D> results = Pullback<T, D>(outputs, inputs)(cotangents, true);
    for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
  }

 private:
  std::vector<std::size_t> needed_arguments(const Cotangents<T, D>& gradients) const {
    std::vector<std::size_t> out;
    for (std::size_t k = 0; k < arguments_.size(); ++k)
      if (arguments_[k].tape() && gradients.needs(k)) out.push_back(k);
    return out;
  }

  /// The values of the state's cotangents; empty when nothing flowed back.
  Values<T, D> state_cotangent(std::span<const Var<T, D>> given) const {
    const auto state = given.subspan(0, z_.size());
    if (std::none_of(state.begin(), state.end(), [](const auto& c) { return c.defined(); })) return {};
    Values<T, D> out;
    for (std::size_t p = 0; p < state.size(); ++p)
      out.push_back(state[p].defined() ? state[p].value() : Tensor<T, D>(z_[p].shape(), T{0}));
    return out;
  }

  PenaltyTerm<T, D> make_penalty() { return make_penalty_of(z_next_, z_, false); }

  PenaltyTerm<T, D> make_penalty_of(const Vars<T, D>& z_next, const Vars<T, D>& z, bool again) {
    const Penalty& penalty = source_.options.penalty;
    if (const auto* lcp = std::get_if<Lcp>(&penalty)) {
      Lcp options = *lcp;
      if (again) options.route = Route::second_order_tape;
      return lcp_of(z_next, z, options);
    }
    Var<T, D> value;
    if (const auto* hutchinson = std::get_if<Hutchinson>(&penalty)) value = hutchinson_of(z_next, z, *hutchinson);
    if (const auto* hinge = std::get_if<SpectralHinge>(&penalty)) {
      Values<T, D> direction;
      if (source_.memory && same_shapes(source_.memory->direction, values_of(z))) direction = source_.memory->direction;
      value = spectral_hinge_of(z_next, z, *hinge, source_.systems, std::move(direction));
    }
    return {value, value};
  }

  AdjointReport& start_report() {
    AdjointReport& report = source_.report->adjoint;
    const int passes = report.passes;
    report = {};
    report.passes = passes + 1;
    return report;
  }

  /// v -> J v, by differentiating v -> Jᵀ v in v.
  ValueMap<T, D> forward_product(const Vars<T, D>& z_next, const Vars<T, D>& z) {
    Vars<T, D> c;
    for (const auto& part : z_next) c.push_back(tape_.leaf(Tensor<T, D>(part.shape(), T{0})));
    auto pullback = std::make_shared<Pullback<T, D>>(Pullback<T, D>(z_next, z)(c, true), c);
    return [pullback](const Values<T, D>& v) { return values_of<T, D>((*pullback)(constants<T, D>(v))); };
  }

  /// The samples whose gradient comes from the adjoint system's solution, or the others: those that failed may be left
  /// out, or unrolled.
  Rows samples_solved(bool wanted = true) const {
    const bool all = source_.options.on_fail != OnFail::drop_sample && source_.options.on_fail != OnFail::unroll;
    Rows out;
    for (Index s = 0; s < source_.systems; ++s)
      if ((all || !failed(source_.report->adjoint.samples[static_cast<std::size_t>(s)])) == wanted) out.push_back(s);
    return out;
  }

  /// A state with zeros for the samples that are not among `rows`.
  Values<T, D> masked(Values<T, D> z, const Rows& rows) const {
    Numbers keep = filled(static_cast<std::size_t>(source_.systems), 0);
    for (const Index s : rows) keep[static_cast<std::size_t>(s)] = 1;
    scale(z, keep);
    return z;
  }

  /// A state in which the samples that are not among `rows` have the values of the first of them.
  Values<T, D> on_behalf(const Values<T, D>& z, const Rows& rows) const {
    if (std::ssize(rows) == source_.systems) return z;
    Rows from(static_cast<std::size_t>(source_.systems), rows.front());
    for (const Index s : rows) from[static_cast<std::size_t>(s)] = s;
    return gather_rows(z, from);
  }

  /// g = b + Jᵀ g, and b where the adjoint does not couple a part; 0 for samples that failed and get no gradient from
  /// it.
  Values<T, D> solve_adjoint_system(const Values<T, D>& b) {
    const Options& options = source_.options;
    const std::size_t coupled = options.adjoint_state == AdjointState::first_part ? 1 : b.size();
    const auto first = [&](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(coupled));
    };
    const int mark = tape_.size();
    Pullback<T, D> replay(first(z_next_), first(z_), allows_many_products(options.adjoint));
    AdjointProblem<T, D> problem{[&](const Values<T, D>& v) { return values_of<T, D>(replay(constants<T, D>(v))); },
                                 [&] { return forward_product(first(z_next_), first(z_)); },
                                 source_.systems,
                                 first(b),
                                 {}};
    const bool absolute = std::holds_alternative<ReleasedNeumann>(options.adjoint);
    const auto systems = static_cast<std::size_t>(source_.systems);
    const Numbers units = absolute ? filled(systems, 1) : powers_of_two_to_unit(problem.b, source_.systems);
    scale(problem.b, units);
    problem.sizes = norms(problem.b, source_.systems);

    AdjointReport& report = start_report();
    AdjointProgress progress(report, problem.sizes);
    const Values<T, D> uncoupled(b.begin() + std::ssize(problem.b), b.end());
    const Numbers sizes_there = largest_magnitudes(uncoupled, source_.systems);
    for (std::size_t s = 0; s < systems; ++s)
      if (!std::isfinite(sizes_there[s])) progress.set(s, Verdict::nonfinite);
    LinearSolution<T, D> state{zeros_like(problem.b), problem.b};
    if (source_.memory && !absolute && same_shapes(source_.memory->g, problem.b)) warm_start(problem, state, report);
    std::visit(
        [&](const auto& solver) {
          if constexpr (!std::same_as<std::decay_t<decltype(solver)>, Checkpointed>)
            solve_adjoint(solver, problem, state, progress);
        },
        options.adjoint);
    tape_.truncate(mark);

    if (options.check_adjoint) check_result(problem, state, report);
    report.verdict = worst(report.samples);
    if (failed(report.verdict)) {
      if (options.on_fail == OnFail::throw_error)
        fail("fixed_point", "the adjoint solve failed for ", count_failures(report.samples), "; |b + J'g - g| / |b| = ",
             options.check_adjoint  ? largest(report.residuals)
             : report.trace.empty() ? 1.0
                                    : report.trace.back(),
             " after ", report.products, " products");
      if (options.on_fail == OnFail::report) replace_failed(problem, state, report);
    }
    if (source_.memory && !failed(report.verdict)) *source_.memory = {state.g, state.r};

    Values<T, D>& g = state.g;
    scale(g, inverses(units));
    Values<T, D> out = b;
    report.loss_error_estimate = loss_error(g, first(b), first(z_next_), first(z_));
    std::move(g.begin(), g.end(), out.begin());
    const Rows solved = samples_solved();
    if (options.on_fail == OnFail::drop_sample)
      source_.report->dropped += static_cast<int>(source_.systems - std::ssize(solved));
    return std::ssize(solved) == source_.systems ? out : masked(std::move(out), solved);
  }

  /// Starts from the multiple of the last solution that leaves the least residual.
  void warm_start(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, AdjointReport& report) {
    const auto n = static_cast<std::size_t>(source_.systems);
    Values<T, D> image = problem.product(source_.memory->g);
    mix(image, filled(n, -1), source_.memory->g, filled(n, 1));
    ++report.products;
    Numbers factors = quotients(dots(image, problem.b, source_.systems), dots(image, image, source_.systems));
    for (double& f : factors) f = std::isfinite(f) ? f : 0;
    add_scaled(state.g, source_.memory->g, factors);
    add_scaled(state.r, image, negated(factors));
  }

  /// The residual from scratch, and what follows from it. A Neumann series has nothing to check: its last term is the
  /// residual of the sum before it.
  void check_result(const AdjointProblem<T, D>& problem, const LinearSolution<T, D>& state, AdjointReport& report) {
    LinearSolution<T, D> checked = state;
    if (!std::holds_alternative<Neumann>(source_.options.adjoint)) true_residual(problem, checked);
    report.residuals = quotients(norms(checked.r, source_.systems), problem.sizes);
    const Numbers growth = quotients(norms(state.g, source_.systems), problem.sizes);
    const double rtol = std::visit(
        [](const auto& p) {
          if constexpr (requires { p.rtol; })
            return p.rtol;
          else if constexpr (requires { p.then.rtol; })
            return std::max(p.first.rtol, p.then.rtol);
          else
            return 0.0;
        },
        source_.options.adjoint);
    const double rounding = 256 * static_cast<double>(std::numeric_limits<T>::epsilon());
    report.error_estimates.clear();
    for (std::size_t s = 0; s < growth.size(); ++s) {
      // A solver that believed its own recurrence too long, a system that is singular to the precision, or a step that
      // couples samples without saying so.
      const double tolerance = 10 * rtol + rounding * (1 + growth[s]);
      if (report.samples[s] == Verdict::converged && !(report.residuals[s] <= tolerance && rounding * growth[s] < 0.1))
        report.samples[s] = Verdict::stalled;
      double amplification = growth[s];
      if (source_.options.lipschitz > 0 && source_.options.lipschitz < 1)
        amplification = 1 / (1 - source_.options.lipschitz);
      else if (s < report.spectral_radius.size())
        amplification = std::max(amplification, 1 / std::abs(1 - report.spectral_radius[s]));
      else if (s < state.amplification.size())
        amplification = std::max(amplification, state.amplification[s]);
      else if (report.products == 0)  // the one-step gradient: the residual is the first ratio of the series' terms
        amplification = std::max(amplification, 1 / std::abs(1 - report.residuals[s]));
      report.error_estimates.push_back(report.residuals[s] * std::max(1.0, amplification));
    }
  }

  /// The one-step gradient for the samples whose solution ran away.
  void replace_failed(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, const AdjointReport& report) {
    Numbers keep;
    for (const Verdict v : report.samples)
      keep.push_back(v == Verdict::diverged || v == Verdict::nonfinite ? 0 : 1);
    mix(state.g, keep, problem.b, others(keep));
  }

  /// loss(z*) - loss(f(z)) to first order, of the samples that are solved: the adjoint times the residual at f(z),
  /// which is J (f(z) - z).
  double loss_error(const Values<T, D>& g, const Values<T, D>& b, const Vars<T, D>& z_next, const Vars<T, D>& z) const {
    Values<T, D> residual = values_of<T, D>(z_next);
    add_scaled(residual, values_of<T, D>(z), Numbers{-1.0});
    const Numbers of_g = dots(g, residual, source_.systems), of_b = dots(b, residual, source_.systems);
    double out = 0;
    for (const Index s : samples_solved()) out += of_g[static_cast<std::size_t>(s)] - of_b[static_cast<std::size_t>(s)];
    return out;
  }

  /// Adds the gradient of the plain iteration from `start`, step by step backwards. About sqrt(steps) states are kept,
  /// and the others are computed again from them.
  void pull_unrolled(const Values<T, D>& b, const Values<T, D>& start, const std::vector<std::size_t>& needed,
                     Cotangents<T, D>& gradients) {
    const auto* plain = std::get_if<Plain>(&source_.options.forward);
    const double damping = plain ? plain->damping : 0;
    const auto n = static_cast<std::size_t>(source_.systems);
    Vars<T, D> fixed;
    for (const auto& a : arguments_) fixed.push_back(stop_gradient(a));
    const ValueMap<T, D> f = on_values<T, D>(source_.step(fixed));
    const auto next = [&](const Values<T, D>& z) {
      Values<T, D> out = f(z);
      if (damping > 0) mix(out, filled(n, 1 - damping), z, filled(n, damping));
      return out;
    };
    const int steps = source_.steps, stride = std::max(1, static_cast<int>(std::ceil(std::sqrt(steps))));
    std::vector<Values<T, D>> kept{start};
    Values<T, D> z = start;
    for (int k = 1; k < steps; ++k) {
      z = next(z);
      if (k % stride == 0) kept.push_back(z);
    }
    Values<T, D> cotangent = b;
    for (int segment = static_cast<int>(kept.size()) - 1; segment >= 0; --segment) {
      const int begin = segment * stride, end = std::min(steps, begin + stride);
      std::vector<Values<T, D>> states{kept[static_cast<std::size_t>(segment)]};
      for (int k = begin + 1; k < end; ++k) states.push_back(next(states.back()));
      for (int k = end - 1; k >= begin; --k) {
        const bool damped = damping > 0 && k + 1 < steps;  // the last step is not
        cotangent = pull_step(states.back(), cotangent, damped ? damping : 0, needed, gradients);
        states.pop_back();
      }
      kept.pop_back();
    }
    source_.report->adjoint.unrolled = std::holds_alternative<Checkpointed>(source_.options.adjoint) == false;
  }

  /// Adds the gradient of one step from z for the needed arguments, and returns that for z.
  Values<T, D> pull_step(const Values<T, D>& z, const Values<T, D>& cotangent, double damping,
                         const std::vector<std::size_t>& needed, Cotangents<T, D>& gradients) {
    Tape<T, D> tape;
    Vars<T, D> arguments = arguments_, state, inputs;
    for (std::size_t k = 0; k < arguments.size(); ++k) arguments[k] = stop_gradient(arguments[k]);
    for (std::size_t k : needed) inputs.push_back(arguments[k] = tape.leaf(arguments[k].value()));
    for (const auto& part : z) state.push_back(tape.leaf(part));
    inputs.insert(inputs.end(), state.begin(), state.end());
    Values<T, D> weighted = cotangent;
    if (damping > 0) scale(weighted, filled(1, 1 - damping));
    const Vars<T, D> results =
        Pullback<T, D>(source_.step(arguments)(state), inputs)(constants<T, D>(weighted), false, true);
    for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
    Values<T, D> out;
    for (std::size_t p = 0; p < z.size(); ++p) out.push_back(results[needed.size() + p].value());
    if (damping > 0) add_scaled(out, cotangent, filled(1, damping));
    return out;
  }

  /// The adjoint's solution at z as the result of a node on the arguments' tape.
  Vars<T, D> attached_adjoint(const Vars<T, D>& b, int order) {
    NodeSource<T, D> here = source_;
    here.options.penalty = NoPenalty{};
    here.memory = nullptr;
    Node at_result(here, values_of<T, D>(outer_z_), outer_arguments_);
    const Values<T, D> g = at_result.solve_adjoint_system(values_of<T, D>(b));
    require(std::ssize(at_result.samples_solved()) == source_.systems, "fixed_point",
            "the adjoint solve failed, and a gradient that leaves samples out, or unrolls them, cannot be recorded");

    const std::size_t parts = z_.size();
    NodeSource<T, D> transposed = here;
    transposed.report = std::make_shared<Report>();
    // Given b, z and the step's arguments: g -> b + J(z)ᵀ g.
    transposed.step = [step = source_.step, parts](const Vars<T, D>& given) -> VariableMap<T, D> {
      const auto at = [&](std::size_t k) { return given.begin() + static_cast<std::ptrdiff_t>(k); };
      const Vars<T, D> right(at(0), at(parts)), z(at(parts), at(2 * parts)), arguments(at(2 * parts), given.end());
      return [=](const Vars<T, D>& adjoint) {
        Vars<T, D> out = Pullback<T, D>(step(arguments)(z), z)(adjoint, true);
        for (std::size_t p = 0; p < parts; ++p) out[p] = right[p] + out[p];
        return out;
      };
    };
    Vars<T, D> all = b;
    all.insert(all.end(), outer_z_.begin(), outer_z_.end());
    all.insert(all.end(), outer_arguments_.begin(), outer_arguments_.end());
    return record_node(std::make_shared<Node>(std::move(transposed), g, all), all, order - 1);
  }

  NodeSource<T, D> source_;
  Tape<T, D> tape_;
  Vars<T, D> z_, arguments_, z_next_, outer_z_, outer_arguments_;
  PenaltyTerm<T, D> penalty_;
};

template <class T, class D>
Vars<T, D> record_node(const std::shared_ptr<Node<T, D>>& node, const Vars<T, D>& arguments, int order) {
  Values<T, D> outputs = node->z_next();
  if (node->penalty().defined()) outputs.push_back(node->penalty().value());
  Tape<T, D>* tape = recording_tape<T, D>("fixed_point", arguments);
  const Vars<T, D> results = record_outputs<T, D>(
      "fixed_point", outputs, arguments,
      [node, tape, order](std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
        if (!tape->recording()) return node->pull(cotangents, gradients);
        require(order >= 2, "fixed_point",
                "the gradient through this fixed point is being recorded, to be differentiated again: ask for it with "
                "solve<2>(...)");
        node->pull_recorded(cotangents, gradients, order);
      });
  if (order >= 2) node->recorded_as(results, arguments);
  return results;
}

}  // namespace settle::fixed_point::detail
