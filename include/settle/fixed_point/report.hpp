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
  stalled,     ///< the residual no longer falls: a cycle, a slow mode, or the precision's end
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

/// What the iteration of the state did.
struct ForwardReport {
  Verdict verdict = Verdict::not_run;  ///< the worst of the samples'
  std::vector<Verdict> samples;        ///< one each; one in all when the step couples samples
  std::vector<double> residuals;       ///< |f(z) - z| at each application of the step, the largest of the samples'
  std::vector<double> relative;        ///< |f(z) - z| / |f(z)| at the end, for each sample
  int steps = 0;                       ///< applications of the step
};

/// Why the released series ended (paper 1.8).
enum class SeriesEnd { all_terms, norm_above_one, growth, vanished };

inline const char* name(SeriesEnd e) {
  constexpr const char* names[] = {"all terms", "norm above one", "growth", "vanished"};
  return names[static_cast<int>(e)];
}
inline std::ostream& operator<<(std::ostream& out, SeriesEnd e) { return out << name(e); }

/// What the last backward pass through the node did.
struct AdjointReport {
  Verdict verdict = Verdict::not_run;
  std::vector<Verdict> samples;
  std::vector<double>
      trace;  ///< the solver's relative residual or term after each product, the largest of the samples'
  std::vector<double> residuals;  ///< |b + Jᵀ g - g| / |b| of the result, for each sample, recomputed from scratch
  int products = 0;               ///< products with Jᵀ that the solver used
  int terms = 0;                  ///< terms of the Neumann series in the result beside b, where it is one
  SeriesEnd end = SeriesEnd::all_terms;
  int passes = 0;  ///< backward passes through the node so far
};

/// What a fixed point's node says about itself. The adjoint's part is filled in by the backward pass.
struct Report {
  ForwardReport forward;
  AdjointReport adjoint;
  double penalty = 0;
  std::size_t bytes = 0;         ///< held by the node until its graph is freed
  bool couples_samples = false;  ///< the step mixes samples, so the batch is one system with one verdict

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
