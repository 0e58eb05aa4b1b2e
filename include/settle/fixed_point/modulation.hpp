#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/together.hpp"
#include "settle/fixed_point/report.hpp"

namespace settle::inline v0_2::fixed_point {

/// The weight of a contraction penalty as a dual variable: it grows while the measured spectral radius is above the
/// dead band around the target, shrinks while it is below, and fades slowly within. Every change is by a factor, so
/// that no scale of the weight has to be known beforehand, and by a bounded one. Since the net follows a weight late,
/// the radius is smoothed, and a weight whose radius is already on its way keeps still: with s the smoothed radius and
/// s' where its trend leads in `horizon` updates, the logarithm of the factor is gain max(0, min(s, s') - target -
/// dead_band) above the band, gain min(0, max(s, s') - target + dead_band) below it, and -fading within.
class DualWeight {
 public:
  struct Settings {
    double target = 0.9;
    double dead_band = 0.03;
    double gain = 0.5;
    double horizon = 100;
    double smoothing = 0.9;  ///< the share of the former value that an update keeps
    double fading = 0.01;
    double largest_change = 0.05;  ///< of the weight's logarithm in one update
    double initial = 1;
    double smallest = 1e-3, largest = 1e4;
    double quantile = 0.95;  ///< of the samples' spectral radii
  };

  DualWeight() : DualWeight(Settings{}) {}
  explicit DualWeight(const Settings& settings) : settings_(settings), weight_(settings.initial) {
    require(settings.initial > 0 && settings.smallest > 0 && settings.largest >= settings.smallest &&
                std::isfinite(settings.initial) && std::isfinite(settings.largest),
            "dual_weight", "expected positive, finite weights, the largest not below the smallest");
    require(std::isfinite(settings.target) && settings.quantile >= 0 && settings.quantile <= 1, "dual_weight",
            "expected a finite target and 0 <= quantile <= 1, got ", settings.target, " and ", settings.quantile);
    require(settings.smoothing >= 0 && settings.smoothing < 1, "dual_weight", "expected 0 <= smoothing < 1, got ",
            settings.smoothing);
    for (const double amount :
         {settings.dead_band, settings.gain, settings.horizon, settings.fading, settings.largest_change})
      require(amount >= 0 && std::isfinite(amount), "dual_weight",
              "expected a dead_band, gain, horizon, fading and largest_change that are finite and not negative, got ",
              amount);
  }

  double weight() const { return weight_; }

  /// Takes in a spectral radius; one that is not finite, or far above the target, counts as the target plus 1.
  void update(double spectral_radius) {
    const double limit = settings_.target + 1;
    const double measured = std::isfinite(spectral_radius) ? std::min(spectral_radius, limit) : limit;
    const double before = smoothed_ < 0 ? measured : smoothed_;
    smoothed_ = settings_.smoothing * before + (1 - settings_.smoothing) * measured;
    const double change = std::clamp(wanted_change(smoothed_ + settings_.horizon * (smoothed_ - before)),
                                     -settings_.largest_change, settings_.largest_change);
    weight_ = std::clamp(weight_ * std::exp(change), settings_.smallest, settings_.largest);
  }

  /// Takes in what a backward pass measured, of the samples of all ranks under distributed::Together; nothing if its
  /// solver cannot tell.
  void update(const Report& report) {
    std::vector<double> radii = report.adjoint.spectral_radius;
    if (const auto* batch = distributed::Together::current(); batch && !report.couples_samples)
      radii = distributed::gather_lists(radii, batch->group);
    if (radii.empty()) return;
    for (double& radius : radii)  // not-a-number has no place in an order
      if (!std::isfinite(radius)) radius = std::numeric_limits<double>::infinity();
    const auto at = static_cast<std::ptrdiff_t>(settings_.quantile * static_cast<double>(radii.size() - 1) + 0.5);
    std::nth_element(radii.begin(), radii.begin() + at, radii.end());
    update(radii[static_cast<std::size_t>(at)]);
  }

 private:
  /// Of the weight's logarithm, when the trend leads to `predicted`.
  double wanted_change(double predicted) const {
    const double high = settings_.target + settings_.dead_band, low = settings_.target - settings_.dead_band;
    if (smoothed_ > high) return settings_.gain * std::max(0.0, std::min(smoothed_, predicted) - high);
    if (smoothed_ < low) return settings_.gain * std::min(0.0, std::max(smoothed_, predicted) - low);
    return -settings_.fading;
  }

  Settings settings_;
  double weight_;
  double smoothed_ = -1;  ///< negative before the first update
};

/// The weights of the task's loss and of the LCP that the published training logs recorded (paper 1.9):
/// s loss + (1 - s) w P + w P with s = sigmoid((centre - sharpness P) / width) held constant. The task is switched off
/// while the penalty P is large.
struct SigmoidGate {
  double weight = 10;
  double centre = 16.5;
  double sharpness = 1e7;
  double width = 3.375;

  /// s, the weight of the task's loss. Throws Error unless the width is positive.
  double loss_weight(double penalty) const {
    require(width > 0, "sigmoid_gate", "expected width > 0, got ", width);
    return 1 / (1 + std::exp(-(centre - sharpness * penalty) / width));
  }
  /// The weight of P.
  double penalty_weight(double penalty) const { return (2 - loss_weight(penalty)) * weight; }
};

}  // namespace settle::fixed_point
