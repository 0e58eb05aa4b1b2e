#pragma once
#include <concepts>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "settle/fixed_point/adjoint_system.hpp"
#include "settle/fixed_point/penalty.hpp"
#include "settle/fixed_point/unrolled.hpp"

// The operation on the tape that stands for a fixed point: what it keeps, and its rule of differentiation.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D = Cpu>
class Node;

/// Puts a node on its arguments' tape: its state's parts, and its penalty if it has one.
template <class T, class D>
Vars<T, D> record_node(const std::shared_ptr<Node<T, D>>& node, const Vars<T, D>& arguments, int order);

/// A linearised step at a fixed point, from which gradients are pulled.
template <class T, class D>
class Node {
 public:
  /// The step at z. Arguments that are on a tape are differentiable.
  Node(NodeSource<T, D> source, const Values<T, D>& z, const Vars<T, D>& arguments)
      : source_(std::move(source)), at_(source_.step, z, arguments) {
    penalty_ = make_penalty_of(at_.z_next, at_.z, false);
  }

  Values<T, D> z_next() const { return values_of<T, D>(at_.z_next); }
  /// How many applications of the step lead from the start to the result.
  void reached_in(int steps) { source_.steps = steps; }
  /// Undefined without a penalty.
  const Var<T, D>& penalty() const { return penalty_.value; }
  /// The node's results on the arguments' tape, which a recorded gradient goes through.
  void recorded_as(const Vars<T, D>& results, const Vars<T, D>& outer_arguments) {
    outer_z_.assign(results.begin(), results.begin() + std::ssize(at_.z));
    outer_arguments_ = outer_arguments;
  }

  /// The rule of differentiation: cotangents of the state's parts, and of the penalty if there is one.
  void pull(std::span<const Var<T, D>> given, Cotangents<T, D>& gradients) {
    const std::vector<std::size_t> needed = needed_arguments(gradients);
    if (needed.empty()) return;
    const distributed::Together together(source_.batch);
    const OverRanks over_ranks(source_.ranks());
    Vars<T, D> outputs = at_.z_next, cotangents(at_.z.size()), inputs;
    if (const auto b = state_cotangent(given); !b.empty()) {
      if (std::holds_alternative<Checkpointed>(source_.options.adjoint)) {
        start_pass(source_).verdict = Verdict::steps_done;
        pull_unrolled(source_, at_.arguments, b, source_.start, needed, gradients);
      } else {
        const Values<T, D> g = AdjointSystem<T, D>(source_, at_).solve(b);
        const Rows solved = samples_solved(source_), unsolved = samples_solved(source_, false);
        if (unsolved.empty()) {
          cotangents = constants<T, D>(g);
        } else {
          // Elsewhere than where the others are: 0 times what is not finite there would reach what samples share.
          const Index n = source_.systems;
          if (!solved.empty())
            pull_step(source_.step, at_.arguments, on_behalf(values_of<T, D>(at_.z), solved, n), g, 0, needed,
                      gradients);
          if (source_.options.on_fail == OnFail::unroll) {
            pull_unrolled(source_, at_.arguments, masked(b, unsolved, n), on_behalf(source_.start, unsolved, n), needed,
                          gradients);
            adjoint_report(source_).unrolled = true;
          }
        }
      }
    }
    if (!direction_.empty())
      source_.memory.keep(&AdjointMemory<T, D>::direction, direction_,
                          filled(static_cast<std::size_t>(source_.systems), 1));
    if (penalty_.root.defined() && penalty_.root.tape() && given.back().defined()) {
      outputs.push_back(penalty_.root);
      cotangents.push_back(stop_gradient(given.back()));
    }
    for (std::size_t k : needed) inputs.push_back(at_.arguments[k]);
    const Vars<T, D> results = Pullback<T, D>(outputs, inputs)(cotangents);
    for (std::size_t k = 0; k < needed.size(); ++k) gradients.add(needed[k], results[k]);
  }

