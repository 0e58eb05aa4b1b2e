#pragma once
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "settle/fixed_point/forward.hpp"

// The adjoint system A g = b with A = I - Jᵀ, solved by products with Jᵀ on plain values: the series.
namespace settle::inline v0_2::fixed_point::detail {

/// What the solvers work on. The largest magnitude in each system's b is in [1, 2), or its b is zero or not finite; the
/// released series alone has b as it was given.
template <class T, class D = Cpu>
struct AdjointProblem {
  ValueMap<T, D> product;                        ///< v -> Jᵀ v
  std::function<ValueMap<T, D>()> make_forward;  ///< makes v -> J v
  distributed::Group batch;                      ///< the ranks that have parts of the batch
  Index systems = 1;
  Values<T, D> b;
  Numbers sizes;          ///< |b| of each system
  Numbers of_state = {};  ///< |f(z) - z| / |f(z)| of each system's state; empty where it is not known
};

/// A solution and its residual r = b + Jᵀ g - g, which the solvers start from and improve.
template <class T, class D = Cpu>
struct LinearSolution {
  Values<T, D> g, r;
  Numbers amplification{};  ///< of |g - exact| over |r|, an estimate by solvers that report no spectral radius
};

/// r <- b + Jᵀ g - g, by one product.
template <class T, class D>
void true_residual(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state) {
  const auto n = static_cast<std::size_t>(problem.systems);
  state.r = problem.product(state.g);
  add_scaled(state.r, problem.b, filled(n, 1));
  add_scaled(state.r, state.g, filled(n, -1));
}

/// Who is still to be solved, and the common bookkeeping of the solvers.
class AdjointProgress {
 public:
  AdjointProgress(AdjointReport& report, const Numbers& sizes) : report_(report), sizes_(sizes) {
    report_.samples.assign(sizes.size(), Verdict::not_run);
    for (std::size_t s = 0; s < sizes.size(); ++s) {
      if (!std::isfinite(sizes[s]))
        report_.samples[s] = Verdict::nonfinite;
      else if (sizes[s] == 0)
        report_.samples[s] = Verdict::converged;
    }
  }

  bool active(std::size_t s) const { return report_.samples[s] == Verdict::not_run; }
  bool all_active() const { return none_ended(report_.samples); }
  bool any_active() const {
    return std::find(report_.samples.begin(), report_.samples.end(), Verdict::not_run) != report_.samples.end();
  }
  Numbers mask() const {
    Numbers out(report_.samples.size());
    for (std::size_t s = 0; s < out.size(); ++s) out[s] = active(s) ? 1.0 : 0.0;
    return out;
  }
  /// Verdict::not_run: it is to go on.
  void set(std::size_t s, Verdict v) { report_.samples[s] = v; }
  /// Solves each system no further than to this, where it is above a solver's own tolerance.
  void relax(Numbers to) { relaxed_ = std::move(to); }

  double tolerance(std::size_t s, double rtol) const {
    return s < relaxed_.size() && relaxed_[s] > rtol ? relaxed_[s] : rtol;
  }

  /// Takes in the systems' residuals after some products, and gives verdicts to those within rtol |b| or not finite.
  void observe(const Numbers& residuals, double rtol, int new_products) {
    report_.products += new_products;
    Numbers going;
    for (std::size_t s = 0; s < residuals.size(); ++s) {
      if (!active(s)) continue;
      going.push_back(residuals[s] / sizes_[s]);
      if (!std::isfinite(residuals[s]))
        set(s, Verdict::nonfinite);
      else if (residuals[s] <= tolerance(s, rtol) * sizes_[s])
        set(s, Verdict::converged);
    }
    report_.trace.push_back(largest(going));
  }

  /// The verdict of those still active.
  void finish(Verdict v) {
    for (std::size_t s = 0; s < sizes_.size(); ++s)
      if (active(s)) set(s, v);
  }

