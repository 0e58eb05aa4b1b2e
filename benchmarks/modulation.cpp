// Whether the LCP's weight must be tuned by hand: a small hGRU on small Pathfinder images, trained with fixed weights
// and with the weight that follows the measured spectral radius (DualWeight). Prints a Markdown table of mean and
// spread over three seeds. `modulation [steps]`.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "settle/settle.hpp"

namespace {

using namespace settle;
namespace fp = settle::fixed_point;

constexpr Index image_size = 24, batch_size = 8, held_out_batches = 8;
constexpr int recurrent_steps = 8;

const PathfinderOptions images{.size = image_size,
                               .window = 64,
                               .contour_length = 4,
                               .distractors = 2,
                               .dash_length = 4,
                               .margin = 2,
                               .seed_distance = 14};

struct Result {
  double f1 = 0, loss = 0, radius = 0, converged = 0, weight = 0;
};

/// The mean over held-out batches of the loss and F1 after a number of steps.
void evaluate_held_out(const HgruNet<float>& net, const Pathfinder& source, Result& out) {
  Confusion counts;
  for (Index b = 0; b < held_out_batches; ++b) {
    const auto batch = source.batch(1, static_cast<std::uint64_t>(b * batch_size), batch_size);
    const Var<float> logits = predict(net, Var<float>(batch.image), recurrent_steps);
    counts += confusion(logits.value(), batch.target);
    out.loss += static_cast<double>(focal_loss(logits, batch.target).item()) / static_cast<double>(held_out_batches);
  }
  out.f1 = counts.f1();
}

/// One training run; a weight of 0 stands for DualWeight.
Result train(double fixed_weight, std::uint64_t seed, int steps) {
  const Pathfinder source(images);
  HgruNet<float> net = hgru_net<float>({.kernel = 3, .orientations = 3, .seed = seed});
  Adam<float> adam({.rate = 3e-3});
  fp::DualWeight dual({.target = 0.9, .dead_band = 0.03, .initial = 1});
  const Rbp policy{{.stop = fp::Steps{recurrent_steps, 1e-1},
                    .adjoint = fp::Auto{.first = {.max_products = 30, .rtol = 1e-3},
                                        .then = {.restart = 15, .max_products = 30, .rtol = 1e-3}},
                    .penalty = fp::Lcp{.lambda = 0.9},
                    .on_fail = fp::OnFail::report}};
  int solves = 0, converged = 0, late = 0;
  Result out;
  for (int step = 0; step < steps; ++step) {
    const auto batch = source.batch(2 + seed, static_cast<std::uint64_t>(step * batch_size), batch_size);
    Tape<float> tape;
    const auto model = on_tape(net, tape);
    const auto result = run(model, Var<float>(batch.image), policy);
    const double weight = fixed_weight > 0 ? fixed_weight : dual.weight();
    const auto objective = penalised(focal_loss(result.logits, batch.target), result.penalty, weight);
    auto gradients = grad(objective, parameters<Var<float>>(model));
    clip_global_norm(gradients, 1.0);
    adam.step(net, gradients);
    dual.update(*result.report);
    const fp::AdjointReport& adjoint = result.report->adjoint;
    solves += static_cast<int>(adjoint.samples.size());
    converged += static_cast<int>(std::count(adjoint.samples.begin(), adjoint.samples.end(), fp::Verdict::converged));
    if (step >= steps - std::max(1, steps / 10)) {
      auto radii = adjoint.spectral_radius;
      std::sort(radii.begin(), radii.end());
      if (!radii.empty()) out.radius += radii[radii.size() / 2], ++late;
    }
    out.weight = weight;
  }
  out.radius /= std::max(1, late);
  out.converged = static_cast<double>(converged) / std::max(1, solves);
  evaluate_held_out(net, source, out);
  return out;
}

std::string mean_and_spread(const std::vector<Result>& runs, double Result::*field, const char* format) {
  double mean = 0, low = runs[0].*field, high = low;
  for (const Result& r : runs) {
    mean += r.*field / static_cast<double>(runs.size());
    low = std::min(low, r.*field), high = std::max(high, r.*field);
  }
  char text[96];
  std::snprintf(text, sizeof text, format, mean, low, high);
  return text;
}

}  // namespace

int main(int count, char** arguments) {
  const int steps = count > 1 ? std::atoi(arguments[1]) : 150;
  ThreadPool::instance().resize(1);
  std::printf(
      "| weight of the LCP, %d training steps | held-out F1 | held-out loss | final spectral radius | adjoint solves "
      "converged | final weight |\n|---|---|---|---|---|---|\n",
      steps);
  for (const double weight : {1.0, 10.0, 100.0, 0.0}) {
    std::vector<Result> runs;
    for (std::uint64_t seed = 0; seed < 3; ++seed) runs.push_back(train(weight, seed, steps));
    const std::string name = weight > 0 ? std::to_string(static_cast<int>(weight)) : "DualWeight, target 0.9";
    std::printf("| %s | %s | %s | %s | %s | %s |\n", name.c_str(),
                mean_and_spread(runs, &Result::f1, "%.3f (%.3f to %.3f)").c_str(),
                mean_and_spread(runs, &Result::loss, "%.4f (%.4f to %.4f)").c_str(),
                mean_and_spread(runs, &Result::radius, "%.2f (%.2f to %.2f)").c_str(),
                mean_and_spread(runs, &Result::converged, "%.2f (%.2f to %.2f)").c_str(),
                mean_and_spread(runs, &Result::weight, "%.3g (%.3g to %.3g)").c_str());
    std::fflush(stdout);
  }
}
