#include <doctest/doctest.h>

#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/optim/adam.hpp"

using namespace settle;

namespace {

constexpr Index batch = 2, side = 9;

struct Data {
  Var<float> images;
  Tensor<float> target;
};

Data data() {
  Random random(1);
  return {uniform<float>({batch, 1, side, side}, 0, 1, random), Tensor<float>(Shape{batch, side, side}, 1.0f)};
}

/// One step of training, with its tape gone at the end.
template <class Net>
void train_step(Net& net, Adam<float>& adam, const Data& d, const Training& how) {
  Tape<float> tape;
  const Net taped = on_tape(net, tape);
  const auto result = run(taped, d.images, how);
  const auto loss = penalised(focal_loss(result.logits, d.target), result.penalty);
  adam.step(net, grad(loss, parameters<Var<float>>(taped)));
}

/// The most bytes held during a step of training beyond those before it.
template <class Net>
std::size_t peak_bytes(const Net& start, const Training& how) {
  Net net = start;
  Adam<float> adam;
  const Data d = data();
  train_step(net, adam, d, how);
  const std::size_t before = Memory::instance().use().current;
  Memory::instance().reset_peak();
  train_step(net, adam, d, how);
  return Memory::instance().use().peak - before;
}

}  // namespace

TEST_CASE("through the fixed point, training's memory is the same for any number of steps") {
  for (const bool penalty : {false, true}) {
    const fixed_point::Penalty lcp =
        penalty ? fixed_point::Penalty(fixed_point::Lcp{}) : fixed_point::Penalty(fixed_point::NoPenalty{});
    const auto hgru = hgru_net<float>({.kernel = 3, .orientations = 2});
    const std::size_t bytes = peak_bytes(hgru, Rbp::released(6, 15, lcp));
    CHECK(bytes > 0);
    CHECK(peak_bytes(hgru, Rbp::released(20, 15, lcp)) == bytes);
    CHECK(peak_bytes(hgru, Rbp::released(300, 15, lcp)) == bytes);
  }
  const auto lstm = conv_lstm_net<float>({.kernel = 3, .orientations = 2});
  CHECK(peak_bytes(lstm, Rbp::released(6)) == peak_bytes(lstm, Rbp::released(50)));
}

TEST_CASE("through time, training's memory grows by each step's saved tensors") {
  const ModelOptions options{.kernel = 3, .orientations = 2};
  const Index channels = options.channels(), map_size = batch * channels * side * side;

  // hGRU: h', h ⊙ g1, s, the outputs of four convolutions; and for each of two norms, a centre, two sums, the
  // mean's distance from the centre, the mean, the variance, the scale, the shift, and the two numbers 1 / count and epsilon.
  const auto hgru_bytes = static_cast<std::size_t>(7 * map_size + 2 * (8 * channels + 2)) * sizeof(float);
  const auto hgru = hgru_net<float>(options);
  const std::size_t hgru6 = peak_bytes(hgru, Bptt{.steps = 6});
  CHECK(peak_bytes(hgru, Bptt{.steps = 7}) == hgru6 + hgru_bytes);
  CHECK(peak_bytes(hgru, Bptt{.steps = 20}) == hgru6 + 14 * hgru_bytes);

  // convLSTM: h', c' and the outputs of four convolutions; those of the drive are shared by all steps.
  const auto lstm_bytes = static_cast<std::size_t>(6 * map_size) * sizeof(float);
  const auto lstm = conv_lstm_net<float>(options);
  const std::size_t lstm6 = peak_bytes(lstm, Bptt{.steps = 6});
  CHECK(peak_bytes(lstm, Bptt{.steps = 20}) == lstm6 + 14 * lstm_bytes);
}

TEST_CASE("training and prediction ask the system for no memory after a warm-up") {
  const Data d = data();
  const auto allocations = [] { return Memory::instance().use().allocations; };
  for (const Training& how : {Training(Bptt{.steps = 5}), Training(Rbp::released(5, 15, fixed_point::Lcp{}))}) {
    auto net = hgru_net<float>({.kernel = 3, .orientations = 2});
    Adam<float> adam;
    train_step(net, adam, d, how), train_step(net, adam, d, how);
    const std::size_t before = allocations();
    for (int k = 0; k < 5; ++k) train_step(net, adam, d, how);
    CHECK(allocations() == before);
  }
  const auto net = hgru_net<float>({.kernel = 3, .orientations = 2});
  predict(net, d.images, 2);
  const std::size_t before = allocations();
  predict(net, d.images, 50);
  CHECK(allocations() == before);
}

TEST_CASE("prediction's memory is the same for any number of steps") {
  const Data d = data();
  const auto net = hgru_net<float>({.kernel = 3, .orientations = 2});
  const auto peak = [&](int steps) {
    predict(net, d.images, 1);
    const std::size_t before = Memory::instance().use().current;
    Memory::instance().reset_peak();
    predict(net, d.images, steps);
    return Memory::instance().use().peak - before;
  };
  CHECK(peak(3) == peak(40));
}
