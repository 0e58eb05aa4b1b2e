#pragma once
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "settle/fixed_point/acceleration.hpp"
#include "settle/fixed_point/flattened.hpp"
#include "settle/fixed_point/unrolled.hpp"

namespace settle::inline v0_2::fixed_point {

/// Broyden's method forward, and its inverse once more backward (SHINE, Ramzi et al. 2022).
struct SharedInverse {
  Broyden solver{.rank = 30};
  double rtol = 1e-4;  ///< above 0; stops as Residual does, fixed points at 0 included
  int max_steps = 60;
  int products = 0;  ///< steps of g <- b + Jᵀ g that refine what the inverse gives; each contracts its error by J
};

/// How such a solve went.
struct SharedInverseReport {
  Verdict verdict = Verdict::not_run;  ///< of the forward solve: failed(verdict) where it did not get to rtol
  int steps = 0;                       ///< applications of the step
  double residual = 0;                 ///< |f(z) - z| / |f(z)| at the end, over the batch
  double adjoint_residual = 0;         ///< |b + Jᵀ g - g| / |b| of the last backward pass
};

namespace detail {

inline void check(const SharedInverse& p) {
  check(p.solver);
  allow(p.rtol > 0 && std::isfinite(p.rtol), "a finite rtol > 0", p.rtol);
  allow(p.max_steps >= 1, "max_steps >= 1", p.max_steps);
  allow(p.products >= 0, "products >= 0", p.products);
}

}  // namespace detail

template <State Z>
struct SharedInverseSolution {
  Z z;
  std::shared_ptr<const SharedInverseReport> report;  ///< its adjoint part is filled in by the backward pass
};

/// The fixed point of z = f(z, arguments...) on the arguments' tape. The forward solver's matrix H, which stands for
/// the inverse of J - I, is kept, and the backward pass takes g = -Hᵀ b for the adjoint's solution: no product with J,
/// or `products` of them. An approximation, as good as H is in the direction of b: the report's adjoint_residual tells
/// how good, for one product more. z0 gets no gradient. The batch is one system. A state that did not get to the
/// tolerance is returned too: see the report's verdict.
template <class F, State Z, class... A>
[[nodiscard]] SharedInverseSolution<Z> solve_with_shared_inverse(const F& step, const SharedInverse& options,
                                                                 const Z& z0, const A&... arguments) {
  using V = detail::variable_of<Z>;
  using T = typename V::value_type;
  using D = typename V::device_type;
  using Values = detail::Values<T, D>;
  detail::check(options);
  const auto flat = detail::flattened(step, z0, arguments...);
  const auto f = detail::value_map(flat);
  auto solver = std::make_shared<detail::BroydenIteration<T, D>>(options.solver, 1);
  const auto report = std::make_shared<SharedInverseReport>();
  const Residual rule{.rtol = options.rtol,
                      .max_steps = options.max_steps,
                      .patience = options.max_steps,
                      .divergence = std::numeric_limits<double>::infinity()};
  ForwardReport forward;
  detail::Progress progress(forward, 1, static_cast<double>(std::numeric_limits<T>::epsilon()));
  Values z = flat.start;
  while (true) {
    const Values fz = f(z);
    const detail::Moved moved = detail::moved(fz, z, 1);
    progress.observe({0}, moved), progress.judge(rule, {0}, moved);
    if (!progress.active(0)) break;
    solver->advance(z, fz, moved.distances, {1});
  }
  report->verdict = forward.samples.front(), report->steps = forward.steps;
  report->residual = forward.relative.front();
  const auto pull = [flat, solver, z, report, products = options.products](
                        const Values& b, const std::vector<std::size_t>& needed, Cotangents<T, D>& gradients) {
    detail::LinearisedStep<T, D> at(flat.step, z, flat.arguments);
    Pullback<T, D> product(at.z_next, at.z, true);
    const auto next = [&](const Values& g) {
      return detail::combined(1, detail::values_of(product(detail::constants<T, D>(g))), 1, b);
    };
    Values g = solver->transposed_times(b, 1);
    detail::scale(g, {-1});
    for (int k = 0; k < products; ++k) g = next(g);
    const double size = detail::norms(b, 1).front();
    report->adjoint_residual = size > 0 ? detail::moved(next(g), g, 1).distances.front() / size : 0;
    detail::pull_step(flat.step, flat.arguments, z, g, 0, needed, gradients);
  };
  return {detail::on_arguments_tape<Z>("shared_inverse", flat, f(z), pull), report};
}

}  // namespace settle::fixed_point
