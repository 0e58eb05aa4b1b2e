// What a group of one rank costs: training steps of an hGRU by C-RBP, in turn with and without one, in one process and
// on the same batch. Prints the median seconds of both, and the median of the pairs' ratios with its quartiles.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "settle/experiments/statistics.hpp"
#include "settle/settle.hpp"

using namespace settle;
using experiments::quantile;

namespace {

using V = Var<float>;

double seconds_of_step(const HgruNet<float>& net, const PathfinderBatch& batch, const distributed::Group* group) {
  const auto start = std::chrono::steady_clock::now();
  const auto step = [&] {
    Tape<float> tape;
    const auto model = on_tape(net, tape);
    const auto result = run(model, V(batch.image), Rbp::released(20, 15, fixed_point::Lcp{}));
    return grad(penalised(focal_loss(result.logits, batch.target), result.penalty), parameters<V>(model));
  };
  if (group) {
    const distributed::Together together(*group);
    distributed::all_reduce(step(), *group);
  } else {
    step();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int count, char** words) {
  const int pairs = count > 1 ? std::atoi(words[1]) : 200;
  const HgruNet<float> net = hgru_net<float>({.kernel = 3, .orientations = 4});
  const Pathfinder images({.size = 32, .window = 112, .contour_length = 3, .distractors = 3});
  const PathfinderBatch batch = images.batch(0, 0, 8);
  const distributed::Group one;
  for (int warm = 0; warm < 5; ++warm) seconds_of_step(net, batch, &one);
  std::vector<double> alone, grouped, ratios;
  for (int pair = 0; pair < pairs; ++pair) {
    const bool group_first = pair % 2 == 1;
    const double first = seconds_of_step(net, batch, group_first ? &one : nullptr);
    const double second = seconds_of_step(net, batch, group_first ? nullptr : &one);
    alone.push_back(group_first ? second : first), grouped.push_back(group_first ? first : second);
    ratios.push_back(grouped.back() / alone.back());
  }
  std::printf("%d pairs: %.3f ms a step alone, %.3f ms in a group of one\n", pairs, 1e3 * quantile(alone, 0.5),
              1e3 * quantile(grouped, 0.5));
  std::printf("ratio %.4f, quartiles %.4f and %.4f\n", quantile(ratios, 0.5), quantile(ratios, 0.25),
              quantile(ratios, 0.75));
}
