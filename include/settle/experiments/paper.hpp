#pragma once
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// What the paper published, as its released arrays and figures have it. IoU unless a name says otherwise.
namespace settle::inline v0_2::experiments::paper {

/// Fig. 2a: trained and tested on contours of 14, 20 and 25 dashes, the best epoch on the images that are reported.
inline std::optional<std::array<double, 3>> accuracy(std::string_view algorithm) {
  if (algorithm == "crbp" || algorithm == "crbp_released") return {{0.9616, 0.9465, 0.9378}};
  if (algorithm == "cbptt") return {{0.9837, 0.8423, 0.7345}};
  if (algorithm == "bptt") return {{0.9863, 0.8859, 0.7244}};
  if (algorithm == "rbp") return {{0.7141, 0.6247, 0.5903}};
  if (algorithm == "feed_forward") return {{0.7897, 0.6347, 0.5635}};
  if (algorithm == "bptt_supervised") return {{0.9794, 0.8735, 0.7219}};
  if (algorithm == "bptt_truncated") return {{0.9174, 0.7400, 0.6146}};
  return {};
}

/// The last epoch's IoU of the same runs (training logs): what is left without a choice of epoch on the test images.
inline std::optional<std::array<double, 3>> last_epoch(std::string_view algorithm) {
  if (algorithm == "crbp_released") return {{0.9353, 0.8698, 0.9296}};
  if (algorithm == "bptt") return {{0.9863, 0.8826, 0.7244}};
  if (algorithm == "cbptt") return {{0.9838, 0.8424, 0.7346}};
  if (algorithm == "rbp") return {{0.5029, 0.4363, 0.3790}};
  return {};
}

/// Fig. 2b, IoU of the best epoch on all validation images, contours of 14 dashes.
struct KernelResult {
  int kernel;
  double crbp, bptt;
};
inline constexpr std::array<KernelResult, 3> kernels{{{3, 0.892, 0.493}, {5, 0.945, 0.575}, {9, 0.950, 0.791}}};

/// Fig. 2c: trained on 14 dashes, tested on 14, 20 and 25 after so many steps.
inline constexpr std::array<int, 5> generalisation_steps{6, 10, 20, 30, 39};
inline std::optional<std::array<std::array<double, 5>, 3>> generalisation(std::string_view algorithm) {
  using Rows = std::array<std::array<double, 5>, 3>;
  if (algorithm == "crbp" || algorithm == "crbp_released")
    return Rows{{{0.359, 0.689, 0.972, 0.971, 0.965},
                 {0.306, 0.552, 0.936, 0.949, 0.947},
                 {0.144, 0.307, 0.607, 0.777, 0.796}}};
  if (algorithm == "bptt")
    return Rows{{{0.982, 0.594, 0.140, 0.133, 0.130},
                 {0.729, 0.626, 0.105, 0.101, 0.099},
                 {0.585, 0.339, 0.084, 0.079, 0.075}}};
  if (algorithm == "cbptt")
    return Rows{{{0.975, 0.942, 0.836, 0.784, 0.760},
                 {0.744, 0.968, 0.769, 0.701, 0.675},
                 {0.606, 0.860, 0.562, 0.512, 0.494}}};
  return {};
}

/// Steps of training on 14 dashes: of BPTT and C-BPTT, and of C-RBP.
inline constexpr int unrolled_steps = 6, settled_steps = 20;

/// Fig. 2a: gigabytes of a GPU, of 32 images each.
inline constexpr double crbp_gigabytes = 6, bptt_gigabytes = 10.5, cbptt_gigabytes = 12;

/// Fig. 1: the share of the variance that the first two components explain.
inline constexpr std::array<double, 2> bptt_components{0.98, 0.02}, cbptt_components{0.91, 0.05};

}  // namespace settle::experiments::paper
