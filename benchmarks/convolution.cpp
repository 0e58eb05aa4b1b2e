#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "settle/cpu/convolution.hpp"

// One convolution alone, all three directions, by each algorithm. Names are
// direction/kernel/channels/size/batch/algorithm; the number of threads is the environment's SETTLE_THREADS, or all.
// FLOP/s count every tap, whatever the algorithm does.

namespace {

using namespace settle;

struct Case {
  cpu::ConvDirection direction;
  cpu::ConvGeometry geometry;
  ConvAlgorithm algorithm;
};

void run(benchmark::State& state, const Case& c) {
  const auto& g = c.geometry;
  Random random(1);
  const auto x = uniform<float>(Shape{g.in_size()}, -1, 1, random);
  const auto gy = uniform<float>(Shape{g.out_size()}, -1, 1, random);
  const auto w = uniform<float>(Shape{g.weight_size()}, -1, 1, random);
  Tensor<float> y(Shape{g.out_size()}), gx(Shape{g.in_size()}), gw(Shape{g.weight_size()});
  const auto convolve = [&] {
    switch (c.direction) {
      case cpu::ConvDirection::forward:
        cpu::conv_forward(g, x.data(), w.data(), y.mutable_data(), c.algorithm, w.derived());
        break;
      case cpu::ConvDirection::input_grad:
        cpu::conv_input_grad(g, gy.data(), w.data(), gx.mutable_data(), c.algorithm, w.derived());
        break;
      case cpu::ConvDirection::weight_grad:
        cpu::conv_weight_grad(g, x.data(), gy.data(), gw.mutable_data(), c.algorithm);
        break;
    }
    benchmark::ClobberMemory();
  };
  convolve();  // the first call makes workspaces and what is derived from the weights
  for (auto _ : state) convolve();
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * static_cast<double>(g.multiply_adds()), benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main(int argc, char** argv) {
  using Direction = cpu::ConvDirection;
  const std::pair<const char*, Direction> directions[] = {
      {"forward", Direction::forward}, {"input_grad", Direction::input_grad}, {"weight_grad", Direction::weight_grad}};
  const std::pair<const char*, ConvAlgorithm> algorithms[] = {{"automatic", ConvAlgorithm::automatic},
                                                              {"direct", ConvAlgorithm::direct},
                                                              {"gemm", ConvAlgorithm::gemm},
                                                              {"fft", ConvAlgorithm::fft}};
  for (const auto& [direction_name, direction] : directions)
    for (const Index kernel : {1, 3, 5, 7, 9, 15, 31})
      for (const Index channels : {8, 16, 25, 32, 64})
        for (const Index size : {32, 64, 150})
          for (const Index batch : {1, 4})
            for (const auto& [algorithm_name, algorithm] : algorithms) {
              const Case c{direction, cpu::ConvGeometry::same(batch, channels, size, size, channels, kernel),
                           algorithm};
              const std::string name = std::string(direction_name) + "/k" + std::to_string(kernel) + "/c" +
                                       std::to_string(channels) + "/s" + std::to_string(size) + "/n" +
                                       std::to_string(batch) + '/' + algorithm_name;
              benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& state) { run(state, c); })
                  ->Unit(benchmark::kMillisecond)
                  ->UseRealTime();
            }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
