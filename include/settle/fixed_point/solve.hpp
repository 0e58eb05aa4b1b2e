#pragma once
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "settle/fixed_point/node.hpp"
#include "settle/fixed_point/samples.hpp"

namespace settle::inline v0_2::fixed_point {

/// What solve returns.
template <State Z>
struct Solution {
  Z z;                                   ///< f(z) at the end, on the arguments' tape
  detail::variable_of<Z> penalty;        ///< a scalar on the arguments' tape; 0 without one
  std::shared_ptr<const Report> report;  ///< its adjoint part is filled in by the backward pass
};

/// A start that remembers: given to solve in place of z0 it holds the solution for the next solve to start from, and
/// the backward pass keeps its own solution there too. For samples that are seen again and for sequences. A sample
/// whose solve failed leaves the start that it had.
template <State Z>
struct Warm {
  using V = detail::variable_of<Z>;
  Z z;
  std::shared_ptr<detail::AdjointMemory<typename V::value_type, typename V::device_type>> adjoint =
      std::make_shared<detail::AdjointMemory<typename V::value_type, typename V::device_type>>();
};
template <class Z>
Warm(Z) -> Warm<Z>;

/// An argument that belongs to no sample though its axis 0 is as long as the batch.
template <class X>
struct Shared {
  X value;
};

/// Marks an argument as one that all samples share: see Shared. Parameters of the step or of a module among its
/// arguments are shared anyway, and so is what the step can take whole for another number of samples.
template <class X>
Shared<X> shared(X value) {
  return {std::move(value)};
}

namespace detail {

template <class X>
const X& unwrapped(const X& x) {
  return x;
}
template <class X>
const X& unwrapped(const Shared<X>& x) {
  return x.value;
}
template <class X>
struct is_shared : std::false_type {};
template <class X>
struct is_shared<Shared<X>> : std::true_type {};

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
struct FlatSolution {
  Vars<T, D> z;
  Var<T, D> penalty;
  std::shared_ptr<const Report> report;
};

/// A solve in terms of flat lists.
template <class T, class D>
struct FlatProblem {
  FlatStep<T, D> step;
  Vars<T, D> z0, arguments;
  std::vector<bool> per_sample;  ///< which arguments may have the batch for their axis 0
  bool couples = false;
  int order = 1;
  std::shared_ptr<AdjointMemory<T, D>> memory;
};

/// Records the node of some samples only, as if the others had no gradient: `z` are the results of all, and
/// `per_sample` says which arguments have samples.
template <class T, class D>
Vars<T, D> record_rows(const std::shared_ptr<Node<T, D>>& node, const FlatProblem<T, D>& problem,
                       const std::vector<bool>& per_sample, const Rows& rows, Values<T, D> z) {
  struct Scatter final : Cotangents<T, D> {
    Scatter(Cotangents<T, D>& o, const Vars<T, D>& a, const std::vector<bool>& p, const Rows& r)
        : outer(o), arguments(a), per_sample(p), rows(r) {}
    bool needs(std::size_t input) const override { return outer.needs(input); }
    void add(std::size_t input, const Var<T, D>& cotangent) override {
      if (!per_sample[input]) return outer.add(input, cotangent);
      Tensor<T, D> full(arguments[input].shape(), T{0});
      scatter_rows(cotangent.value(), rows, full);
      outer.add(input, full);
    }
    Tensor<T, D>* in_place(std::size_t) override { return nullptr; }
    Cotangents<T, D>& outer;
    const Vars<T, D>& arguments;
    const std::vector<bool>& per_sample;
    const Rows& rows;
  };
  if (node->penalty().defined()) z.push_back(node->penalty().value());
  Tape<T, D>* tape = recording_tape<T, D>("fixed_point", problem.arguments);
  return record_outputs<T, D>("fixed_point", z, problem.arguments,
                              [node, tape, arguments = problem.arguments, per_sample, rows, parts = problem.z0.size()](
                                  std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
                                require(!tape->recording(), "fixed_point",
                                        "a gradient that left out samples cannot be differentiated again");
                                Vars<T, D> gathered(cotangents.begin(), cotangents.end());
                                for (std::size_t p = 0; p < parts; ++p)
                                  if (gathered[p].defined()) gathered[p] = gather_rows(gathered[p].value(), rows);
                                Scatter scatter(gradients, arguments, per_sample, rows);
                                node->pull(gathered, scatter);
                              });
}

template <class T, class D>
FlatSolution<T, D> solve_flat(const FlatProblem<T, D>& problem, const Options& options) {
  check(options);
  const Vars<T, D>& z0 = problem.z0;
  const Vars<T, D>& arguments = problem.arguments;
  require(!z0.empty(), "fixed_point", "the state has no parts");
  // A state of scalars has no batch: it is one system, as a step that mixes samples has.
  const bool one_system = problem.couples || std::all_of(z0.begin(), z0.end(), [](const Var<T, D>& part) {
                            return part.shape().rank() == 0;
                          });
  const Shape& first = z0.front().shape();
  for (const auto& part : z0) {
    require(one_system || (part.shape().rank() > 0) == (first.rank() > 0), "fixed_point",
            "the state's parts must agree in axis 0, the batch, got ", first, " and ", part.shape(),
            ": a scalar has none, unless all parts are scalars or the step declares couples_samples");
    require(one_system || first.rank() == 0 || part.shape()[0] == first[0], "fixed_point",
            "the state's parts must agree in axis 0, the batch, got ", first, " and ", part.shape());
  }
  const bool unrolls = std::holds_alternative<Checkpointed>(options.adjoint) || options.on_fail == OnFail::unroll;
  require(!std::holds_alternative<Checkpointed>(options.adjoint) ||
              (std::holds_alternative<Plain>(options.forward) && std::holds_alternative<Steps>(options.stop)),
          "fixed_point",
          "Checkpointed differentiates a fixed number of plain steps: give forward Plain and stop Steps");
  const Index systems = one_system ? 1 : z0.front().shape()[0];
  const OverRanks over_ranks(problem.couples ? distributed::Together::now().group : distributed::Group());

  const auto started = std::chrono::steady_clock::now();
  auto report = std::make_shared<Report>();
  report->couples_samples = problem.couples;
  report->higher.resize(static_cast<std::size_t>(problem.order - 1));
  Tape<T, D>* tape = recording_tape<T, D>("fixed_point", arguments);
  const bool linearise = tape || !std::holds_alternative<NoPenalty>(options.penalty);

  Vars<T, D> fixed;
  for (const auto& a : arguments) fixed.push_back(stop_gradient(a));
  const Values<T, D> start = values_of<T, D>(z0);
  const auto make_node = [&](const Values<T, D>& at, const Vars<T, D>& with, const Values<T, D>& from,
                             const Rows& rows) {
    NodeSource<T, D> source{problem.step, options, std::ssize(rows), {}, 0, report, {problem.memory}};
    if (unrolls) source.start = from;
    if (std::ssize(rows) < systems) {
      source.memory.rows = rows;
      source.memory.batch = systems;
      source.left_out = static_cast<int>(systems - std::ssize(rows));
    }
    const std::size_t before = MemoryOf<D>::instance().use().current;
    auto made = std::make_shared<Node<T, D>>(std::move(source), at, with);
    report->bytes = MemoryOf<D>::instance().use().current - before + bytes_of(at);
    return made;
  };
  const Vars<T, D>& differentiable = tape ? arguments : fixed;

  // Which arguments have samples is found out when the step is to be applied to some of them.
  std::optional<std::optional<std::vector<bool>>> found;
  const auto per_sample = [&]() -> const std::optional<std::vector<bool>>& {
    if (!found) found = arguments_of_samples(problem.step, fixed, problem.per_sample, start);
    return *found;
  };
  Iterated<T, D> iterated{on_values<T, D>(problem.step(fixed)), {}, systems};
  if (!one_system) {
    iterated.restrict_to = [&](const Rows& rows) {
      return on_values<T, D>(problem.step(gather_arguments(fixed, *per_sample(), rows)));
    };
    iterated.can_restrict = [&] { return per_sample().has_value(); };
  }
  Progress progress(report->forward, systems, static_cast<double>(std::numeric_limits<T>::epsilon()));
  Values<T, D> z = start;
  const Rows everyone = all_rows(systems);
  // A start that is already a fixed point costs one application: the first one is recorded in case it is the last.
  std::shared_ptr<Node<T, D>> node;
  std::optional<Values<T, D>> known;
  if (linearise && std::holds_alternative<Residual>(options.stop)) {
    node = make_node(z, differentiable, start, everyone);
    known = node->z_next();
  }
  known = iterate(iterated, options.forward, options.stop, z, std::move(known), progress, [&] { node.reset(); });
  if (const auto* steps = std::get_if<Steps>(&options.stop)) {
    if (linearise && options.on_fail != OnFail::drop_sample) {
      node = make_node(z, differentiable, start, everyone);
      known = node->z_next();
    } else {
      known = iterated.f(z);
    }
    progress.observe(everyone, moved(*known, z, systems));
    progress.judge(*steps);
  }
  // Of samples that were solved at different times it shows here whether they depend on one another.
  const bool dropping = options.on_fail == OnFail::drop_sample && !progress.all_solved();
  if (linearise && !node && !dropping) node = make_node(z, differentiable, start, everyone);
  if (node) known = node->z_next();
  if (systems > 1 && std::holds_alternative<Residual>(options.stop))
    progress.judge_again(moved(*known, z, systems),
                         [&] { return largest_magnitudes(values_of<T, D>(fixed), 1).front(); });
  progress.finish();
  const ForwardReport& forward = report->forward;
  if (failed(forward.verdict) && options.on_fail == OnFail::throw_error) {
    require(forward.verdict != Verdict::coupled, "fixed_point", coupled_samples);
    fail("fixed_point", "the iteration failed for ", count_failures(forward.samples),
         "; |f(z) - z| = ", forward.residuals.back(), " after ", forward.steps, " steps, ", forward.residuals.front(),
         " at the first");
  }

  FlatSolution<T, D> out{{}, Var<T, D>(Tensor<T, D>(Shape{}, T{0})), report};
  Rows kept = everyone;
  Numbers settled(static_cast<std::size_t>(systems));
  for (std::size_t s = 0; s < settled.size(); ++s) settled[s] = progress.settled(s) ? 1 : 0;
  if (problem.memory) problem.memory->settled = settled;
  if (failed(forward.verdict) && options.on_fail == OnFail::drop_sample) {
    kept.clear();
    Numbers keep(settled.size()), take(keep.size());
    for (std::size_t s = 0; s < keep.size(); ++s) {
      if (!failed(forward.samples[s])) kept.push_back(static_cast<Index>(s));
      take[s] = forward.samples[s] == Verdict::nonfinite ? 1 : 0;
      keep[s] = 1 - take[s];
    }
    report->dropped = static_cast<int>(systems - std::ssize(kept));
    mix(*known, keep, start, take);
    node.reset();
    if (linearise && !kept.empty()) {
      require(per_sample().has_value(), "fixed_point",
              "a sample that failed can be left out only of a step that takes some samples of its batch alone, which "
              "this one does not: what has a row for each sample must be an argument, and of more than eight arguments "
              "as long as the batch those that all samples share must be marked by shared(...)");
      Vars<T, D> with = gather_arguments(fixed, *per_sample(), kept);
      Tape<T, D> marks;  // a node takes arguments on some tape for differentiable
      for (std::size_t k = 0; k < with.size(); ++k)
        if (tape && arguments[k].tape()) with[k] = marks.leaf(with[k].value());
      node = make_node(gather_rows(z, kept), with, gather_rows(start, kept), kept);
      const double largest = largest_magnitudes(values_of<T, D>(with), 1).front();
      require_alike(gather_rows(*known, kept), node->z_next(), std::ssize(kept), std::isfinite(largest) ? largest : 0);
    }
  }
  if (node) node->reached_in(forward.steps);
  report->forward.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (node && node->penalty().defined()) {
    out.penalty = stop_gradient(node->penalty());
    report->penalty = static_cast<double>(out.penalty.item());
  }
  if (!tape || !node) {
    out.z = constants<T, D>(*known);
    return out;
  }
  out.z = std::ssize(kept) == systems ? record_node(node, arguments, problem.order)
                                      : record_rows(node, problem, *per_sample(), kept, *known);
  if (node->penalty().defined()) {
    out.penalty = out.z.back();
    out.z.pop_back();
  }
  return out;
}

template <int order, class Z, class F, class... A>
Solution<Z> solve_prepared(
    const F& step, const Options& options, const Z& z0,
    std::shared_ptr<AdjointMemory<typename variable_of<Z>::value_type, typename variable_of<Z>::device_type>> memory,
    const A&... arguments) {
  static_assert(
      Step<F, Z, std::remove_cvref_t<decltype(unwrapped(arguments))>...>,
      "settle: the step must be callable as Z f(const Z& z, const A&... arguments) with the arguments given to "
      "solve (or the results of its prepare)");
  using V = variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  FlatProblem<T, D> problem{flatten_step<Z>(step, unwrapped(arguments)...),
                            variables<V>(z0),
                            variables<V>(step),
                            {},
                            couples_samples(step),
                            order,
                            std::move(memory)};
  problem.per_sample.assign(problem.arguments.size(), false);
  const Shape batch = problem.z0.empty() ? Shape{} : problem.z0.front().shape();
  [[maybe_unused]] const auto append = [&]<class X>(const X& argument) {
    for (const V& v : variables<V>(unwrapped(argument))) {
      problem.arguments.push_back(v);
      problem.per_sample.push_back(!is_shared<X>::value && !Module<X, V> && v.shape().rank() >= 1 &&
                                   batch.rank() >= 1 && v.shape()[0] == batch[0]);
    }
  };
  (append(arguments), ...);
  const auto flat = solve_flat<T, D>(problem, options);
  Solution<Z> out{{}, flat.penalty, flat.report};
  auto part = flat.z.begin();
  replace_variables<V>(out.z, part);
  return out;
}

/// Runs the step's `prepare` on the arguments, if it has one, and solves with what it returns.
template <int order, class Z, class F, class Memory, class... A>
Solution<Z> solve_unprepared(const F& step, const Options& options, const Z& z0, const Memory& memory,
                             const A&... arguments) {
  if constexpr (requires { step.prepare(unwrapped(arguments)...); }) {
    const auto prepared = step.prepare(unwrapped(arguments)...);
    using P = std::remove_cvref_t<decltype(prepared)>;
    if constexpr (is_tuple_like<P>::value)
      return std::apply([&](const auto&... p) { return solve_prepared<order>(step, options, z0, memory, p...); },
                        prepared);
    else
      return solve_prepared<order>(step, options, z0, memory, prepared);
  } else {
    return solve_prepared<order>(step, options, z0, memory, arguments...);
  }
}

/// Replaces a start by the samples of a solution that are settled.
template <class Z>
void keep_settled(const Z& solution, const Numbers& settled, Z& start) {
  using V = variable_of<Z>;
  auto kept = values_of(variables<V>(start));
  const auto now = values_of(variables<V>(solution));
  if (is_full(settled))
    kept = now;
  else
    mix(kept, others(settled), now, settled);
  const auto parts = constants(kept);
  auto part = parts.begin();
  replace_variables<V>(start, part);
}

}  // namespace detail

/// Solves z = f(z, arguments...) from z0 and returns z as one operation on the arguments' tape, whose gradient is that
/// of the implicit function: memory does not grow with the number of steps. See Step for what f may be; its declared
/// parameters count as arguments, and z0 gets no gradient. If the step has a member `prepare(arguments...)`, that runs
/// once, on the tape, and the step is called with its result (a tuple's elements one by one) in place of the arguments.
/// A step that mixes the samples of a batch (batch statistics) must say so by `static constexpr bool couples_samples =
/// true`. `solve<2>` allows the gradient to be differentiated again. Throws Error when a shape does not fit, when the
/// step uses a taped variable that is not among its arguments, and, unless `options.on_fail` says otherwise, when the
/// iteration or later the adjoint solve fails.
template <int order = 1, class F, State Z, class... A>
[[nodiscard]] Solution<Z> solve(const F& step, const Options& options, const Z& z0, const A&... arguments) {
  using V = detail::variable_of<Z>;
  static_assert(order >= 1, "settle: the order of differentiation is at least 1");
  const std::shared_ptr<detail::AdjointMemory<typename V::value_type, typename V::device_type>> none;
  return detail::solve_unprepared<order>(step, options, z0, none, arguments...);
}

/// The same from where the last solve with this start ended, forward and backward: a sample's state and adjoint are
/// kept only where they converged, or, with a fixed number of steps, where the residual did not grow.
template <int order = 1, class F, State Z, class... A>
[[nodiscard]] Solution<Z> solve(const F& step, const Options& options, Warm<Z>& start, const A&... arguments) {
  Solution<Z> solution = detail::solve_unprepared<order>(step, options, start.z, start.adjoint, arguments...);
  detail::keep_settled(solution.z, start.adjoint->settled, start.z);
  return solution;
}

}  // namespace settle::fixed_point
