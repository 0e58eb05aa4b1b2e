#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "settle/core/random.hpp"
#include "settle/fixed_point/estimates.hpp"
#include "settle/fixed_point/linearised.hpp"

// The adjoint system of a linearised step: set up for the solvers, and what they return checked.
namespace settle::inline v0_2::fixed_point::detail {

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

/// A policy's tolerance; 0 for those without.
inline double tolerance_of(const Adjoint& policy) {
  return std::visit(
      [](const auto& p) {
        if constexpr (requires { p.rtol; })
          return p.rtol;
        else if constexpr (requires { p.then.rtol; })
          return std::max(p.first.rtol, p.then.rtol);
        else
          return 0.0;
      },
      policy);
}

/// A policy that leaves the last of its products to the check, where that is worth a term of the series.
inline Adjoint with_room_for_check(Adjoint policy) {
  if (auto* series = std::get_if<Neumann>(&policy)) --series->max_products;
  return policy;
}

/// How many products a policy may use in all; 0 for those that cannot go on from a solution.
inline int product_limit(const Adjoint& policy) {
  return std::visit(
      [](const auto& p) {
        if constexpr (requires { p.max_products; })
          return p.max_products;
        else if constexpr (requires { p.then.max_products; })
          return p.first.max_products + p.then.max_products;
        else
          return 0;
      },
      policy);
}

/// Goes on from a solution and its residual.
template <class T, class D>
void resume(const Adjoint& policy, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
            AdjointProgress& progress) {
  AdjointReport& report = progress.report();
  // What was seen before stays: of systems that are done, and where the rest shows less.
  const Numbers radius = report.spectral_radius, amplification = state.amplification;
  const auto keep_larger = [](const Numbers& before, Numbers& now) {
    if (now.size() != before.size())
      now = before;
    else
      for (std::size_t s = 0; s < now.size(); ++s) now[s] = std::max(now[s], before[s]);
  };
  std::visit(
      [&](const auto& solver) {
        if constexpr (requires { solver.then; })
          solve_adjoint(solver.then, problem, state, progress);
        else if constexpr (requires { solver.max_products; })
          solve_adjoint(solver, problem, state, progress);
      },
      policy);
  keep_larger(radius, report.spectral_radius);
  keep_larger(amplification, state.amplification);
}

/// Whether a product for a sample depends on the others' parts of the vector.
template <class T, class D>
bool mixes_samples(const AdjointProblem<T, D>& problem) {
  const auto n = static_cast<std::size_t>(problem.systems);
  Random random(0);
  Values<T, D> v;
  for (const auto& part : problem.b) v.push_back(normal<T, D>(part.shape(), 0, 1, random));
  const double noise = 1024 * static_cast<double>(std::numeric_limits<T>::epsilon());
  // Any two samples differ in a digit of their numbers: of those with one digit, the vector holds nothing.
  for (std::size_t digit = 1; digit < n; digit *= 2)
    for (const bool silent : {false, true}) {
      Numbers keep(n);
      for (std::size_t s = 0; s < n; ++s) keep[s] = ((s & digit) != 0) == silent ? 0 : 1;
      Values<T, D> some = v;
      scale(some, keep);
      const Numbers sizes = norms(problem.product(some), problem.systems);
      double loudest = 0;
      for (std::size_t s = 0; s < n; ++s)
        if (keep[s] != 0 && std::isfinite(sizes[s])) loudest = std::max(loudest, sizes[s]);
      for (std::size_t s = 0; s < n; ++s)
        if (keep[s] == 0 && std::isfinite(sizes[s]) && sizes[s] > noise * loudest) return true;
    }
  return false;
}

/// g = b + Jᵀ g at a linearised step. Holds references to what it is made of.
template <class T, class D = Cpu>
class AdjointSystem {
 public:
  AdjointSystem(const NodeSource<T, D>& source, LinearisedStep<T, D>& at) : source_(source), at_(at) {}

  /// The solution, and b where the adjoint does not couple a part; 0 for samples that failed and get no gradient from
  /// it.
  Values<T, D> solve(const Values<T, D>& b) {
    const Options& options = source_.options;
    const std::size_t coupled = options.adjoint_state == AdjointState::first_part ? 1 : b.size();
    const auto first = [&](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(coupled));
    };
    const int mark = at_.tape.size();
    Pullback<T, D> replay(first(at_.z_next), first(at_.z), allows_many_products(options.adjoint));
    AdjointProblem<T, D> problem{[&](const Values<T, D>& v) { return values_of<T, D>(replay(constants<T, D>(v))); },
                                 [&] { return forward_product(first(at_.z_next), first(at_.z)); },
                                 source_.batch.group,
                                 source_.systems,
                                 first(b),
                                 {}};
    const bool absolute = std::holds_alternative<ReleasedNeumann>(options.adjoint);
    const auto systems = static_cast<std::size_t>(source_.systems);
    const Numbers units = absolute ? filled(systems, 1) : powers_of_two_to_unit(problem.b, source_.systems);
    scale(problem.b, units);
    problem.sizes = norms(problem.b, source_.systems);

