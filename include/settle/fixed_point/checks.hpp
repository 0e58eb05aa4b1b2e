#pragma once
#include <cmath>
#include <variant>

#include "settle/core/error.hpp"
#include "settle/fixed_point/policies.hpp"

// What is allowed for every option of every policy.
namespace settle::inline v0_2::fixed_point::detail {

/// Throws Error unless a condition on an option, which is false for not-a-number, holds.
template <class X>
void allow(bool condition, const char* text, X value) {
  require(condition, "fixed_point", "expected ", text, ", got ", value);
}

/// A tolerance or another number that is finite and not negative.
inline bool is_amount(double value) { return value >= 0 && std::isfinite(value); }

inline void check(const Plain& p) { allow(p.damping >= 0 && p.damping < 1, "0 <= damping < 1", p.damping); }
inline void check(const Anderson& p) {
  allow(p.depth >= 1, "depth >= 1", p.depth);
  allow(is_amount(p.ridge), "a finite ridge >= 0", p.ridge);
  allow(p.mixing > 0 && p.mixing <= 1, "0 < mixing <= 1", p.mixing);
  allow(p.safeguard >= 1, "safeguard >= 1", p.safeguard);
}
inline void check(const Broyden& p) {
  allow(p.rank >= 1, "rank >= 1", p.rank);
  allow(p.safeguard >= 1, "safeguard >= 1", p.safeguard);
}

inline void check(const Steps& p) {
  allow(p.count >= 1, "at least 1 step", p.count);
  allow(is_amount(p.rtol), "a finite rtol >= 0", p.rtol);
}
inline void check(const Residual& p) {
  allow(is_amount(p.rtol), "a finite rtol >= 0", p.rtol);
  allow(is_amount(p.atol), "a finite atol >= 0", p.atol);
  allow(p.max_steps >= 1, "max_steps >= 1", p.max_steps);
  allow(p.patience >= 1, "patience >= 1", p.patience);
  allow(p.divergence > 1, "divergence > 1", p.divergence);
}

/// The limits that all adjoint solvers with a tolerance have.
inline void check_limits(int max_products, double rtol) {
  allow(max_products >= 1, "max_products >= 1", max_products);
  allow(is_amount(rtol), "a finite rtol >= 0", rtol);
}
inline void check(const Neumann& p) { check_limits(p.max_products, p.rtol); }
inline void check(const Terms& p) { allow(p.count >= 0, "count >= 0", p.count); }
inline void check(const Gmres& p) {
  allow(p.restart >= 1, "restart >= 1", p.restart);
  check_limits(p.max_products, p.rtol);
}
inline void check(const BiCgStab& p) { check_limits(p.max_products, p.rtol); }
inline void check(const NormalCg& p) {
  check_limits(p.max_products, p.rtol);
  allow(is_amount(p.eta), "a finite eta >= 0", p.eta);
}
inline void check(const AdjointAnderson& p) {
  check(p.solver);
  check_limits(p.max_products, p.rtol);
}
inline void check(const Phantom& p) {
  allow(p.steps >= 1, "at least 1 step", p.steps);
  allow(p.damping >= 0 && p.damping < 1, "0 <= damping < 1", p.damping);
}
inline void check(const Checkpointed&) {}
inline void check(const Dense&) {}
inline void check(const Auto& p) {
  check(p.first);
  check(p.then);
  allow(is_amount(p.worth), "a finite worth >= 0", p.worth);
}
inline void check(const ReleasedNeumann& p) { allow(p.terms >= 0, "terms >= 0", p.terms); }

inline void check(const NoPenalty&) {}
inline void check(const Lcp& p) { allow(is_amount(p.lambda), "a finite lambda >= 0", p.lambda); }
inline void check(const Hutchinson& p) { allow(p.probes >= 1, "probes >= 1", p.probes); }
inline void check(const SpectralHinge& p) {
  allow(p.target > 0 && std::isfinite(p.target), "a finite target > 0", p.target);
  allow(p.products >= 0, "products >= 0", p.products);
}
inline void check(const Movement&) {}

template <class... P>
void check(const std::variant<P...>& policy) {
  std::visit([](const auto& p) { check(p); }, policy);
}

inline void check(const Certify& p) { allow(p.products >= 1, "products >= 1", p.products); }

inline void check(const Options& o) {
  check(o.forward);
  check(o.stop);
  check(o.adjoint);
  check(o.penalty);
  allow(o.lipschitz >= 0 && o.lipschitz < 1, "0 <= lipschitz < 1", o.lipschitz);
  if (!o.certify) return;
  check(*o.certify);
  require(o.check_adjoint, "fixed_point", "certify needs the adjoint's residual: leave check_adjoint true");
}

}  // namespace settle::fixed_point::detail
