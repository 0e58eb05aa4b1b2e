#pragma once
#include <vector>

#include "settle/experiments/more.hpp"

namespace settle::inline v0_2::experiments {

/// An experiment that a program can be asked for.
struct Experiment {
  const char* name;
  const char* title;
  void (*run)(const Plan&);
};

/// All experiments, those that make the paper's claims first.
inline std::vector<Experiment> experiments() {
  return {
      {"accuracy", "accuracy against contour length (Fig. 2a)", accuracy},
      {"generalisation", "trained on short contours, tested on all at up to four times the steps (Fig. 2c)",
       generalisation},
      {"memory", "memory of a training step against its number of recurrent steps", memory},
      {"penalty", "spectral radius, column sums and penalty during training, with and without it", penalty},
      {"kernels", "kernel width against steps (Fig. 2b)", kernels},
      {"state_space", "states over time, distances, Kolmogorov-Smirnov tests (Fig. 1)", state_space},
      {"fill_in", "how a segmentation fills in: time courses, flood filling", fill_in},
      {"extrapolation", "longer contours, each image until its state rests", extrapolation},
      {"algorithms", "other ways to train", algorithms},
      {"models", "other recurrent nets, and controls", models},
      {"classification", "same contour or not", classification},
      {"dynamic", "scenes that drift, and a mark that changes", dynamic},
  };
}

}  // namespace settle::experiments
