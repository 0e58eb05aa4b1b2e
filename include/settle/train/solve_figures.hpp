#pragma once
#include <memory>

#include "settle/distributed/together.hpp"
#include "settle/fixed_point/report.hpp"
#include "settle/train/figures.hpp"

namespace settle::inline v0_2 {

/// The figures of a recurrent net's step, of the whole batch: asked for after the backward pass.
template <class Report>
Figures figures_of(double penalty, const std::shared_ptr<const Report>& report, double step_seconds) {
  Figures out{{"penalty", distributed::mean_over_batch(penalty)}};
  if (!report) return out;
  const auto largest = [](const std::vector<double>& list) {  // negative of nothing
    return distributed::largest_over_batch(list.empty() ? -1 : fixed_point::detail::largest(list));
  };
  out.emplace_back("residual", largest(report->forward.relative));
  if (const double radius = largest(report->adjoint.spectral_radius); !(radius < 0)) out.emplace_back("radius", radius);
  out.emplace_back("products", report->adjoint.products);
  if constexpr (requires { report->adjoint.seconds; })
    if (step_seconds > 0) out.emplace_back("products_share", report->adjoint.seconds / step_seconds);
  if (report->dropped > 0) out.emplace_back("dropped", report->dropped);
  return out;
}

/// How a recurrent net's step ended: the worst verdict of its samples, of the state and of its adjoint.
template <class Report>
Words verdicts_of(const std::shared_ptr<const Report>& report) {
  if (!report) return {};
  return {{"forward", fixed_point::name(report->forward.verdict)},
          {"adjoint", fixed_point::name(report->adjoint.verdict)}};
}

}  // namespace settle
