#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "settle/fixed_point/acceleration.hpp"
#include "settle/fixed_point/ahead.hpp"
#include "settle/fixed_point/checks.hpp"
#include "settle/fixed_point/report.hpp"

// The iteration of the state: f is applied to plain values, nothing is recorded, and after the first round no memory is
// asked of the system.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D = Cpu>
using ValueMap = std::function<Values<T, D>(const Values<T, D>&)>;

inline bool none_ended(const std::vector<Verdict>& samples) {
  return std::all_of(samples.begin(), samples.end(), [](Verdict v) { return v == Verdict::not_run; });
}

/// The samples' verdicts and residuals as the iteration goes on. What is observed is about some samples, `rows`.
class Progress {
 public:
  /// `epsilon` is the scalar type's. The report's residuals are in units, of one or of a size for each system.
  Progress(ForwardReport& report, Index systems, double epsilon, Numbers units = {})
      : report_(report), epsilon_(epsilon), units_(std::move(units)) {
    const auto n = static_cast<std::size_t>(systems);
    if (units_.empty()) units_ = filled(n, 1);
    report_.samples.assign(n, Verdict::not_run);
    report_.relative.assign(n, 0.0);
    best_.assign(n, std::numeric_limits<double>::infinity());
    best_step_.assign(n, 0);
    first_.assign(n, 0.0);
    last_.assign(n, 0.0);
    first_norm_.assign(n, 0.0);
    largest_.assign(n, 0.0);
  }

  /// Takes in one application of the step, which moved z to f(z). Sizes are |f(z)|, at least that of a fixed point at 0
  /// seen from the start, plus `slack`.
  void observe(const Rows& rows, const Moved& moved, double slack = 0) {
    const auto& [residuals, norms] = moved;
    ++report_.steps;
    report_.sample_steps += rows.size();
    Numbers going;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      const auto s = static_cast<std::size_t>(rows[k]);
      if (!active(s)) continue;
      going.push_back(residuals[k] / units_[s]);
      if (report_.steps == 1) first_[s] = residuals[k], first_norm_[s] = norms[k];
      last_[s] = residuals[k];
      report_.relative[s] = relative(residuals[k], size(s, norms[k]) + slack);
      largest_[s] = std::max(largest_[s], residuals[k]);
      if (residuals[k] < 0.99 * best_[s]) {
        best_[s] = residuals[k];
        best_step_[s] = report_.steps;
      }
      if (!std::isfinite(residuals[k]) || !std::isfinite(norms[k])) report_.samples[s] = Verdict::nonfinite;
    }
    report_.residuals.push_back(largest(going));
  }

  /// Gives the samples that are done their verdicts.
  void judge(const Residual& rule, const Rows& rows, const Moved& moved) {
    const auto& [residuals, norms] = moved;
    for (std::size_t k = 0; k < rows.size(); ++k) {
      const auto s = static_cast<std::size_t>(rows[k]);
      if (!active(s)) continue;
      Verdict& verdict = report_.samples[s];
      // Small beside f(z) only because z ran away, as where I - J is singular, even until rounding hides the residual:
      // that is no solution.
      const bool grew = norms[k] > 100 * first_norm_[s] && norms[k] > 100 * largest_[s];
      const bool ran_away = grew && (residuals[k] > 0.03 * largest_[s] || epsilon_ * norms[k] > 1e-3 * largest_[s]);
      if (residuals[k] <= rule.atol + rule.rtol * size(s, norms[k]) && !ran_away)
        verdict = Verdict::converged;
      else if (residuals[k] > rule.divergence * best_[s])
        verdict = Verdict::diverged;
      else if (report_.steps - best_step_[s] >= rule.patience)
        verdict = residuals[k] > 2 * first_[s] ? Verdict::diverged : Verdict::stalled;
      else if (report_.steps >= rule.max_steps)
        verdict = residuals[k] > 2 * first_[s] ? Verdict::diverged : Verdict::max_steps;
    }
  }

  /// The verdicts of a fixed number of steps.
  void judge(const Steps& rule) {
    for (std::size_t s = 0; s < report_.samples.size(); ++s)
      if (active(s)) report_.samples[s] = report_.relative[s] <= rule.rtol ? Verdict::converged : Verdict::steps_done;
  }

  /// Gives Verdict::coupled to samples that were solved by the time that they ended and are not any more, now that the
  /// others have gone on. `largest` tells how large what the step was given is, and so its results' rounding.
  template <class Largest>
  void judge_again(const Moved& moved, const Largest& largest) {
    const auto& [residuals, norms] = moved;
    for (std::size_t s = 0; s < residuals.size(); ++s) {
      if (report_.samples[s] != Verdict::converged) continue;
      const double grown = residuals[s] - last_[s] - 8 * std::sqrt(epsilon_) * norms[s];
      if (grown > 0 && grown > 1024 * epsilon_ * largest()) report_.samples[s] = Verdict::coupled;
    }
  }

  bool active(std::size_t s) const { return report_.samples[s] == Verdict::not_run; }
  bool all_active() const { return none_ended(report_.samples); }
  bool all_solved() const { return std::none_of(report_.samples.begin(), report_.samples.end(), failed); }
  /// The positions in `rows` of the samples that go on.
  Rows active_positions(const Rows& rows) const {
    Rows out;
    for (std::size_t k = 0; k < rows.size(); ++k)
      if (active(static_cast<std::size_t>(rows[k]))) out.push_back(static_cast<Index>(k));
    return out;
  }
  /// 1 for the samples that go on, 0 for the others.
  Numbers mask(const Rows& rows) const {
    Numbers out;
    for (Index r : rows) out.push_back(active(static_cast<std::size_t>(r)) ? 1.0 : 0.0);
    return out;
  }

  /// Whether a sample's state is a better start than the one that it had: it is solved, or as far as a fixed number of
  /// steps leads and its residual has not grown.
  bool settled(std::size_t s) const {
    return report_.samples[s] == Verdict::converged ||
           (report_.samples[s] == Verdict::steps_done && last_[s] <= first_[s]);
  }

  int steps() const { return report_.steps; }
  void solver_held(std::size_t bytes) { report_.solver_bytes = std::max(report_.solver_bytes, bytes); }
  void finish() { report_.verdict = worst(report_.samples); }

 private:
  /// What a residual is compared with: |f(z)|, and for a state that goes to 0 a small share of its start. 0 for 0.
  double size(std::size_t s, double norm) const {
    constexpr double share = 1e-6;  // any start nearer than a million times the fixed point is told from one at 0
    return norm > 0 ? std::max(norm, share * (first_[s] + first_norm_[s])) : 0;
  }

  ForwardReport& report_;
  double epsilon_;
  Numbers units_, best_, first_, last_, first_norm_, largest_;
  std::vector<int> best_step_;
};