    const auto started = std::chrono::steady_clock::now();
    AdjointReport& report = start_pass(source_);
    if (source_.order == 1 && std::ssize(source_.report->forward.relative) == source_.systems)
      problem.of_state = source_.report->forward.relative;
    AdjointProgress progress(report, problem.sizes);
    const Values<T, D> uncoupled(b.begin() + std::ssize(problem.b), b.end());
    const Numbers sizes_there = largest_magnitudes(uncoupled, source_.systems);
    for (std::size_t s = 0; s < systems; ++s)
      if (!std::isfinite(sizes_there[s])) progress.set(s, Verdict::nonfinite);
    LinearSolution<T, D> state{zeros_like(problem.b), problem.b};
    if (!absolute) warm_start(problem, state, report);
    std::visit(
        [&](const auto& solver) {
          if constexpr (!std::same_as<std::decay_t<decltype(solver)>, Checkpointed>)
            solve_adjoint(solver, problem, state, progress);
        },
        options.check_adjoint ? with_room_for_check(options.adjoint) : options.adjoint);
    if (options.check_adjoint) check_result(problem, units, state, progress);
    at_.tape.truncate(mark);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();

    report.verdict = worst(report.samples);
    if (failed(report.verdict)) {
      ++report.failures;
      if (options.on_fail == OnFail::throw_error) fail_with(report);
      if (options.on_fail == OnFail::report) replace_failed(problem, state, report);
    }
    remember(problem, state, report);

    Values<T, D>& g = state.g;
    scale(g, inverses(units));
    Values<T, D> out = b;
    report.loss_error_estimate = loss_error(g, first(b), first(at_.z_next), first(at_.z));
    std::move(g.begin(), g.end(), out.begin());
    const Rows solved = samples_solved(source_);
    if (options.on_fail == OnFail::drop_sample) count_dropped(report, static_cast<int>(systems - solved.size()));
    return solved.size() == systems ? out : masked(std::move(out), solved, source_.systems);
  }

 private:
  /// v -> J v, by differentiating v -> Jᵀ v in v.
  ValueMap<T, D> forward_product(const Vars<T, D>& z_next, const Vars<T, D>& z) {
    Vars<T, D> c;
    for (const auto& part : z_next) c.push_back(at_.tape.leaf(Tensor<T, D>(part.shape(), T{0})));
    auto pullback = std::make_shared<Pullback<T, D>>(Pullback<T, D>(z_next, z)(c, true), c);
    return [pullback](const Values<T, D>& v) { return values_of<T, D>((*pullback)(constants<T, D>(v))); };
  }

  /// Starts from the multiple of the last solution that leaves the least residual.
  void warm_start(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, AdjointReport& report) {
    const Values<T, D> last = source_.memory.recall(&AdjointMemory<T, D>::g, problem.b);
    if (last.empty()) return;
    const auto n = static_cast<std::size_t>(source_.systems);
    Values<T, D> image = problem.product(last);
    mix(image, filled(n, -1), last, filled(n, 1));
    ++report.products;
    Numbers factors = quotients(dots(image, problem.b, source_.systems), dots(image, image, source_.systems));
    for (double& f : factors) f = std::isfinite(f) ? f : 0;
    add_scaled(state.g, last, factors);
    add_scaled(state.r, image, negated(factors));
  }

  /// Keeps the solutions of the samples that have one.
  void remember(const AdjointProblem<T, D>& problem, const LinearSolution<T, D>& state,
                const AdjointReport& report) const {
    Numbers mask;
    for (std::size_t s = 0; s < report.samples.size(); ++s)
      mask.push_back(!failed(report.samples[s]) && problem.sizes[s] > 0 ? 1 : 0);
    source_.memory.keep(&AdjointMemory<T, D>::g, state.g, mask);
  }

