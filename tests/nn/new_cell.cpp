#include <doctest/doctest.h>

#include "settle/settle.hpp"

// The README's example: a cell that the library does not know, trained by C-RBP.
namespace {

using namespace settle;

/// h' = (h + tanh(w * h + x + b)) / 2
struct LeakyCell {
  Var<float> w, b;
  void parameters(auto&& visit) { visit("w", w), visit("b", b); }
  Var<float> initial_state(const Var<float>& x) const { return Tensor<float>(x.shape(), 0.f); }
  Var<float> operator()(const Var<float>& h, const Var<float>& x) const {
    return map([](auto state, auto y, auto drive, auto bias) { return 0.5 * (state + tanh(y + drive + bias)); }, h,
               conv(h, w, ConvOptions::same(w.shape())), x, b);
  }
};

using Net = RecurrentNet<SquaringStem<float>, LeakyCell, BatchNormReadout<float>>;
const Rbp policy{{.stop = fixed_point::Steps{.count = 12}, .penalty = fixed_point::Lcp{.lambda = 0.9}}};

double train_step(Net& net, Adam<float>& adam, const PathfinderBatch& batch) {
  std::vector<Var<float>> gradients;
  double value = 0;
  {
    Tape<float> tape;
    const Net model = on_tape(net, tape);  // the parameters become leaves
    const auto result = run(model, Var(batch.image), policy);
    const Var<float> loss = penalised(focal_loss(result.logits, batch.target), result.penalty);
    gradients = grad(loss, parameters<Var<float>>(model));
    value = static_cast<double>(loss.item());
  }
  adam.step(net, gradients);
  return value;
}

Net initial_net() {
  ParameterStreams streams(1);
  Net net{.stem = SquaringStem<float>::initial(4, streams), .cell = {}, .readout = {}};
  net.cell.w = 0.2 * Var(orthogonal<float>({9, 9, 3, 3}, streams.next()));
  net.cell.b = Tensor<float>(Shape{9, 1, 1}, 0.f);
  net.readout = BatchNormReadout<float>::initial(9, streams);
  return net;
}

}  // namespace

TEST_CASE("a new cell of a few lines is trained by C-RBP without touching the library") {
  Net net = initial_net();
  Adam<float> adam({.rate = 5e-3});
  const Pathfinder images({.size = 24, .window = 72, .contour_length = 4, .distractors = 2});
  const PathfinderBatch batch = images.batch(0, 0, 4);
  const double first = train_step(net, adam, batch);
  double last = first;
  for (int step = 0; step < 60; ++step) last = train_step(net, adam, batch);
  CHECK(last < 0.3 * first);
}

TEST_CASE("the gradient of the new cell through its fixed point is that of the unrolled steps") {
  Net net = initial_net();
  const Pathfinder images({.size = 24, .window = 72, .contour_length = 4, .distractors = 2});
  const PathfinderBatch batch = images.batch(0, 0, 2);
  const auto gradients = [&](const auto& training) {
    Tape<float> tape;
    const Net model = on_tape(net, tape);
    return grad(focal_loss(run(model, Var(batch.image), training).logits, batch.target), parameters<Var<float>>(model));
  };
  const auto unrolled = gradients(Bptt{.steps = 60});
  const auto implicit = gradients(Rbp{
      {.stop = fixed_point::Steps{.count = 60}, .adjoint = fixed_point::Neumann{.max_products = 80, .rtol = 1e-6}}});
  for (std::size_t k = 0; k < unrolled.size(); ++k) {
    const double difference =
        static_cast<double>(sum(map([](auto a, auto b) { return square(a - b); }, unrolled[k], implicit[k])).item());
    const double size = static_cast<double>(sum(map([](auto a) { return square(a); }, unrolled[k])).item());
    CHECK(difference <= 1e-6 * size + 1e-12);  // squared: 1e-3 of the gradient's norm
  }
}
