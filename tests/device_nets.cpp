// Whole nets on the device against the CPU: training steps through the fixed point and through time, prediction, and
// the same bits twice.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "settle/cuda/cuda.hpp"
#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/optim/adam.hpp"

using namespace settle;

namespace {

constexpr Index batch = 2, side = 9;
const ModelOptions small{.kernel = 5, .orientations = 2, .seed = 3};

template <class T, class D>
struct Data {
  Var<T, D> images;
  Tensor<T, D> target;
};

template <class T, class D>
Data<T, D> data() {
  Random random(1);
  Tensor<T> target(Shape{batch, side, side}, T{0});
  for (Index k = 0; k < target.size(); k += 3) target.mutable_data()[k] = 1;
  return {to<D>(uniform<T>({batch, 1, side, side}, 0, 1, random)), to<D>(target)};
}

/// Appends a tensor's values.
template <class T, class D>
void append(std::vector<double>& out, const Tensor<T, D>& x) {
  const Tensor<T> here = to<Cpu>(x);
  out.insert(out.end(), here.values().begin(), here.values().end());
}

/// One step of training; what it gives: objective, logits, gradients.
template <class T, class D, class Net>
std::vector<double> train_step(Net& net, Adam<T, D>& adam, const Data<T, D>& d, const Training& how) {
  Tape<T, D> tape;
  const Net taped = on_tape(net, tape);
  const auto result = run(taped, d.images, how);
  const auto loss = penalised(focal_loss(result.logits, d.target), result.penalty);
  const auto gradients = grad(loss, parameters<Var<T, D>>(taped));
  adam.step(net, gradients);
  std::vector<double> out{static_cast<double>(loss.item())};
  append(out, result.logits.value());
  for (const auto& g : gradients) append(out, g.value());
  return out;
}

/// Two steps of training, and the parameters after them.
template <class T, class D, class Net>
std::vector<double> trained(Net net, const Training& how) {
  Adam<T, D> adam;
  const auto d = data<T, D>();
  std::vector<double> out = train_step(net, adam, d, how);
  const auto second = train_step(net, adam, d, how);
  out.insert(out.end(), second.begin(), second.end());
  for (const auto& p : parameters<Var<T, D>>(net)) append(out, p.value());
  return out;
}

/// The largest difference relative to the larger of a value and 1e-3 of the largest.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, largest = 0;
  for (const double v : b) largest = std::max(largest, std::abs(v));
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double d = std::abs(a[k] - b[k]) / std::max(std::abs(b[k]), 1e-3 * largest);
    worst = d <= worst ? worst : d;
  }
  return worst;
}

}  // namespace

TEST_CASE("a net trains on the device as on the CPU: C-RBP, C-BPTT, in both precisions") {
  const auto crbp = Rbp::released(4, 3, fixed_point::Lcp{});
  CHECK(difference(trained<double, Cuda>(hgru_net<double, Cuda>(small), crbp),
                   trained<double, Cpu>(hgru_net<double>(small), crbp)) <= 1e-8);
  const Bptt cbptt{.steps = 2, .penalty = fixed_point::Lcp{}};
  CHECK(difference(trained<double, Cuda>(hgru_net<double, Cuda>(small), cbptt),
                   trained<double, Cpu>(hgru_net<double>(small), cbptt)) <= 1e-8);
  const auto rbp = Rbp::released(3, 2);
  CHECK(difference(trained<double, Cuda>(conv_lstm_net<double, Cuda>(small), rbp),
                   trained<double, Cpu>(conv_lstm_net<double>(small), rbp)) <= 1e-8);
  CHECK(difference(trained<float, Cuda>(hgru_net<float, Cuda>(small), rbp),
                   trained<float, Cpu>(hgru_net<float>(small), rbp)) <= 2e-2);
}

TEST_CASE("nets predict on the device as on the CPU") {
  const auto logits = [&]<class D>(D) {
    std::vector<double> out;
    append(out, predict(hgru_net<float, D>(small), data<float, D>().images, 4).value());
    auto control = feed_forward_net<float, D>(small);
    append(out, control.train(data<float, D>().images).value());
    append(out, control(data<float, D>().images).value());
    return out;
  };
  CHECK(difference(logits(Cuda{}), logits(Cpu{})) <= 1e-3);
}

TEST_CASE("training on the device gives the same bits twice, and its memory does not grow with the steps") {
  const auto training = [] {
    return trained<float, Cuda>(hgru_net<float, Cuda>(small), Rbp::released(4, 3, fixed_point::Lcp{}));
  };
  CHECK(training() == training());
  const auto peak = [](int steps) {
    auto net = hgru_net<float, Cuda>(small);
    Adam<float, Cuda> adam;
    const auto d = data<float, Cuda>();
    const Training how = Rbp::released(steps, 3, fixed_point::Lcp{});
    auto& memory = MemoryOf<Cuda>::instance();
    train_step(net, adam, d, how);
    const MemoryUse before = memory.use();
    memory.reset_peak();
    train_step(net, adam, d, how);
    CHECK(memory.use().allocations == before.allocations);
    return memory.use().peak - before.current;
  };
  peak(3);
  const std::size_t six = peak(6);
  CHECK(six > 0);
  CHECK(peak(20) == six);
}