  /// The residual from scratch, and what follows from it. Where a solver believed its own numbers too long it goes on
  /// from the true ones, as long as that helps.
  void check_result(const AdjointProblem<T, D>& problem, const Numbers& units, LinearSolution<T, D>& state,
                    AdjointProgress& progress) {
    const auto n = static_cast<std::size_t>(source_.systems);
    AdjointReport& report = progress.report();
    const Adjoint& policy = source_.options.adjoint;
    const double rtol = tolerance_of(policy), rounding = 256 * static_cast<double>(std::numeric_limits<T>::epsilon());
    LinearSolution<T, D> checked;
    Numbers growth, before = filled(n, std::numeric_limits<double>::infinity());
    bool deceived = false;  // somebody seemed to be solved and was not
    for (bool again = true; again;) {
      checked = state;
      residual_apart(problem, units, checked);
      const auto [left, sizes] = norms_of_both(checked.r, state.g, source_.systems);
      growth = quotients(sizes, problem.sizes);
      double largest_size = 0;
      for (const double size : sizes)
        if (std::isfinite(size)) largest_size = std::max(largest_size, size);
      report.residuals.clear();
      again = false;
      for (std::size_t s = 0; s < n; ++s) {
        report.residuals.push_back(relative(left[s], problem.sizes[s]));
        if (report.samples[s] != Verdict::converged) continue;
        const double residual = report.residuals[s];
        // Of a right-hand side of 0 nothing is left but what the other samples' solutions leak by rounding.
        const bool solved = problem.sizes[s] > 0
                                ? residual <= 10 * progress.tolerance(s, rtol) + rounding * (1 + growth[s]) &&
                                      rounding * growth[s] < 0.1
                                : residual <= rounding * largest_size;
        if (solved) continue;
        deceived = true;
        const bool going_on =
            problem.sizes[s] > 0 && residual < 0.5 * before[s] && report.products < product_limit(policy);
        progress.set(s, going_on ? Verdict::not_run : std::isfinite(residual) ? Verdict::stalled : Verdict::nonfinite);
        again = again || going_on;
      }
      if (!again) break;
      before = report.residuals;
      checked.amplification = std::move(state.amplification);
      state = std::move(checked);
      resume(policy, problem, state, progress);
    }
    take_last_term(state, checked, report);
    name_coupling(problem, deceived, report);
    if (source_.options.certify)
      state.amplification = amplification_by_probes(problem, *source_.options.certify, report.probes);
    for (std::size_t s = 0; s < n; ++s)
      if (problem.sizes[s] == 0) growth[s] = 0;  // whatever leaked there is no share of nothing
    report.sizes = growth;
    for (std::size_t s = 0; s < n; ++s)
      report.amplification.push_back(std::max(1.0, amplification_of(state, report, s)));
    estimate_errors(problem.of_state, report);
  }

  /// Where a series ran out of products, the check's was its last: what it found is the next term.
  void take_last_term(LinearSolution<T, D>& state, const LinearSolution<T, D>& checked, AdjointReport& report) const {
    const auto* series = std::get_if<Neumann>(&source_.options.adjoint);
    if (!series || report.products >= series->max_products) return;
    Numbers wanted = filled(report.samples.size(), 0);
    for (std::size_t s = 0; s < wanted.size(); ++s)
      if (report.samples[s] == Verdict::max_steps && std::isfinite(report.residuals[s])) wanted[s] = 1;
    if (std::find(wanted.begin(), wanted.end(), 1.0) == wanted.end()) return;
    ++report.products, ++report.terms;
    add_scaled(state.g, checked.r, wanted);
  }

  /// The residual of the solution at the samples' own scales, in their units. Each sample's numbers are what they are
  /// in its unit, unless it depends on others: then the right-hand sides' ratios matter.
  void residual_apart(const AdjointProblem<T, D>& problem, const Numbers& units, LinearSolution<T, D>& state) const {
    constexpr double furthest = 0x1p-40;  // apart, so that nothing over- or underflows
    double largest_scale = 0;
    for (std::size_t s = 0; s < units.size(); ++s)
      if (problem.sizes[s] > 0 && std::isfinite(problem.sizes[s]))
        largest_scale = std::max(largest_scale, 1 / units[s]);
    Numbers apart = filled(units.size(), 1);
    for (std::size_t s = 0; s < units.size(); ++s)
      if (problem.sizes[s] > 0 && std::isfinite(problem.sizes[s]))
        apart[s] = std::max(1 / units[s] / largest_scale, furthest);
    if (std::all_of(apart.begin(), apart.end(), [](double a) { return a == 1; })) return true_residual(problem, state);
    AdjointProblem<T, D> scaled = problem;
    scale(scaled.b, apart);
    scale(state.g, apart);
    true_residual(scaled, state);
    scale(state.g, inverses(apart));
    scale(state.r, inverses(apart));
  }