  AdjointReport& report() { return report_; }
  const Numbers& sizes() const { return sizes_; }

 private:
  AdjointReport& report_;
  const Numbers& sizes_;
  Numbers relaxed_;
};

/// The growth rate of |Jᵀ^k v| in k, the spectral radius for complex pairs too: the geometric mean of the ratios of
/// successive norms over the last half of those that a system has.
class GrowthRate {
 public:
  /// Takes in the norms of the systems of the mask.
  void add(const Numbers& norms, const Numbers& mask) {
    count_.resize(norms.size());
    for (std::size_t s = 0; s < norms.size(); ++s)
      if (mask[s] != 0) count_[s] = norms_.size() + 1;
    norms_.push_back(norms);
  }
  int ratios() const { return static_cast<int>(norms_.size()) - 1; }
  Numbers estimate() const {
    if (ratios() < 1) return {};
    Numbers out(count_.size());
    for (std::size_t s = 0; s < out.size(); ++s) {
      if (count_[s] < 2) continue;
      const std::size_t last = count_[s] - 1, first = last / 2;
      if (norms_[first][s] > 0)
        out[s] = std::pow(norms_[last][s] / norms_[first][s], 1.0 / static_cast<double>(last - first));
    }
    return out;
  }
  const Numbers& at(std::size_t k) const { return norms_[k]; }

