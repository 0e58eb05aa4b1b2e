#pragma once
#include <algorithm>
#include <cstddef>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace settle::inline v0_2::fixed_point {

/// How a solve ended.
enum class Verdict {
  not_run,     ///< nothing was solved (yet): the adjoint before a backward pass
  converged,   ///< the tolerance was met
  steps_done,  ///< a policy without a tolerance did all that it was asked to do; judge it by the residual
  max_steps,   ///< the tolerance was not met in the steps or products allowed
  stalled,     ///< the residual no longer falls: a cycle, a slow mode, a singular system, or the precision's end
  diverged,    ///< the residual grew
  nonfinite,   ///< NaN or infinity
  coupled      ///< samples depend on one another, though the step does not say so: see couples_samples
};

inline const char* name(Verdict v) {
  constexpr const char* names[] = {"not run", "converged", "steps done", "max steps",
                                   "stalled", "diverged",  "non-finite", "coupled"};
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
  /// |f(z) - z| / |f(z)| at the end, for each sample: what the stop rule compares with rtol, so that for |f(z)| stands
  /// |f(z)| + atol / rtol if there is an atol, and no less than what Residual says of fixed points at 0.
  std::vector<double> relative;
  /// Of |z - exact| / |f(z)|, for each sample: `relative` times the adjoint's `amplification`, an estimate as the
  /// adjoint's error_estimates are. From the backward pass; empty before it and where samples were left out.
  std::vector<double> error_estimates;
  int steps = 0;                 ///< applications of the step, the one that is recorded again not counted
  std::size_t sample_steps = 0;  ///< the same, each counted once for every sample that it computed
  std::size_t solver_bytes = 0;  ///< what Anderson or Broyden remembered
  double seconds = 0;            ///< that the solve took, with what it recorded of the last step
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
  std::vector<double> trace;      ///< the solver's residual over |b| after each product, the largest of the samples'
  /// |b + Jᵀ g - g| / |b| of the result, computed from scratch; where Neumann ran out of products, of the result without
  /// its last term, which that computation gave.
  std::vector<double> residuals;
  /// Of J, right for complex pairs: from the terms' growth (the series), the Hessenberg matrix (Gmres, Auto), a fit
  /// to the last differences (AdjointAnderson: low where they are few beside the eigenvalues that matter, empty where
  /// a sample holds none), or the whole matrix (Dense). Empty for BiCgStab, whose coefficients are
  /// too erratic, and for NormalCg, Phantom and Checkpointed, whose products do not tell.
  std::vector<double> spectral_radius;
  std::vector<double> sizes;  ///< |g| / |b|
  /// What the residual is taken to be amplified by on its way to an error: 1 / (1 - lipschitz) if that was given; what
  /// Certify found; else the larger of 1 / |1 - spectral radius| and |g| / |b|, where for solvers without a radius what
  /// their own vectors show stands in its place (BiCgStab, Phantom, Terms{0}).
  std::vector<double> amplification;
  /// Of |g - exact| / |b|: the residual, and what rounding may hide of it, times the amplification. An estimate, never
  /// a bound but with `lipschitz`: a residual cannot show what b hardly excites. One part in 1e6 of b along an
  /// eigenvalue of 0.999 makes an error of a part in 1e3, and neither the residual nor the radius that the solver saw
  /// tells. It is low, too, where too few products were done to see the radius (Terms and Phantom with a few) and for J
  /// that are far from normal, as Jordan blocks. Certify looks for both.
  std::vector<double> error_estimates;
  double loss_error_estimate = 0;  ///< loss at the exact fixed point less the loss at z, to first order
  int products = 0;                ///< products with Jᵀ (and J) that the solver used
  int probes = 0;                  ///< products that Certify used
  double seconds = 0;              ///< that the system took, its check and probes with it
  int terms = 0;                   ///< terms of the Neumann series in the result beside b, where it is one
  SeriesEnd end = SeriesEnd::all_terms;
  bool unrolled = false;  ///< the gradient was made by OnFail::unroll
  int passes = 0;         ///< backward passes through the node so far
  int failures = 0;       ///< how many of them failed
  int dropped = 0;        ///< samples that OnFail::drop_sample left out of the last pass
};

