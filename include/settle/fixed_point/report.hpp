#pragma once
#include <algorithm>
#include <cstddef>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace settle::fixed_point {

/// How a solve ended.
enum class Verdict {
  not_run,     ///< nothing was solved (yet): the adjoint before a backward pass
  converged,   ///< the tolerance was met
  steps_done,  ///< a policy without a tolerance did all that it was asked to do; judge it by the residual
  max_steps,   ///< the tolerance was not met in the steps or products allowed
  stalled,     ///< the residual no longer falls: a cycle, a slow mode, a singular system, or the precision's end
  diverged,    ///< the residual grew
  nonfinite    ///< NaN or infinity
};

inline const char* name(Verdict v) {
  constexpr const char* names[] = {"not run", "converged", "steps done", "max steps",
                                   "stalled", "diverged",  "non-finite"};
  return names[static_cast<int>(v)];
}
inline std::ostream& operator<<(std::ostream& out, Verdict v) { return out << name(v); }

/// Whether a verdict means that the result is not what was asked for.
inline bool failed(Verdict v) { return v >= Verdict::max_steps; }

/// The worst of several verdicts.
inline Verdict worst(const std::vector<Verdict>& verdicts) {
  return verdicts.empty() ? Verdict::converged : *std::max_element(verdicts.begin(), verdicts.end());
}

/// What the iteration of the state did. Numbers per sample are one in all when the step couples samples.
struct ForwardReport {
  Verdict verdict = Verdict::not_run;  ///< the worst of the samples'
  std::vector<Verdict> samples;        ///< one each
  std::vector<double> residuals;       ///< |f(z) - z| at each application of the step, the largest of the samples'
  std::vector<double> relative;        ///< |f(z) - z| / |f(z)| at the end, for each sample
  int steps = 0;                       ///< applications of the step, the one that is recorded again not counted
  std::size_t sample_steps = 0;        ///< the same, each counted once for every sample that it computed
  std::size_t solver_bytes = 0;        ///< what Anderson or Broyden remembered
};

/// Why the released series ended (paper 1.8).
enum class SeriesEnd { all_terms, norm_above_one, growth, vanished };

inline const char* name(SeriesEnd e) {
  constexpr const char* names[] = {"all terms", "norm above one", "growth", "vanished"};
  return names[static_cast<int>(e)];
}
inline std::ostream& operator<<(std::ostream& out, SeriesEnd e) { return out << name(e); }

/// What the last backward pass through the node did. Vectors have a number for each sample, or one in all when the step
/// couples samples.
struct AdjointReport {
  Verdict verdict = Verdict::not_run;
  std::vector<Verdict> samples;
  std::vector<double> trace;  ///< the solver's residual over |b| after each product, the largest of the samples'
  std::vector<double>
      residuals;  ///< |b + Jᵀ g - g| / |b| of the result, computed from scratch; Neumann: before its last term
  /// Of J, right for complex pairs: from the terms' growth (the series), the Hessenberg matrix (Gmres, Auto), a fit
  /// to the last differences (AdjointAnderson: low where they are few beside the eigenvalues that matter, empty where
  /// a sample holds none), or the whole matrix (Dense). Empty for BiCgStab, whose coefficients are
  /// too erratic, and for NormalCg, Phantom and Checkpointed, whose products do not tell.
  std::vector<double> spectral_radius;
  /// Of |g - exact| / |b|: the residual times 1 / (1 - lipschitz) if that was given: a bound; else times the larger of
  /// 1 / |1 - spectral radius| and |g| / |b|: an estimate. Without a radius, what the solver's
  /// own vectors show stands in its place (BiCgStab, Phantom, Terms{0}). It is low where too few products were done to
  /// see the radius, as Terms and Phantom with a few.
  std::vector<double> error_estimates;
  double loss_error_estimate = 0;  ///< loss at the exact fixed point less the loss at z, to first order
  int products = 0;                ///< products with Jᵀ (and J) that the solver used
  int terms = 0;                   ///< terms of the Neumann series in the result beside b, where it is one
  SeriesEnd end = SeriesEnd::all_terms;
  bool unrolled = false;  ///< the gradient was made by OnFail::unroll
  int passes = 0;         ///< backward passes through the node so far
};

/// What a fixed point's node says about itself. The adjoint's part is filled in by the backward pass.
struct Report {
  ForwardReport forward;
  AdjointReport adjoint;
  double penalty = 0;
  std::size_t bytes = 0;         ///< held by the node until its graph is freed
  bool couples_samples = false;  ///< the step mixes samples, so the batch is one system with one verdict
  int dropped = 0;               ///< samples that OnFail::drop_sample left out of the gradient

  /// Whether nothing failed so far.
  bool ok() const { return !failed(forward.verdict) && !failed(adjoint.verdict); }
};

namespace detail {

inline double largest(const std::vector<double>& values) {
  double out = 0;
  for (double v : values) out = v > out || v != v ? v : out;
  return out;
}

/// "2 of 8 samples: 1 stalled, 1 diverged".
inline std::string count_failures(const std::vector<Verdict>& samples) {
  std::ostringstream text;
  const auto total = std::count_if(samples.begin(), samples.end(), failed);
  text << total << " of " << samples.size() << (samples.size() == 1 ? " system:" : " samples:");
  const char* separator = " ";
  for (Verdict v : {Verdict::max_steps, Verdict::stalled, Verdict::diverged, Verdict::nonfinite})
    if (const auto n = std::count(samples.begin(), samples.end(), v); n > 0) {
      text << separator << n << ' ' << v;
      separator = ", ";
    }
  return text.str();
}

}  // namespace detail

}  // namespace settle::fixed_point