  /// The same as operations on the arguments' tape. The adjoint's solution is itself a fixed point, g -> b + J(z)ᵀ g,
  /// so it is put on the tape by a node like this one, whose own adjoint solves with J.
  void pull_recorded(std::span<const Var<T, D>> given, Cotangents<T, D>& gradients, int order) {
    const bool exact = std::visit(
        []<class P>(const P&) {
          return !std::same_as<P, Terms> && !std::same_as<P, Phantom> && !std::same_as<P, Checkpointed> &&
                 !std::same_as<P, ReleasedNeumann>;
        },
        source_.options.adjoint);
    require(exact && source_.options.adjoint_state == AdjointState::full, "fixed_point",
            "the gradient of a gradient needs an adjoint policy that solves the full system to a tolerance");
    const std::vector<std::size_t> needed = needed_arguments(gradients);
    if (needed.empty()) return;
    const distributed::Together together(source_.batch);
    const OverRanks over_ranks(source_.ranks());
    // Aliases, so that what is pulled back below ends at the arguments and not at what made z of them.
    Vars<T, D> arguments = outer_arguments_, inputs;
    for (std::size_t k : needed) {
      arguments[k] = record<T, D>("alias", arguments[k].value(), {arguments[k]},
                                  [](const Var<T, D>& g, Cotangents<T, D>& c) { c.add(0, g); });
      inputs.push_back(arguments[k]);
    }
    Vars<T, D> outputs, cotangents;
    if (const auto b = state_cotangent(given); !b.empty()) {
      Vars<T, D> right = constants<T, D>(b);
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
    for (std::size_t k = 0; k < at_.arguments.size(); ++k)
      if (at_.arguments[k].tape() && gradients.needs(k)) out.push_back(k);
    return out;
  }

  /// The values of the state's cotangents; empty when nothing flowed back.
  Values<T, D> state_cotangent(std::span<const Var<T, D>> given) const {
    const auto state = given.subspan(0, at_.z.size());
    if (std::none_of(state.begin(), state.end(), [](const auto& c) { return c.defined(); })) return {};
    Values<T, D> out;
    for (std::size_t p = 0; p < state.size(); ++p)
      out.push_back(state[p].defined() ? state[p].value() : Tensor<T, D>(at_.z[p].shape(), T{0}));
    return out;
  }

  PenaltyTerm<T, D> make_penalty_of(const Vars<T, D>& z_next, const Vars<T, D>& z, bool again) {
    const Penalty& penalty = source_.options.penalty;
    if (const auto* lcp = std::get_if<Lcp>(&penalty)) {
      Lcp options = *lcp;
      if (again) options.route = Route::second_order_tape;
      return lcp_of(z_next, z, options);
    }
    Var<T, D> value;
    if (const auto* hutchinson = std::get_if<Hutchinson>(&penalty)) value = hutchinson_of(z_next, z, *hutchinson);
    if (std::holds_alternative<Movement>(penalty)) value = movement_of(z_next, z, source_.systems);
    if (const auto* hinge = std::get_if<SpectralHinge>(&penalty)) {
      Values<T, D> direction = source_.memory.recall(&AdjointMemory<T, D>::direction, values_of(z));
      value = spectral_hinge_of(z_next, z, *hinge, source_.systems, direction);
      if (source_.memory.of_batch) direction_ = std::move(direction);
    }
    return {value, value};
  }

  /// The adjoint's solution at z as the result of a node on the arguments' tape.
  Vars<T, D> attached_adjoint(const Vars<T, D>& b, int order) {
    NodeSource<T, D> here = source_;
    here.memory = {};
    LinearisedStep<T, D> at_result(here.step, values_of<T, D>(outer_z_), outer_arguments_);
    const Values<T, D> g = AdjointSystem<T, D>(here, at_result).solve(values_of<T, D>(b));
    require(std::ssize(samples_solved(here)) == source_.systems, "fixed_point",
            "the adjoint solve failed, and a gradient that leaves samples out, or unrolls them, cannot be recorded");

    const std::size_t parts = at_.z.size();
    NodeSource<T, D> transposed = std::move(here);
    transposed.options.penalty = NoPenalty{};
    transposed.order = source_.order + 1;
    if (!source_.start.empty()) transposed.start = zeros_like(g);
    // Given b, z and the step's arguments: g -> b + J(z)ᵀ g.
    transposed.step = [step = source_.step, parts](const Vars<T, D>& given) -> VariableMap<T, D> {
      const auto nth = [&](std::size_t k) { return given.begin() + static_cast<std::ptrdiff_t>(k); };
      const Vars<T, D> right(nth(0), nth(parts)), z(nth(parts), nth(2 * parts)), arguments(nth(2 * parts), given.end());
      return [=](const Vars<T, D>& adjoint) {
        // On the tape that it is differentiated on, if there is one; z may be a constant there.
        Vars<T, D> involved = given;
        involved.insert(involved.end(), adjoint.begin(), adjoint.end());
        Tape<T, D> own;
        Tape<T, D>* const tape = recording_tape<T, D>("fixed_point", involved);
        Vars<T, D> at = z;
        for (auto& part : at)
          if (!part.tape()) part = (tape ? *tape : own).leaf(part.value());
        Vars<T, D> out = Pullback<T, D>(step(arguments)(at), at)(adjoint, tape != nullptr);
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
  LinearisedStep<T, D> at_;
  Vars<T, D> outer_z_, outer_arguments_;
  PenaltyTerm<T, D> penalty_;
  Values<T, D> direction_;  ///< that its penalty's power iteration got to, for the next one of a warm start
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
