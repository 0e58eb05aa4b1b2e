#include <benchmark/benchmark.h>

#include <dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

// oneDNN on the cases of convolution.cpp: names are direction/kernel/channels/size/batch/layout. Reordering to a
// blocked layout is not counted. The number of threads is OpenMP's.

namespace {

using namespace dnnl;
using Tag = memory::format_tag;

struct Case {
  int direction;
  memory::dim kernel, channels, size, batch;
  Tag activations, weights;
};

void run(benchmark::State& state, const Case& c) {
  engine processor(engine::kind::cpu, 0);
  stream order(processor);
  const memory::dims image{c.batch, c.channels, c.size, c.size}, strides{1, 1}, padding{c.kernel / 2, c.kernel / 2};
  const memory::desc x(image, memory::data_type::f32, c.activations), y(image, memory::data_type::f32, c.activations);
  const memory::desc w({c.channels, c.channels, c.kernel, c.kernel}, memory::data_type::f32, c.weights);
  try {
    const convolution_forward::primitive_desc forward(
        convolution_forward::desc(prop_kind::forward_training, algorithm::convolution_direct, x, w, y, strides, padding,
                                  padding),
        processor);
    primitive work;
    std::unordered_map<int, memory> arguments;
    const auto make = [&](const memory::desc& d) {
      memory m(d, processor);
      float* values = static_cast<float*>(m.get_data_handle());
      for (std::size_t i = 0; i < d.get_size() / sizeof(float); ++i)
        values[i] = static_cast<float>((i * 2654435761u >> 16) & 1023) / 1024.0f - 0.5f;
      return m;
    };
    std::string implementation;
    if (c.direction == 0) {
      work = convolution_forward(forward);
      implementation = forward.impl_info_str();
      arguments = {{DNNL_ARG_SRC, make(forward.src_desc())},
                   {DNNL_ARG_WEIGHTS, make(forward.weights_desc())},
                   {DNNL_ARG_DST, make(forward.dst_desc())}};
    } else if (c.direction == 1) {
      const convolution_backward_data::primitive_desc d(
          convolution_backward_data::desc(algorithm::convolution_direct, x, w, y, strides, padding, padding), processor,
          forward);
      work = convolution_backward_data(d);
      implementation = d.impl_info_str();
      arguments = {{DNNL_ARG_DIFF_SRC, make(d.diff_src_desc())},
                   {DNNL_ARG_WEIGHTS, make(d.weights_desc())},
                   {DNNL_ARG_DIFF_DST, make(d.diff_dst_desc())}};
    } else {
      const convolution_backward_weights::primitive_desc d(
          convolution_backward_weights::desc(algorithm::convolution_direct, x, w, y, strides, padding, padding),
          processor, forward);
      work = convolution_backward_weights(d);
      implementation = d.impl_info_str();
      arguments = {{DNNL_ARG_SRC, make(d.src_desc())},
                   {DNNL_ARG_DIFF_WEIGHTS, make(d.diff_weights_desc())},
                   {DNNL_ARG_DIFF_DST, make(d.diff_dst_desc())}};
    }
    state.SetLabel(implementation);
    if (implementation.find("ref") != std::string::npos) return state.SkipWithError("only the reference code");
    const auto convolve = [&] {
      work.execute(order, arguments);
      order.wait();
    };
    convolve();
    for (auto _ : state) convolve();
    state.counters["FLOP/s"] = benchmark::Counter(
        2.0 * static_cast<double>(c.batch * c.channels * c.channels * c.kernel * c.kernel * c.size * c.size),
        benchmark::Counter::kIsIterationInvariantRate);
  } catch (const error& e) {
    state.SkipWithError(e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* const directions[] = {"forward", "input_grad", "weight_grad"};
  struct Layout {
    const char* name;
    Tag activations, weights;
  };
  const Layout layouts[] = {{"any", Tag::any, Tag::any}, {"nchw", Tag::nchw, Tag::any}, {"nhwc", Tag::nhwc, Tag::any}};
  for (int direction = 0; direction < 3; ++direction)
    for (const int kernel : {1, 3, 5, 7, 9, 15, 31})
      for (const int channels : {8, 16, 25, 32, 64})
        for (const int size : {32, 64, 150})
          for (const int batch : {1, 4})
            for (const auto& layout : layouts) {
              const Case c{direction, kernel, channels, size, batch, layout.activations, layout.weights};
              const std::string name = std::string(directions[direction]) + "/k" + std::to_string(kernel) + "/c" +
                                       std::to_string(channels) + "/s" + std::to_string(size) + "/n" +
                                       std::to_string(batch) + '/' + layout.name;
              benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& state) { run(state, c); })
                  ->Unit(benchmark::kMillisecond)
                  ->UseRealTime();
            }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