/// The powers of two that bring states of an extreme size near 1, where products of residuals neither over- nor
/// underflow, and 1 for all others.
struct Units {
  Units() = default;
  /// `limit` is the largest exponent that states hold.
  Units(const Moved& first, int limit) {
    for (std::size_t s = 0; s < first.sizes.size(); ++s) {
      const double size = std::max(first.sizes[s], first.distances[s]);
      const int power = size > 0 && std::isfinite(size) ? std::ilogb(size) : 0;
      powers.push_back(std::abs(power) > 32 ? std::ldexp(1.0, std::clamp(-power, 8 - limit, limit - 8)) : 1.0);
    }
  }
  bool all_one() const {
    return std::all_of(powers.begin(), powers.end(), [](double p) { return p == 1; });
  }
  Numbers powers;
};

/// The map to iterate, and how to restrict it to some samples (null when they are coupled), if that can be done.
template <class T, class D = Cpu>
struct Iterated {
  ValueMap<T, D> f;
  std::function<ValueMap<T, D>(const Rows&)> restrict_to;
  Index systems = 1;
  std::function<bool()> can_restrict{};
};

inline constexpr const char* coupled_samples =
    "the step's result for a sample depends on the others in its batch: declare `static constexpr bool couples_samples "
    "= true` in the step";

/// Throws Error unless what a step gave for some samples alone is what it gave for them among the others, up to the
/// rounding of results of the size of what it was given, `scale`.
template <class T, class D>
void require_alike(const Values<T, D>& among, const Values<T, D>& alone, Index systems, double scale = 0) {
  constexpr auto epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  const auto [differences, sizes] = moved(among, alone, systems);
  for (std::size_t s = 0; s < sizes.size(); ++s)
    require(differences[s] <= 8 * std::sqrt(epsilon) * sizes[s] + 1024 * epsilon * scale, "fixed_point",
            coupled_samples);
}

/// The map on the samples at `positions` of what it was on, checked against the values that it had there.
template <class T, class D>
ValueMap<T, D> checked_restriction(const Iterated<T, D>& map, const Rows& rows, const Values<T, D>& z,
                                   const Values<T, D>& fz) {
  ValueMap<T, D> f;
  Values<T, D> again;
  try {
    f = map.restrict_to(rows);
    again = f(z);
  } catch (const Error& error) {
    fail("fixed_point", coupled_samples, " (", error.what(), ")");
  }
  require_alike(fz, again, std::ssize(rows));
  return f;
}