  /// Says so where samples without a solution depend on one another though the step does not declare it. It takes some
  /// products, so series that merely diverge are not asked, nor those that merely ran out of products unless that is
  /// fatal.
  void name_coupling(const AdjointProblem<T, D>& problem, bool deceived, AdjointReport& report) const {
    const bool asks_all = deceived || source_.options.on_fail == OnFail::throw_error ||
                          !std::holds_alternative<Neumann>(source_.options.adjoint);
    const auto unsolved = [&](Verdict v) { return v == Verdict::stalled || (asks_all && v == Verdict::max_steps); };
    if (problem.systems < 2 || std::none_of(report.samples.begin(), report.samples.end(), unsolved)) return;
    if (!mixes_samples(problem)) return;
    for (std::size_t s = 0; s < report.samples.size(); ++s)
      if (failed(report.samples[s]) && std::isfinite(problem.sizes[s])) report.samples[s] = Verdict::coupled;
  }

  /// Of |g - exact| over the adjoint's residual, for one system, and of |z - exact| over the state's.
  double amplification_of(const LinearSolution<T, D>& state, const AdjointReport& report, std::size_t s) const {
    const double lipschitz = source_.options.lipschitz, growth = report.sizes[s];
    if (lipschitz > 0) return 1 / (1 - lipschitz);
    if (s < report.spectral_radius.size() && !source_.options.certify)
      return std::max(growth, 1 / std::abs(1 - report.spectral_radius[s]));
    if (s < state.amplification.size()) return std::max(growth, state.amplification[s]);
    if (report.products == 0)  // the one-step gradient: the residual is the first ratio of the series' terms
      return std::max(growth, 1 / std::abs(1 - report.residuals[s]));
    return growth;
  }

  /// Residuals, and what rounding may have hidden of them, amplified.
  void estimate_errors(const Numbers& of_state, AdjointReport& report) {
    const double rounding = 8 * static_cast<double>(std::numeric_limits<T>::epsilon());
    ForwardReport& forward = source_.report->forward;
    if (!of_state.empty()) forward.error_estimates.clear();
    for (std::size_t s = 0; s < report.amplification.size(); ++s) {
      const double adjoint = report.residuals[s] + rounding * (1 + report.sizes[s]);
      report.error_estimates.push_back(report.sizes[s] > 0 ? adjoint * report.amplification[s] : report.residuals[s]);
      if (!of_state.empty()) forward.error_estimates.push_back((of_state[s] + rounding) * report.amplification[s]);
    }
  }

  [[noreturn]] void fail_with(const AdjointReport& report) const {
    const double left = source_.options.check_adjoint ? largest(report.residuals)
                        : report.trace.empty()        ? 1.0
                                                      : report.trace.back();
    const bool coupled = report.verdict == Verdict::coupled;
    fail("fixed_point", coupled ? coupled_samples : "", coupled ? " (" : "", "the adjoint solve failed for ",
         count_failures(report.samples), "; |b + J'g - g| / |b| = ", left, " after ", report.products, " products",
         coupled ? ")" : "");
  }

  /// The one-step gradient for the samples whose solution ran away.
  void replace_failed(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, const AdjointReport& report) {
    Numbers keep;
    for (const Verdict v : report.samples) keep.push_back(v == Verdict::diverged || v == Verdict::nonfinite ? 0 : 1);
    mix(state.g, keep, problem.b, others(keep));
  }

  void count_dropped(AdjointReport& report, int dropped) const {
    report.dropped = dropped;
    for (const AdjointReport& higher : source_.report->higher) dropped = std::max(dropped, higher.dropped);
    source_.report->dropped = source_.left_out + std::max(dropped, source_.report->adjoint.dropped);
  }

  /// loss(z*) - loss(f(z)) to first order, of the samples that are solved: the adjoint times the residual at f(z),
  /// which is J (f(z) - z).
  double loss_error(const Values<T, D>& g, const Values<T, D>& b, const Vars<T, D>& z_next, const Vars<T, D>& z) const {
    Values<T, D> residual = values_of<T, D>(z_next);
    add_scaled(residual, values_of<T, D>(z), Numbers{-1.0});
    Numbers of_g = own_dots(g, residual, source_.systems), of_b = own_dots(b, residual, source_.systems);
    sum_over_ranks({&of_g, &of_b});
    double out = 0;
    for (const Index s : samples_solved(source_))
      out += of_g[static_cast<std::size_t>(s)] - of_b[static_cast<std::size_t>(s)];
    return out;
  }

  const NodeSource<T, D>& source_;
  LinearisedStep<T, D>& at_;
};

}  // namespace settle::fixed_point::detail
