#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/report.hpp"
#include "settle/fixed_point/vectors.hpp"

// The iteration of the state: f is applied to plain values, nothing is recorded, and after the first round no memory is
// asked of the system.
namespace settle::fixed_point::detail {

template <class T, class D = Cpu>
using ValueMap = std::function<Values<T, D>(const Values<T, D>&)>;

/// The samples' verdicts and residuals as the iteration goes on.
class Progress {
 public:
  Progress(ForwardReport& report, Index systems) : report_(report) {
    const auto n = static_cast<std::size_t>(systems);
    report_.samples.assign(n, Verdict::not_run);
    report_.relative.assign(n, 0.0);
    best_.assign(n, std::numeric_limits<double>::infinity());
    best_step_.assign(n, 0);
    first_.assign(n, 0.0);
  }

  /// Takes in one application of the step: the residuals |f(z) - z| and the norms |f(z)| of the samples that go on.
  void observe(const Numbers& residuals, const Numbers& norms) {
    ++report_.steps;
    double worst_residual = 0;
    for (std::size_t s = 0; s < residuals.size(); ++s) {
      if (!active(s)) continue;
      report_.relative[s] = norms[s] > 0 ? residuals[s] / norms[s] : residuals[s];
      if (!(residuals[s] <= worst_residual)) worst_residual = residuals[s];
      if (report_.steps == 1) first_[s] = residuals[s];
      if (residuals[s] < 0.99 * best_[s]) {
        best_[s] = residuals[s];
        best_step_[s] = report_.steps;
      }
      if (!std::isfinite(residuals[s]) || !std::isfinite(norms[s])) report_.samples[s] = Verdict::nonfinite;
    }
    report_.residuals.push_back(worst_residual);
  }

  /// Gives the samples that are done their verdicts.
  void judge(const Residual& rule, const Numbers& residuals, const Numbers& norms) {
    for (std::size_t s = 0; s < residuals.size(); ++s) {
      if (!active(s)) continue;
      Verdict& verdict = report_.samples[s];
      if (residuals[s] <= rule.atol + rule.rtol * norms[s])
        verdict = Verdict::converged;
      else if (residuals[s] > rule.divergence * best_[s])
        verdict = Verdict::diverged;
      else if (report_.steps - best_step_[s] >= rule.patience)
        verdict = Verdict::stalled;
      else if (report_.steps >= rule.max_steps)
        verdict = residuals[s] > 2 * first_[s] ? Verdict::diverged : Verdict::max_steps;
    }
  }

  /// The verdicts of a fixed number of steps.
  void judge(const Steps& rule) {
    for (std::size_t s = 0; s < report_.samples.size(); ++s)
      if (active(s)) report_.samples[s] = report_.relative[s] <= rule.rtol ? Verdict::converged : Verdict::steps_done;
  }

  bool active(std::size_t s) const { return report_.samples[s] == Verdict::not_run; }
  bool any_active() const {
    for (std::size_t s = 0; s < report_.samples.size(); ++s)
      if (active(s)) return true;
    return false;
  }
  /// 1 for the samples that go on, 0 for the others.
  Numbers mask() const {
    Numbers out(report_.samples.size());
    for (std::size_t s = 0; s < out.size(); ++s) out[s] = active(s) ? 1.0 : 0.0;
    return out;
  }

  int steps() const { return report_.steps; }
  void finish() { report_.verdict = worst(report_.samples); }

 private:
  ForwardReport& report_;
  Numbers best_, first_;
  std::vector<int> best_step_;
};

/// The next iterate from z and f(z), in place, for the samples whose mask is 1.
template <class T>
void advance(const Plain& solver, Values<T>& z, const Values<T>& fz, const Numbers& mask) {
  if (solver.damping == 0 && std::count(mask.begin(), mask.end(), 1.0) == std::ssize(mask)) {
    z = fz;
    return;
  }
  Numbers keep(mask.size()), take(mask.size());
  for (std::size_t s = 0; s < mask.size(); ++s) {
    take[s] = mask[s] * (1 - solver.damping);
    keep[s] = 1 - take[s];
  }
  mix(z, keep, fz, take);
}

inline void check(const Forward& solver, const Stop& stop) {
  if (const auto* plain = std::get_if<Plain>(&solver))
    require(plain->damping >= 0 && plain->damping < 1, "fixed_point", "expected 0 <= damping < 1, got ",
            plain->damping);
  if (const auto* steps = std::get_if<Steps>(&stop))
    require(steps->count >= 1, "fixed_point", "expected at least 1 step, got ", steps->count);
  if (const auto* rule = std::get_if<Residual>(&stop)) {
    require(rule->max_steps >= 1, "fixed_point", "expected at least 1 step, got max_steps = ", rule->max_steps);
    require(rule->rtol >= 0 && rule->atol >= 0, "fixed_point", "tolerances must not be negative");
  }
}

/// Iterates z until the stop rule ends it, and leaves in z the point to apply the step to for the result. Returns f(z)
/// there if it is known. `first` is f(z) at the start, if that is known; `going_on` is called when the start is not the
/// end.
template <class T>
std::optional<Values<T>> iterate(const ValueMap<T>& f, const Forward& solver, const Stop& stop, Values<T>& z,
                                 Index systems, std::optional<Values<T>> first, Progress& progress,
                                 const std::function<void()>& going_on) {
  const auto next = [&](const Values<T>& fz) {
    std::visit([&](const auto& s) { advance(s, z, fz, progress.mask()); }, solver);
  };
  if (const auto* steps = std::get_if<Steps>(&stop)) {
    for (int k = 1; k < steps->count; ++k) {
      const Values<T> fz = f(z);
      progress.observe(distances(fz, z, systems), norms(fz, systems));
      next(fz);
    }
    return std::nullopt;
  }
  const Residual& rule = std::get<Residual>(stop);
  Values<T> fz = first ? std::move(*first) : f(z);
  for (;;) {
    const Numbers residuals = distances(fz, z, systems), sizes = norms(fz, systems);
    progress.observe(residuals, sizes);
    progress.judge(rule, residuals, sizes);
    if (!progress.any_active()) return fz;
    if (progress.steps() == 1) going_on();
    next(fz);
    fz = f(z);
  }
}

}  // namespace settle::fixed_point::detail