/// Iterates z until the stop rule ends it, and leaves in z the point to apply the step to for the result. Returns f(z)
/// there if it is known. `first` is f(z) at the start, if that is known; `going_on` is called when the start is not the
/// end. `spectral_radius` gets that of the map's Jacobian where the solver can tell it.
template <class T, class D>
std::optional<Values<T, D>> iterate(const Iterated<T, D>& map, const Forward& forward, const Stop& stop,
                                    Values<T, D>& z, std::optional<Values<T, D>> first, Progress& progress,
                                    const std::function<void()>& going_on = {}, Numbers* spectral_radius = nullptr) {
  return std::visit(
      [&](const auto& options) -> std::optional<Values<T, D>> {
        auto solver = iteration_of<T, D>(options, map.systems);
        Rows rows = all_rows(map.systems);
        constexpr bool plain = std::same_as<std::decay_t<decltype(options)>, Plain>;
        Units units;
        Numbers residuals;  // of the last step
        const auto advance = [&](const Values<T, D>& fz) {
          const Numbers mask = progress.mask(rows);
          if (plain || units.all_one()) {
            solver.advance(z, fz, residuals, mask);
          } else {
            Values<T, D> there = fz;
            scale(z, units.powers), scale(there, units.powers);
            solver.advance(z, there, products(residuals, units.powers), mask);
            scale(z, inverses(units.powers));
          }
          progress.solver_held(solver.bytes());
        };
        // Plain steps that all samples take; false at one that `observe` has seen a sample end at, with z before it.
        const auto plain_steps = [&]([[maybe_unused]] int limit, [[maybe_unused]] const auto& observe) {
          if constexpr (plain) {
            if (progress.steps() == 0 || !progress.all_active() || !units.all_one()) return true;
            const auto lost = [](double residual) { return is_lost<T>(residual * residual); };
            if (std::any_of(residuals.begin(), residuals.end(), lost)) return true;
            const Numbers everyone = filled(rows.size(), 1);
            return run_ahead(
                z, std::ssize(z), {map.systems, map.systems}, limit,
                [&](Values<T, D>& at, auto& measures) {
                  const Values<T, D> next = map.f(at);
                  measures.distances(next, at, map.systems);
                  measures.norms(next, map.systems);
                  solver.advance(at, next, {}, everyone);
                },
                [&](const std::vector<Numbers>& measured) {
                  observe(Moved{measured[0], measured[1]});
                  return progress.all_active();
                });
          }
          return true;
        };
        if (const auto* steps = std::get_if<Steps>(&stop)) {
          const auto observe = [&](const Moved& step) {
            residuals = step.distances;
            progress.observe(rows, step);
            if (progress.steps() == 1) units = Units(step, std::numeric_limits<T>::max_exponent);
          };
          while (progress.steps() + 1 < steps->count) {
            const bool seen = !plain_steps(steps->count - 1 - progress.steps(), observe);
            if (!seen && progress.steps() + 1 == steps->count) break;
            const Values<T, D> fz = map.f(z);
            if (!seen) observe(moved(fz, z, map.systems));
            advance(fz);
          }
          return std::nullopt;
        }
        const Residual& rule = std::get<Residual>(stop);
        ValueMap<T, D> f = map.f;
        Values<T, D> fz = first ? std::move(*first) : f(z), all_z, all_fz;
        const auto observe = [&](const Moved& step) {
          residuals = step.distances;
          progress.observe(rows, step, rule.rtol > 0 ? rule.atol / rule.rtol : 0);
          progress.judge(rule, rows, step);
          if (progress.steps() == 1) units = Units(step, std::numeric_limits<T>::max_exponent);
        };
        for (bool seen = false;;) {
          if (!seen) observe(moved(fz, z, std::ssize(rows)));
          const Rows going = progress.active_positions(rows);
          if (going.empty()) break;
          if (progress.steps() == 1 && going_on) going_on();
          // Not at the start, which is often 0: what a step multiplies by it would not show in the check.
          if (rule.compact && map.restrict_to && progress.steps() > 1 && 2 * going.size() < rows.size() &&
              (!all_z.empty() || map.can_restrict())) {
            const bool first_time = all_z.empty();
            if (first_time)
              all_z = z, all_fz = fz;
            else
              scatter_rows(z, rows, all_z), scatter_rows(fz, rows, all_fz);
            z = gather_rows(z, going);
            fz = gather_rows(fz, going);
            residuals = select(residuals, going);
            rows = select(rows, going);
            units.powers = select(units.powers, going);
            solver.keep(going);
            f = first_time ? checked_restriction(map, rows, z, fz) : map.restrict_to(rows);
          }
          advance(fz);
          seen = !plain_steps(rule.max_steps - progress.steps(), observe);
          fz = f(z);
        }
        if constexpr (requires { solver.spectral_radius(); })
          if (spectral_radius && all_z.empty()) *spectral_radius = solver.spectral_radius();
        if (!all_z.empty()) {
          scatter_rows(z, rows, all_z);
          scatter_rows(fz, rows, all_fz);
          z = std::move(all_z);
          fz = std::move(all_fz);
        }
        return fz;
      },
      forward);
}

}  // namespace settle::fixed_point::detail