/// What a fixed point's node says about itself. The adjoint's part is filled in by the backward pass, and `higher` by
/// those that differentiate its gradient again.
struct Report {
  ForwardReport forward;
  AdjointReport adjoint;
  std::vector<AdjointReport> higher;  ///< of solve<n>: what the solves for the derivatives of order 2 to n did
  double penalty = 0;
  std::size_t bytes = 0;         ///< held by the node until its graph is freed
  bool couples_samples = false;  ///< the step mixes samples, so the batch is one system with one verdict
  int dropped = 0;               ///< samples that OnFail::drop_sample left out of the last gradient

  /// What speaks against the results so far, a sentence each, worst sample first; empty if nothing does: a solve that
  /// failed, or an estimated error of the state or of an adjoint (of any order) above `tolerance` times its size. A
  /// state has an estimate after the backward pass, and only its residual before. So it speaks against a state that did
  /// not settle in the steps that it had (Steps has no tolerance to fail), against one whose small residual is one of
  /// slow progress, and against biased gradients (Terms, Phantom, ReleasedNeumann) where they are. An adjoint that was
  /// not checked (check_adjoint is false) leaves no estimate of either, which is a doubt itself; but Checkpointed,
  /// whose gradient is that of the steps taken, solves none.
  std::string doubts(double tolerance = 0.1) const;

  /// Whether there are no doubts about the results so far.
  bool ok(double tolerance = 0.1) const { return doubts(tolerance).empty(); }
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
  for (Verdict v : {Verdict::max_steps, Verdict::stalled, Verdict::diverged, Verdict::nonfinite, Verdict::coupled})
    if (const auto n = std::count(samples.begin(), samples.end(), v); n > 0) {
      text << separator << n << ' ' << v;
      separator = ", ";
    }
  return text.str();
}

}  // namespace detail

inline std::string Report::doubts(double tolerance) const {
  std::ostringstream text;
  const auto sentence = [&](const auto&... parts) {
    text << (text.tellp() > 0 ? "; " : "");
    (text << ... << parts);
  };
  if (failed(forward.verdict)) sentence("the iteration failed for ", detail::count_failures(forward.samples));
  const bool estimated = !forward.error_estimates.empty();
  if (const double error = detail::largest(estimated ? forward.error_estimates : forward.relative);
      !failed(forward.verdict) && !(error <= tolerance)) {
    sentence("the state has not settled: |f(z) - z| / |f(z)| is ", detail::largest(forward.relative));
    if (estimated) text << ", its error about " << error << " of its size";
    if (!adjoint.spectral_radius.empty())
      text << " at a spectral radius of " << detail::largest(adjoint.spectral_radius);
  }
  const auto judge = [&](const AdjointReport& pass, const char* order) {
    if (failed(pass.verdict))
      return sentence("the adjoint solve", order, " failed for ", detail::count_failures(pass.samples));
    if (pass.failures > 0)
      sentence("the adjoint solve", order, " failed in ", pass.failures, " of ", pass.passes, " passes");
    std::vector<double> relative_to_g;
    for (std::size_t s = 0; s < pass.error_estimates.size(); ++s)
      relative_to_g.push_back(pass.error_estimates[s] / std::max(1.0, pass.sizes[s]));
    if (const double error = detail::largest(relative_to_g); !(error <= tolerance))
      sentence("the adjoint", order, " has an error of about ", error, " of its size");
    else if (relative_to_g.size() < pass.samples.size())
      sentence("the adjoint", order, " was not checked: check_adjoint is false");
  };
  judge(adjoint, "");
  for (const AdjointReport& pass : higher) judge(pass, " of a derivative of higher order");
  return text.str();
}

}  // namespace settle::fixed_point
