#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/fixed_point/report.hpp"

namespace settle::fixed_point {

/// The weight of a contraction penalty as a dual variable: it grows while the measured spectral radius is above the
/// target and shrinks while it is below, and keeps still within the dead band around it. Growth is by a factor,
/// exp(gain (rho - target ∓ dead_band)), so that no scale of the weight has to be known beforehand.
class DualWeight {
 public:
  struct Settings {
    double target = 0.9;
    double dead_band = 0.03;
    double gain = 2;
    double initial = 1;
    double smallest = 1e-3, largest = 1e4;
    double quantile = 0.95;  ///< of the samples' spectral radii
  };

  DualWeight() : DualWeight(Settings{}) {}
  explicit DualWeight(const Settings& settings) : settings_(settings), weight_(settings.initial) {
    require(settings.initial > 0 && settings.smallest > 0 && settings.largest >= settings.smallest &&
                settings.dead_band >= 0 && settings.gain >= 0,
            "dual_weight", "expected positive weights and a dead band and a gain that are not negative");
  }

  double weight() const { return weight_; }

  /// Takes in a spectral radius; one that is not finite counts as far above the target.
  void update(double spectral_radius) {
    const double high = settings_.target + settings_.dead_band, low = settings_.target - settings_.dead_band;
    const double excess = !std::isfinite(spectral_radius) ? 1.0
                          : spectral_radius > high        ? std::min(spectral_radius - high, 1.0)
                          : spectral_radius < low         ? spectral_radius - low
                                                          : 0.0;
    weight_ = std::clamp(weight_ * std::exp(settings_.gain * excess), settings_.smallest, settings_.largest);
  }

  /// Takes in what a backward pass measured; nothing if its solver cannot tell.
  void update(const Report& report) {
    std::vector<double> radii = report.adjoint.spectral_radius;
    if (radii.empty()) return;
    const auto at = static_cast<std::ptrdiff_t>(settings_.quantile * static_cast<double>(radii.size() - 1) + 0.5);
    std::nth_element(radii.begin(), radii.begin() + at, radii.end());
    update(radii[static_cast<std::size_t>(at)]);
  }

 private:
  Settings settings_;
  double weight_;
};

/// The weights of the task's loss and of the LCP that the published training logs recorded (paper 1.9):
/// s loss + (1 - s) w P + w P with s = sigmoid((centre - sharpness P) / width) held constant. The task is switched off
/// while the penalty P is large.
struct SigmoidGate {
  double weight = 10;
  double centre = 16.5;
  double sharpness = 1e7;
  double width = 3.375;

  /// s, the weight of the task's loss.
  double loss_weight(double penalty) const { return 1 / (1 + std::exp(-(centre - sharpness * penalty) / width)); }
  /// The weight of P.
  double penalty_weight(double penalty) const { return (2 - loss_weight(penalty)) * weight; }
};

}  // namespace settle::fixed_point
