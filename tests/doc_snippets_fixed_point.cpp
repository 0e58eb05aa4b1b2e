#include <doctest/doctest.h>

#include <cmath>

#include "settle/autodiff/gradcheck.hpp"
#include "settle/fixed_point/fixed_point.hpp"
#include "settle/nn/hgru.hpp"
#include "settle/ops/convolution.hpp"
#include "settle/ops/reduce.hpp"

// The snippets of docs/fixed_point.md, in the order of that page.

using namespace settle;
namespace fp = settle::fixed_point;

/// z -> tanh(w * z + x), a convolution that keeps the image's size.
struct Settling {
  Var<float> w;

  Var<float> operator()(const Var<float>& z, const Var<float>& x) const {
    return map([](auto u, auto drive) { return tanh(u + drive); }, conv(z, w, ConvOptions::same(w.shape())), x);
  }
  void parameters(auto&& visit) { visit("w", w); }
};

TEST_CASE("the snippets of docs/fixed_point.md compile and do what the page says") {
  Random random(1);
  const Tensor<float> weights = normal<float>(Shape{3, 3, 3, 3}, 0, 0.05, random);
  const Tensor<float> images = normal<float>(Shape{4, 3, 8, 8}, 0, 1, random);
  const Var<float> zero = Tensor<float>(images.shape(), 0.f);

  Tape<float> tape;
  const Settling cell{tape.leaf(weights)};
  const Var<float> x = tape.leaf(images);

  const fp::Options options{.forward = fp::Anderson{.depth = 5},
                            .stop = fp::Residual{.rtol = 1e-4, .max_steps = 60},
                            .adjoint = fp::Auto{},
                            .penalty = fp::Lcp{.lambda = 0.9},
                            .on_fail = fp::OnFail::drop_sample};
  const auto solution = fp::solve(cell, options, zero, x);
  const Var<float> loss = mean(solution.z * solution.z) + 10.0 * solution.penalty;
  const auto gradients = grad(loss, {cell.w, x});
  CHECK(gradients[0].shape() == weights.shape());

  const fp::Report& report = *solution.report;
  if (!report.ok()) MESSAGE(report.doubts() << "; dropped " << report.dropped);
  CHECK(report.ok());
  CHECK(report.adjoint.spectral_radius.size() == 4);
  CHECK(std::abs(report.adjoint.loss_error_estimate) < 1e-3);

  const fp::Options certified{.stop = fp::Residual{}, .certify = fp::Certify{.products = 60}};
  const auto probed = fp::solve(cell, certified, zero, x);
  (void)grad(sum(probed.z), {x});
  CHECK(probed.report->adjoint.probes > 0);
  CHECK(probed.report->ok());

  const fp::Options published{.stop = fp::Steps{20},
                              .adjoint = fp::ReleasedNeumann{.terms = 15},
                              .adjoint_state = fp::AdjointState::first_part,
                              .penalty = fp::Lcp{.lambda = 0.9},
                              .on_fail = fp::OnFail::report};
  CHECK(fp::solve(cell, published, zero, x).report->forward.steps == 20);

  fp::DualWeight weight({.target = 0.9, .dead_band = 0.03});
  weight.update(report);       // after each backward pass; then loss + weight.weight() * penalty
  CHECK(weight.weight() < 1);  // far below the target: the penalty fades

  fp::Warm warm{zero};
  const auto first = fp::solve(cell, options, warm, x);
  const auto again = fp::solve(cell, options, warm, x);  // starts from the first one's solution
  CHECK(again.report->forward.steps <= first.report->forward.steps);

  const auto profile = fp::stability_profile(
      cell, {.steps = 60, .reference = 20}, zero, [](const Var<float>& z) { return mean(z * z).item(); }, x);
  CHECK(profile.back().residual < 1e-4);

  const fp::Options exact{.stop = fp::Residual{.rtol = 1e-5}, .adjoint = fp::Gmres{}};
  const auto twice = fp::solve<2>(cell, exact, zero, x);
  const Var<float> slope = grad(sum(twice.z), {x}, {.create_graph = true}).front();
  CHECK(grad(sum(slope * slope), {cell.w}).front().shape() == weights.shape());
}

// The check of docs/write_a_cell.md.
TEST_CASE("a cell's gradient through its fixed point is that of differences") {
  Random random(2);
  const Tensor<double> w = normal<double>(Shape{2, 2, 3, 3}, 0, 0.05, random);
  const Tensor<double> x = normal<double>(Shape{1, 2, 4, 5}, 0, 1, random);

  const auto settled = [](const auto& in) {
    const auto step = [](const auto& z, const auto& drive, const auto& weight) {
      return map([](auto u, auto d) { return tanh(u + d); }, conv(z, weight, ConvOptions::same(weight.shape())), drive);
    };
    const fp::Options exact{.stop = fp::Residual{.rtol = 1e-12}, .adjoint = fp::Gmres{.rtol = 1e-12}};
    return fp::solve(step, exact, Var<double>(Tensor<double>(in[0].shape(), 0.0)), in[0], in[1]).z;
  };
  const GradcheckResult result = gradcheck(settled, {x, w}, {.tolerance = 1e-6});
  CHECK_MESSAGE(result.passed, result.message);
}

TEST_CASE("M4: an hGRU's C-RBP step takes the same memory at 5, 10 and 20 steps, BPTT more with each step") {
  ParameterStreams streams(1);
  const auto cell = HgruCell<float>::initial(5, 3, streams);
  Random random(1);
  const Tensor<float> drive = uniform<float>(Shape{2, 5, 16, 16}, 0, 1, random);
  const auto peak = [&](int steps, bool through_time) {
    const auto pass = [&] {
      Tape<float> tape;
      const auto leaves = on_tape(cell, tape);
      const Var<float> x = tape.leaf(drive);
      Var<float> objective, h = cell.initial_state(x);
      if (through_time) {
        for (int k = 0; k < steps; ++k) h = leaves(h, x);
        objective = sum(h);
      } else {
        const fp::Options crbp{.stop = fp::Steps{steps}, .adjoint = fp::ReleasedNeumann{}, .penalty = fp::Lcp{}};
        const auto solution = fp::solve(leaves, crbp, h, x);
        objective = sum(solution.z) + solution.penalty;
      }
      (void)grad(objective, parameters<Var<float>>(leaves));
    };
    pass();
    Memory::instance().reset_peak();
    const std::size_t before = Memory::instance().use().current;
    pass();
    return Memory::instance().use().peak - before;
  };
  const std::size_t crbp = peak(5, false);
  CHECK(peak(10, false) == crbp);
  CHECK(peak(20, false) == crbp);
  const std::size_t state = 2 * 5 * 16 * 16 * sizeof(float);
  std::size_t previous = peak(1, true);
  for (int steps = 2; steps <= 8; ++steps) {
    const std::size_t now = peak(steps, true);
    CHECK(now >= previous + 5 * state);
    previous = now;
  }
  CHECK(previous > crbp);
}