 private:
  std::vector<Numbers> norms_;
  std::vector<std::size_t> count_;
};

/// The next term of the series, r <- Jᵀ r, added to g for the systems of the mask; those that are done keep their last.
/// Returns |r| of each system.
template <class T, class D>
Numbers add_term(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, const Numbers& mask) {
  Values<T, D> term = problem.product(state.r);
  if (is_full(mask))
    state.r = std::move(term);
  else
    mix(state.r, others(mask), term, mask);
  return add_measured(state.g, state.r, mask);
}

/// Adds up to `limit` terms that all systems take, as run_ahead. Shown are the norms over everything of g and of the
/// term, and the term's for each system. Two products must have been made before: a pullback keeps some things from the
/// second on.
template <class T, class D, class TakeIn>
bool add_terms_ahead(const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state, const AdjointProgress& progress,
                     int limit, const TakeIn& take_in) {
  if (!progress.all_active()) return true;
  const Numbers everyone = progress.mask();
  const std::ptrdiff_t parts = std::ssize(state.g);
  const auto joined = [&](LinearSolution<T, D>& s) {
    Values<T, D> out = std::move(s.g);
    std::move(s.r.begin(), s.r.end(), std::back_inserter(out));
    return out;
  };
  const auto split = [&](Values<T, D>& both, LinearSolution<T, D>& s) {
    s.r.assign(std::move_iterator(both.begin() + parts), std::move_iterator(both.end()));
    both.resize(static_cast<std::size_t>(parts));
    s.g = std::move(both);
  };
  Values<T, D> both = joined(state);
  const bool to_the_end = run_ahead(
      both, parts, {1, 1, problem.systems}, limit,
      [&](Values<T, D>& at, auto& measures) {
        LinearSolution<T, D> s;
        split(at, s);
        s.r = problem.product(s.r);
        add_scaled(s.g, s.r, everyone);
        measures.norms(s.g, 1);
        measures.norms(s.r, 1);
        measures.norms(s.r, problem.systems);
        at = joined(s);
      },
      take_in);
  split(both, state);
  return to_the_end;
}

/// Adds terms of the series to g until every system is done or `give_up` says so after a term; r is the last term, so
/// that it is the residual of g without it. A term `divergence` times the first is a divergence.
template <class T, class D, class GiveUp>
void run_series(const Neumann& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                AdjointProgress& progress, double divergence, const GiveUp& give_up) {
  GrowthRate growth;
  const Numbers start = add_measured(state.g, state.r, progress.mask());
  growth.add(start, progress.mask());
  AdjointReport& report = progress.report();
  const auto take_in = [&](const Numbers& terms) {
    ++report.terms;
    growth.add(terms, progress.mask());
    progress.observe(terms, solver.rtol, 1);
    for (std::size_t s = 0; s < terms.size(); ++s)
      if (progress.active(s) && terms[s] > divergence * start[s]) progress.set(s, Verdict::diverged);
  };
  const auto goes_on = [&](const Numbers& terms) {
    take_in(terms);
    return progress.all_active() && !give_up(growth);
  };
  while (progress.any_active()) {
    if (give_up(growth)) break;
    if (report.products >= solver.max_products) {
      const auto half = static_cast<std::size_t>(growth.ratios() / 2);
      const Numbers now = growth.at(static_cast<std::size_t>(growth.ratios())), then = growth.at(half);
      for (std::size_t s = 0; s < now.size(); ++s)
        if (progress.active(s)) progress.set(s, now[s] > then[s] ? Verdict::diverged : Verdict::max_steps);
      break;
    }
    const Numbers mask = progress.mask();
    const bool seen =
        report.terms >= 2 && !add_terms_ahead(problem, state, progress, solver.max_products - report.products,
                                              [&](const auto& measured) { return goes_on(measured.back()); });
    if (!seen && report.products >= solver.max_products) continue;
    const Numbers term = add_term(problem, state, mask);
    if (!seen) take_in(term);
  }
  report.spectral_radius = growth.estimate();
}

template <class T, class D>
void solve_adjoint(const Neumann& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  constexpr double divergence = 1e4;  // a non-normal J may let the terms grow for a while
  run_series(solver, problem, state, progress, divergence, [](const GrowthRate&) { return false; });
}

template <class T, class D>
void solve_adjoint(const Terms& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  GrowthRate growth;
  growth.add(add_measured(state.g, state.r, progress.mask()), progress.mask());
  int k = 0;
  const auto take_in = [&](const Numbers& term) {
    ++k;
    growth.add(term, progress.mask());
    progress.observe(term, 0, 1);
    return progress.all_active();
  };
  while (k < solver.count) {
    const Numbers mask = progress.mask();
    const bool seen = k >= 2 && !add_terms_ahead(problem, state, progress, solver.count - k,
                                                 [&](const auto& measured) { return take_in(measured.back()); });
    if (!seen && k == solver.count) break;
    const Numbers term = add_term(problem, state, mask);
    if (!seen) take_in(term);
  }
  progress.report().terms = solver.count;
  progress.report().spectral_radius = growth.estimate();
  progress.finish(Verdict::steps_done);
}

template <class T, class D>
void solve_adjoint(const Phantom& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  const auto n = static_cast<std::size_t>(problem.systems);
  const double share = 1 - solver.damping;
  Numbers size = norms(state.r, problem.systems), ratio;
  for (int k = 0; k < solver.steps; ++k) {
    add_scaled(state.g, state.r, filled(n, share));
    if (k + 1 == solver.steps) break;
    Values<T, D> next = problem.product(state.r);
    mix(next, filled(n, share), state.r, filled(n, solver.damping));
    state.r = std::move(next);
    const Numbers now = norms(state.r, problem.systems);
    ratio = quotients(now, size);
    size = now;
    progress.observe(now, 0, 1);
  }
  // What is missing is `share` times the rest of a series whose terms shrink by `ratio`.
  for (const double q : ratio) state.amplification.push_back(share / std::abs(1 - q));
  progress.finish(Verdict::steps_done);
}

/// The released series; its norms are over all systems together, those of all ranks, and the right-hand side is not
/// scaled.
template <class T, class D>
void solve_adjoint(const ReleasedNeumann& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  AdjointReport& report = progress.report();
  Values<T, D> b = problem.b;
  if (!progress.all_active()) scale(b, progress.mask());  // what is not finite takes no part in the norms
  LinearSolution<T, D> sum{b, b};
  Values<T, D> g = b, returned = b;
  const bool one_system = OverRanks::current() != nullptr;  // of all ranks, which is everything
  const Numbers each = progress.all_active() ? problem.sizes : norms(b, problem.systems);
  const OverRanks everything(problem.batch);
  const double start = one_system ? each.front() : norms(b, 1).front();
  double previous = start;
  GrowthRate growth;
  growth.add(each, progress.mask());
  bool rejected_any = false;
  SeriesEnd reason{};
  // The norms of the sum with the term, of the term, and of the term for each system; whether it is accepted.
  const auto take_in = [&](double total, double size, const Numbers& term) {
    ++report.products;
    growth.add(term, progress.mask());
    report.trace.push_back(start > 0 ? size / start : 0);
    reason = total > 1         ? SeriesEnd::norm_above_one
             : size > previous ? SeriesEnd::growth
             : size < 1e-9     ? SeriesEnd::vanished
                               : SeriesEnd::all_terms;
    previous = size;
    if (reason == SeriesEnd::all_terms) ++report.terms;
    return reason == SeriesEnd::all_terms;
  };
  while (report.products < solver.terms) {
    bool seen = false;
    if (report.products >= 2 && !rejected_any) {
      sum.g = std::move(g);
      seen = !add_terms_ahead(problem, sum, progress, solver.terms - report.products, [&](const auto& measured) {
        return take_in(measured[0].front(), measured[1].front(), measured[2]);
      });
      g = sum.g;
      if (!seen && report.products == solver.terms) break;
    } else {
      sum.g = g;
    }
    Numbers size, term;
    {
      const OverRanks own{distributed::Group()};
      size = add_term(problem, sum, Numbers{1.0});
      if (!one_system && !seen) term = norms(sum.r, problem.systems);
    }
    if (!seen) {
      Numbers total = own_dots(sum.g, sum.g, 1);
      if (OverRanks::current()) {
        size.front() *= size.front();
        sum_over_ranks({&total, &size});
        size = norms_from(std::move(size), sum.r);
      }
      take_in(norms_from(std::move(total), sum.g).front(), size.front(), one_system ? size : term);
    }
    if (reason == SeriesEnd::all_terms) {
      g = std::move(sum.g);
      continue;
    }
    report.end = reason;
    rejected_any = true;
    returned = g;
    if (solver.rejected == Rejected::end) break;
  }
  state.g = rejected_any ? returned : g;
  report.spectral_radius = growth.estimate();
  progress.finish(std::isfinite(previous) ? Verdict::steps_done : Verdict::nonfinite);
}

template <class T, class D>
void solve_adjoint(const AdjointAnderson& solver, const AdjointProblem<T, D>& problem, LinearSolution<T, D>& state,
                   AdjointProgress& progress) {
  const auto n = static_cast<std::size_t>(problem.systems);
  const Iterated<T, D> map{[&](const Values<T, D>& g) {
                             Values<T, D> next = problem.product(g);
                             add_scaled(next, problem.b, filled(n, 1));
                             return next;
                           },
                           {},
                           problem.systems};
  add_scaled(state.g, state.r, progress.mask());
  ForwardReport forward;
  Progress iteration(forward, problem.systems, static_cast<double>(std::numeric_limits<T>::epsilon()),
                     progress.sizes());
  forward.samples = progress.report().samples;  // some are done before it begins
  const Residual rule{.rtol = solver.rtol, .max_steps = solver.max_products, .compact = false};
  state.g = *iterate<T, D>(map, solver.solver, rule, state.g, {}, iteration, {}, &progress.report().spectral_radius);
  AdjointReport& report = progress.report();
  report.products += forward.steps;
  report.trace.insert(report.trace.end(), forward.residuals.begin(), forward.residuals.end());
  for (std::size_t s = 0; s < n; ++s)
    if (progress.active(s)) progress.set(s, forward.samples[s]);
}

}  // namespace settle::fixed_point::detail
