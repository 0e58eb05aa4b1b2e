#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "settle/autodiff/grad.hpp"
#include "settle/distributed/together.hpp"
#include "settle/fixed_point/forward.hpp"
#include "settle/fixed_point/memory.hpp"
#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/variables.hpp"

// A step as a function of flat lists of variables, and its linearisation: applied once, on a tape of its own.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D = Cpu>
using VariableMap = std::function<Vars<T, D>(const Vars<T, D>&)>;

/// The step as a function of flat lists: from the variables of its parameters and arguments to z -> f(z).
template <class T, class D = Cpu>
using FlatStep = std::function<VariableMap<T, D>(const Vars<T, D>&)>;

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

/// What a fixed point's gradient is made of.
template <class T, class D = Cpu>
struct NodeSource {
  FlatStep<T, D> step;
  Options options;
  Index systems = 1;
  Values<T, D> start;  ///< z0, for policies that iterate again
  int steps = 0;       ///< how many applications of the step lead from z0 to the result
  std::shared_ptr<Report> report;
  Remembered<T, D> memory;
  int left_out = 0;  ///< samples that have no part in the node, for they failed before
  int order = 1;     ///< of the derivative that its adjoint gives
  distributed::JoinedBatch batch = distributed::Together::now();  ///< that the state is part of

  /// The ranks that one system is spread over.
  distributed::Group ranks() const { return report->couples_samples ? batch.group : distributed::Group(); }
};

/// The report of a node's adjoint solves.
template <class T, class D>
AdjointReport& adjoint_report(const NodeSource<T, D>& source) {
  Report& report = *source.report;
  return source.order == 1 ? report.adjoint : report.higher[static_cast<std::size_t>(source.order - 2)];
}

/// The same, for a new backward pass.
template <class T, class D>
AdjointReport& start_pass(const NodeSource<T, D>& source) {
  AdjointReport& report = adjoint_report(source);
  AdjointReport next;
  next.passes = report.passes + 1;
  next.failures = report.failures;
  report = std::move(next);
  return report;
}

/// The samples whose gradient comes from the adjoint system's solution, or the others: those that failed may be left
/// out, or unrolled.
template <class T, class D>
Rows samples_solved(const NodeSource<T, D>& source, bool wanted = true) {
  const bool all = source.options.on_fail != OnFail::drop_sample && source.options.on_fail != OnFail::unroll;
  const std::vector<Verdict>& verdicts = adjoint_report(source).samples;
  Rows out;
  for (Index s = 0; s < source.systems; ++s)
    if ((all || !failed(verdicts[static_cast<std::size_t>(s)])) == wanted) out.push_back(s);
  return out;
}

/// A state with zeros for the samples that are not among `rows`.
template <class T, class D>
Values<T, D> masked(Values<T, D> z, const Rows& rows, Index systems) {
  Numbers keep = filled(static_cast<std::size_t>(systems), 0);
  for (const Index s : rows) keep[static_cast<std::size_t>(s)] = 1;
  scale(z, keep);
  return z;
}

/// A state in which the samples that are not among `rows` have the values of the first of them.
template <class T, class D>
Values<T, D> on_behalf(const Values<T, D>& z, const Rows& rows, Index systems) {
  if (std::ssize(rows) == systems) return z;
  Rows from(static_cast<std::size_t>(systems), rows.front());
  for (const Index s : rows) from[static_cast<std::size_t>(s)] = s;
  return gather_rows(z, from);
}

/// One application of the step, on a tape of its own.
template <class T, class D = Cpu>
struct LinearisedStep {
  /// Arguments that are on a tape are differentiable.
  LinearisedStep(const FlatStep<T, D>& step, const Values<T, D>& at, const Vars<T, D>& given) {
    for (const auto& part : at) z.push_back(tape.leaf(part));
    for (const auto& a : given) arguments.push_back(a.tape() ? tape.leaf(a.value()) : a);
    try {
      z_next = step(arguments)(z);
    } catch (const Error& error) {
      if (std::strstr(error.what(), "two different tapes")) fail("fixed_point", captured_variable);
      throw;
    }
    for (std::size_t p = 0; p < z.size(); ++p)
      require(p < z_next.size() && z_next[p].shape() == z[p].shape(), "fixed_point",
              "the step must keep the state's shape ", z[p].shape());
  }

  Tape<T, D> tape;
  Vars<T, D> z, arguments, z_next;
};

}  // namespace settle::fixed_point::detail
