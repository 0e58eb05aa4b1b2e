#pragma once
#include "settle/fixed_point/forward.hpp"

// The adjoint system g = b + Jᵀ g, solved by products with Jᵀ on plain values.
namespace settle::fixed_point::detail {

/// What the solvers work on. The right-hand side of each system has its largest magnitude in [1, 2), or is zero.
template <class T, class D = Cpu>
struct AdjointProblem {
  ValueMap<T, D> product;  ///< v -> Jᵀ v
  Index systems = 1;
};

inline Numbers quotients(const Numbers& a, const Numbers& b) {
  Numbers out(a.size());
  for (std::size_t s = 0; s < a.size(); ++s) out[s] = a[s] == 0 ? 0 : a[s] / b[s];
  return out;
}

template <class T>
Values<T> solve_adjoint(const Neumann& solver, const AdjointProblem<T>& problem, const Values<T>& b,
                        AdjointReport& report) {
  constexpr double divergence = 1e4;  // a non-normal J may let the terms grow for a while
  Values<T> g = b, v = b;
  const Numbers start = norms(b, problem.systems);
  Numbers middle = start, mask(start.size(), 1.0);
  for (std::size_t s = 0; s < start.size(); ++s) {
    if (!std::isfinite(start[s]))
      report.samples[s] = Verdict::nonfinite;
    else if (start[s] == 0)
      report.samples[s] = Verdict::converged;
  }
  const auto active = [&](std::size_t s) { return report.samples[s] == Verdict::not_run; };
  const auto any_active = [&] {
    return std::count(report.samples.begin(), report.samples.end(), Verdict::not_run) > 0;
  };
  while (any_active()) {
    v = problem.product(v);
    ++report.products;
    for (std::size_t s = 0; s < mask.size(); ++s) mask[s] = active(s) ? 1.0 : 0.0;
    add_scaled(g, v, mask);
    const Numbers terms = norms(v, problem.systems), ratios = quotients(terms, norms(g, problem.systems));
    double largest_ratio = 0;
    for (std::size_t s = 0; s < mask.size(); ++s) {
      if (!active(s)) continue;
      Verdict& verdict = report.samples[s];
      if (!(ratios[s] <= largest_ratio)) largest_ratio = ratios[s];
      if (!std::isfinite(terms[s]))
        verdict = Verdict::nonfinite;
      else if (ratios[s] <= solver.rtol)
        verdict = Verdict::converged;
      else if (terms[s] > divergence * start[s])
        verdict = Verdict::diverged;
      else if (report.products >= solver.max_products)
        verdict = terms[s] > middle[s] ? Verdict::diverged : Verdict::max_steps;
      if (report.products == solver.max_products / 2) middle[s] = terms[s];
    }
    report.trace.push_back(largest_ratio);
  }
  report.terms = report.products;
  return g;
}

/// The released series; its norms are over all systems together.
template <class T>
Values<T> solve_adjoint(const ReleasedNeumann& solver, const AdjointProblem<T>& problem, const Values<T>& b,
                        AdjointReport& report) {
  const auto norm = [](const Values<T>& v) { return norms(v, 1).front(); };
  Values<T> g = b, v = b, returned = b;
  double previous = norm(b);
  bool rejected_any = false;
  for (int k = 1; k <= solver.terms; ++k) {
    v = problem.product(v);
    ++report.products;
    Values<T> sum = g;
    add_scaled(sum, v, Numbers{1.0});
    const double size = norm(v), total = norm(sum);
    report.trace.push_back(total > 0 ? size / total : 0);
    const SeriesEnd reason = total > 1         ? SeriesEnd::norm_above_one
                             : size > previous ? SeriesEnd::growth
                             : size < 1e-9     ? SeriesEnd::vanished
                                               : SeriesEnd::all_terms;
    previous = size;
    if (reason == SeriesEnd::all_terms) {
      g = std::move(sum);
      ++report.terms;
      continue;
    }
    report.end = reason;
    rejected_any = true;
    returned = g;
    if (solver.rejected == Rejected::end) break;
  }
  const bool finite = std::isfinite(previous);
  for (Verdict& verdict : report.samples) verdict = finite ? Verdict::steps_done : Verdict::nonfinite;
  return rejected_any ? returned : g;
}

inline void check(const Adjoint& adjoint) {
  if (const auto* neumann = std::get_if<Neumann>(&adjoint))
    require(neumann->max_products >= 1 && neumann->rtol >= 0, "fixed_point",
            "expected max_products >= 1 and rtol >= 0, got ", neumann->max_products, " and ", neumann->rtol);
  if (const auto* released = std::get_if<ReleasedNeumann>(&adjoint))
    require(released->terms >= 0, "fixed_point", "expected terms >= 0, got ", released->terms);
}

}  // namespace settle::fixed_point::detail
