// The smallest trainer of an hGRU: what compile_time.sh compiles.
#include "settle/settle.hpp"

#include <cstdio>

int main() {
  using namespace settle;
  HgruNet<float> net = hgru_net<float>({.kernel = 5});
  const Rbp policy = Rbp::released(20, 15, fixed_point::Lcp{});
  Adam<float> adam;
  const Pathfinder images({.size = 64});
  for (Index step = 0; step < 10; ++step) {
    const PathfinderBatch batch = images.batch(0, static_cast<std::uint64_t>(step * 8), 8);
    std::vector<Var<float>> gradients;
    {
      Tape<float> tape;
      const auto model = on_tape(net, tape);
      const auto result = run(model, Var(batch.image), policy);
      const auto loss = penalised(focal_loss(result.logits, batch.target), result.penalty);
      gradients = grad(loss, parameters<Var<float>>(model));
      std::printf("step %lld  objective %.5f\n", static_cast<long long>(step), static_cast<double>(loss.item()));
    }
    adam.step(net, gradients);
  }
}
