#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#ifdef SETTLE_BENCHMARK_CUDA
#include "settle/cuda/cuda.hpp"
#endif
#include "settle/nn/losses.hpp"
#include "settle/nn/released_models.hpp"
#include "settle/optim/adam.hpp"

// A whole training step of the released hGRU or convLSTM: forward, backward, Adam. It prints the median of the whole
// step, the seconds of its phases, its arithmetic and memory traffic, and the peak of its memory by tag.
//
// Phases that a step does not run one after the other are measured by leaving them out: the adjoint is the gradient for
// the stem's bias alone, the weight gradients are what the gradient for all parameters takes beyond that, and the
// penalty is what the step takes beyond the same step without one.

namespace {

using namespace settle;

struct Settings {
  Index kernel = 15, size = 150, batch = 1, channels = 25;
  std::string algorithm = "crbp", model = "hgru", conv_algorithm = "automatic";
  int steps = 20, neumann = 15, threads = ThreadPool::default_threads(), repeat = 5;
  bool float64 = false, json = false;
  bool whole = false;  ///< leave out the phases
  bool cell = false;   ///< measure one step of the hGRU's cell too, and its convolutions alone
  std::string device = "cpu";
  bool tf32 = false;          ///< on a CUDA device: products and convolutions may round their inputs to TF32
  bool bf16_spectra = false;  ///< on a CUDA device: the tiles of convolutions keep their spectra as bfloat16

  bool unrolled() const { return algorithm == "bptt" || algorithm == "cbptt"; }
  bool penalised() const { return algorithm[0] == 'c'; }
};

constexpr const char* usage =
    "usage: hgru_step [--model hgru|clstm] [--kernel K] [--size S] [--batch N] [--channels C]\n"
    "                 [--algorithm bptt|cbptt|rbp|crbp] [--steps T] [--neumann M] [--threads P] [--repeat R]\n"
    "                 [--conv-algorithm automatic|direct|gemm|fft] [--float64] [--json] [--whole] [--cell]\n"
    "                 [--device cpu|cuda] [--tf32] [--bf16-spectra]\n";

Settings parse(int argc, char** argv) {
  Settings s;
  const auto check = [](bool good, const std::string& what) {
    if (!good) throw std::invalid_argument(what);
  };
  const std::map<std::string_view, bool*> flags{{"--float64", &s.float64}, {"--json", &s.json},
                                                {"--whole", &s.whole},     {"--cell", &s.cell},
                                                {"--tf32", &s.tf32},       {"--bf16-spectra", &s.bf16_spectra}};
  for (int k = 1; k < argc; ++k) {
    const std::string_view name = argv[k];
    if (const auto flag = flags.find(name); flag != flags.end()) {
      *flag->second = true;
      continue;
    }
    check(k + 1 < argc, "unknown option, or one without its value: " + std::string(name));
    const std::string value = argv[++k];
    const auto number = [&] {
      char* end = nullptr;
      const long n = std::strtol(value.c_str(), &end, 10);
      check(!value.empty() && *end == 0 && n >= (name == "--neumann" ? 0 : 1),
            "expected a positive number for " + std::string(name) + ", got '" + value + "'");
      return n;
    };
    const auto choice = [&](std::initializer_list<const char*> choices) {
      check(std::find(choices.begin(), choices.end(), value) != choices.end(),
            "unknown value '" + value + "' for " + std::string(name));
      return value;
    };
    if (name == "--kernel")
      s.kernel = number();
    else if (name == "--size")
      s.size = number();
    else if (name == "--batch")
      s.batch = number();
    else if (name == "--channels")
      s.channels = number();
    else if (name == "--steps")
      s.steps = static_cast<int>(number());
    else if (name == "--neumann")
      s.neumann = static_cast<int>(number());
    else if (name == "--threads")
      s.threads = static_cast<int>(number());
    else if (name == "--repeat")
      s.repeat = static_cast<int>(number());
    else if (name == "--algorithm")
      s.algorithm = choice({"bptt", "cbptt", "rbp", "crbp"});
    else if (name == "--model")
      s.model = choice({"hgru", "clstm"});
    else if (name == "--conv-algorithm")
      s.conv_algorithm = choice({"automatic", "direct", "gemm", "fft"});
    else if (name == "--device")
      s.device = choice({"cpu", "cuda"});
    else
      check(false, "unknown option " + std::string(name));
  }
  check(s.kernel % 2 == 1, "the kernel must be odd");
  check(!s.cell || s.model == "hgru", "--cell is for the hGRU");
  check(s.channels % 2 == 1, "the Gabor stem has an odd number of channels: two for each orientation and one");
  return s;
}

ConvAlgorithm conv_algorithm(const std::string& name) {
  using enum ConvAlgorithm;
  return name == "direct" ? direct : name == "gemm" ? gemm : name == "fft" ? fft : automatic;
}

double median_seconds(int repeat, const std::function<void()>& f) {
  std::vector<double> seconds;
  for (int k = 0; k < repeat; ++k) {
    const auto start = std::chrono::steady_clock::now();
    f();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return (seconds[(seconds.size() - 1) / 2] + seconds[seconds.size() / 2]) / 2;
}

/// The largest rate at which this machine's threads multiply and add packets that stay in registers.
template <class T>
double peak_flops(int threads) {
  constexpr int chains = 16, rounds = 1 << 20;
  std::vector<T> sink(static_cast<std::size_t>(threads));
  const double seconds = median_seconds(5, [&] {
    ThreadPool::instance().run(threads, [&](int part) {
      cpu::Packet<T> sums[chains];
      for (auto& s : sums) s = cpu::splat(T(part));
      const auto factor = cpu::splat(T(0.999)), term = cpu::splat(T(1e-7));
      for (int r = 0; r < rounds; ++r)
        SETTLE_UNROLL for (int c = 0; c < chains; ++c) sums[c] = cpu::held(cpu::fma(sums[c], factor, term));
      auto total = sums[0];
      for (int c = 1; c < chains; ++c) total += sums[c];
      sink[static_cast<std::size_t>(part)] = cpu::sum(total);
    });
  });
  return 2.0 * chains * rounds * cpu::packet_size<T> * threads / seconds;
}

/// The time after which one thread sees what another has written: half of a round trip. It tells whether the two share
/// a cache, which a virtual machine's host may change at any time. 0 with one thread or one processor.
double handover_seconds(int threads) {
  if (std::min(threads, ThreadPool::default_threads()) < 2) return 0;
  constexpr int trips = 2000;
  const double seconds = median_seconds(9, [] {
    std::atomic<int> word{0};
    ThreadPool::instance().run(2, [&](int part) {
      for (int k = part; k < 2 * trips; k += 2) {
        while (word.load(std::memory_order_acquire) != k) {}
        word.store(k + 1, std::memory_order_release);
      }
    });
  });
  return seconds / (2 * trips);
}

/// What a step must do: the arithmetic of its convolutions by their definition, and the state-sized reads and writes of
/// its passes over memory.
struct Work {
  double flops = 0, state_passes = 0;
};

/// `steps` applications of the cell, of which `taped` are recorded and differentiated once for the weights, and
/// `products` times for the state.
Work work(const Settings& s, int steps, int taped, int products) {
  const double pixels = static_cast<double>(s.batch * s.size * s.size), channels = static_cast<double>(s.channels);
  const double area = static_cast<double>(s.kernel * s.kernel);
  const bool hgru = s.model == "hgru";
  const double cell = 2 * pixels * channels * channels * (hgru ? 2 * area + 2 : 4 * area);
  // Reads and writes: hGRU forward 3 (gated) + 4 convolutions of 2 + 2 (sums of batch norm) + 4 (s) + 5 (next state) +
  // 2 (residual and norm).
  const double forward_passes = hgru ? 24 : 18, product_passes = hgru ? 43 : 28, weight_passes = 8;
  return {cell * (steps + products + taped),
          forward_passes * steps + product_passes * (products + taped) + weight_passes * taped};
}

/// Seconds of one step of the hGRU's cell with nothing recorded, and of its two kinds of convolution alone.
struct CellSeconds {
  double cell = 0, convolution = 0, gate = 0;
};

template <class T, class D>
CellSeconds cell_seconds(const Settings& s, const HgruNet<T, D>& net, const Tensor<T, D>& images) {
  constexpr int calls = 10;  // between two looks at the clock
  Random random(2);
  const Var<T, D> x = net.stem(Var<T, D>(images)), h = uniform<T, D>(x.shape(), 0, 1, random);
  const auto seconds = [&](const auto& call) {
    const auto several = [&] {
      for (int k = 0; k < calls; ++k) call();
      D::synchronise();
    };
    several();
    several();
    return median_seconds(s.repeat, several) / calls;
  };
  return {seconds([&] { net.cell(h, x); }), seconds([&] { conv_same(h, net.cell.w_gate_inh); }),
          seconds([&] { net.cell.u1_gate.linear(h); })};
}

template <class T, class D, class Net>
struct Step {
  const Settings& settings;
  Net net;
  Adam<T, D> adam;
  Tensor<T, D> images, target;
  int products = 0;  ///< of the last step's Neumann series

  Training training(bool with_penalty) const {
    fixed_point::Penalty penalty = fixed_point::NoPenalty{};
    // The released convLSTM takes each part of the state against itself.
    if (with_penalty)
      penalty = fixed_point::Lcp{.blocks = settings.model == "hgru" ? fixed_point::Blocks::full
                                                                    : fixed_point::Blocks::diagonal};
    if (settings.unrolled()) return Bptt{.steps = settings.steps, .penalty = penalty};
    return Rbp{{.stop = fixed_point::Steps{.count = settings.steps},
                .adjoint = fixed_point::Neumann{.max_products = std::max(1, settings.neumann), .rtol = 0},
                .adjoint_state = fixed_point::AdjointState::first_part,
                .penalty = penalty,
                .on_fail = fixed_point::OnFail::report}};
  }

  enum class Until { forward, adjoint, gradient, update };

  void operator()(bool with_penalty, Until until) {
    take(with_penalty, until);
    D::synchronise();
  }

 private:
  void take(bool with_penalty, Until until) {
    Tape<T, D> tape;
    const Net taped = on_tape(net, tape);
    const auto result = run(taped, Var<T, D>(images), training(with_penalty));
    auto loss = focal_loss(result.logits, target);
    if (with_penalty) loss = penalised(loss, result.penalty);
    if (until == Until::forward) return;
    std::vector<Var<T, D>> wanted = parameters<Var<T, D>>(taped);
    if (until == Until::adjoint) wanted = {taped.stem.conv0.bias};
    const auto gradients = grad(loss, wanted);
    if (result.report) products = result.report->adjoint.products;
    if (until == Until::update) adam.step(net, gradients);
  }
};

template <class T, class D, class Net>
void measure(const Settings& s, Net net) {
  Random random(1);
  const auto images = uniform<T>(Shape{s.batch, 1, s.size, s.size}, 0, 1, random);
  Tensor<T> target(Shape{s.batch, s.size, s.size}, T{0});
  for (Index k = 0; k < target.size(); ++k) target.mutable_data()[k] = random.uniform() < 0.01 ? T{1} : T{0};
  Step<T, D, Net> step{s, std::move(net), {}, to<D>(images), to<D>(target)};
  // A step at rate 0 takes the time of any other, and leaves the net where it is.
  step.adam.options.rate = 0;

  using Until = typename Step<T, D, Net>::Until;
  const bool penalised = s.penalised();
  const auto whole = [&] { step(penalised, Until::update); };
  whole();
  whole();
  auto& device_memory = MemoryOf<D>::instance();
  device_memory.reset_peak();
  const auto allocations = device_memory.use().allocations;
  const std::clock_t processor = std::clock();
  const double seconds = median_seconds(s.repeat, whole);
  const double processor_seconds = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC / s.repeat;
  const auto memory = device_memory.use();
  const auto by_tag = device_memory.use_by_tag();
  if (!s.unrolled() && step.products != std::max(1, s.neumann))
    throw std::runtime_error("only " + std::to_string(step.products) + " Neumann products were done");

  const auto time = [&](bool with_penalty, Until until) {
    return s.whole ? 0.0 : median_seconds(s.repeat, [&] { step(with_penalty, until); });
  };
  const double forward = time(false, Until::forward);
  const double adjoint = time(false, Until::adjoint) - forward;
  const double weights = time(false, Until::gradient) - forward - adjoint;
  const double gradient = penalised ? time(true, Until::gradient) : forward + adjoint + weights;
  const double penalty = gradient - forward - adjoint - weights;
  const double optimiser = std::max(0.0, time(penalised, Until::update) - gradient);

  CellSeconds cell;
  if constexpr (std::is_same_v<Net, HgruNet<T, D>>)
    if (s.cell) cell = cell_seconds<T, D>(s, step.net, step.images);

  const int products = s.unrolled() ? s.steps : s.neumann + 1;
  Work done = work(s, s.steps, s.unrolled() ? s.steps : 1, products - (s.unrolled() ? s.steps : 0));
  if (penalised) {  // the product with a vector of ones, and its gradient
    const Work extra = work(s, 1, 1, 2);
    done.flops += extra.flops, done.state_passes += extra.state_passes;
  }
  const double bytes =
      done.state_passes * static_cast<double>(s.batch * s.channels * s.size * s.size) * static_cast<double>(sizeof(T));
  const double peak = s.device == "cpu" ? peak_flops<T>(s.threads) : 0;
  const double handover = s.device == "cpu" ? handover_seconds(s.threads) : 0;

  if (s.json) {
    std::printf(
        "{\"device\": \"%s\", \"model\": \"%s\", \"algorithm\": \"%s\", \"kernel\": %ld, \"size\": %ld, \"batch\": "
        "%ld, \"channels\": %ld, "
        "\"steps\": %d, \"neumann\": %d, \"threads\": %d, \"type\": \"%s\", \"conv_algorithm\": \"%s\", "
        "\"seconds\": %.6g, \"processor_seconds\": %.6g, \"forward\": %.6g, \"adjoint\": %.6g, \"weight_gradients\": "
        "%.6g, \"penalty\": %.6g, "
        "\"optimiser\": %.6g, \"cell\": %.6g, \"convolution\": %.6g, \"gate\": %.6g, \"flops\": %.6g, \"bytes\": %.6g, "
        "\"peak_flops\": %.6g, \"fraction_of_peak\": %.4g, \"handover\": %.3g, "
        "\"peak_bytes\": %zu, \"allocations\": %zu, \"peak_bytes_by_tag\": {",
        s.device.c_str(), s.model.c_str(), s.algorithm.c_str(), s.kernel, s.size, s.batch, s.channels, s.steps,
        s.neumann, s.threads, scalar_name<T>(), s.conv_algorithm.c_str(), seconds, processor_seconds, forward, adjoint,
        weights, penalty, optimiser, cell.cell, cell.convolution, cell.gate, done.flops, bytes, peak,
        peak > 0 ? done.flops / seconds / peak : 0, handover, memory.peak, memory.allocations - allocations);
    const char* separator = "";
    for (const auto& [tag, use] : by_tag) {
      std::printf("%s\"%s\": %zu", separator, tag.c_str(), use.peak);
      separator = ", ";
    }
    std::printf("}}\n");
    return;
  }
  std::printf("%s %s on %s, %ldx%ld kernel, %ld x %ld x %ldx%ld, %d steps, %d products, %s, %d threads\n",
              s.model.c_str(), s.algorithm.c_str(), s.device.c_str(), s.kernel, s.kernel, s.batch, s.channels, s.size,
              s.size, s.steps, s.unrolled() ? 0 : s.neumann, scalar_name<T>(), s.threads);
  std::printf("  %-22s %10.2f ms\n", "whole step", 1e3 * seconds);
  if (!s.whole)
    for (const auto& [name, value] : {std::pair{"forward", forward},
                                      {"adjoint", adjoint},
                                      {"weight gradients", weights},
                                      {"penalty", penalty},
                                      {"optimiser", optimiser}})
      std::printf("    %-20s %10.2f ms\n", name, 1e3 * value);
  if (s.cell)
    std::printf("  %-22s %10.2f ms, of its convolutions one k x k %.2f ms, one 1 x 1 %.2f ms\n", "one step of the cell",
                1e3 * cell.cell, 1e3 * cell.convolution, 1e3 * cell.gate);
  std::printf("  %-22s %10.2f GFLOP by the definition, %.0f GFLOP/s", "arithmetic", 1e-9 * done.flops,
              1e-9 * done.flops / seconds);
  if (peak > 0) std::printf(", %.2f of the peak of %.0f", done.flops / seconds / peak, 1e-9 * peak);
  std::printf("\n");
  std::printf("  %-22s %10.2f MB in %.0f passes over a state, %.1f GB/s\n", "traffic", 1e-6 * bytes, done.state_passes,
              1e-9 * bytes / seconds);
  if (handover > 0) std::printf("  %-22s %10.0f ns\n", "from thread to thread", 1e9 * handover);
  std::printf("  %-22s %10.2f MB, %zu blocks asked of the system in %d steps\n", "peak of memory",
              1e-6 * static_cast<double>(memory.peak), memory.allocations - allocations, s.repeat);
  for (const auto& [tag, use] : by_tag)
    std::printf("    %-20s %10.2f MB\n", tag.c_str(), 1e-6 * static_cast<double>(use.peak));
}

template <class T, class D>
void measure(const Settings& s) {
  const ModelOptions options{.kernel = s.kernel, .orientations = (s.channels - 1) / 2};
  if (s.model == "hgru")
    measure<T, D>(s, hgru_net<T, D>(options));
  else
    measure<T, D>(s, conv_lstm_net<T, D>(options));
}

template <class D>
void measure_on(const Settings& s) {
  if (s.float64)
    measure<double, D>(s);
  else
    measure<float, D>(s);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = parse(argc, argv);
    ThreadPool::instance().resize(settings.threads);
    const PreferredConvAlgorithm preferred(conv_algorithm(settings.conv_algorithm));
    if (settings.device == "cpu") {
      measure_on<Cpu>(settings);
    } else {
#ifdef SETTLE_BENCHMARK_CUDA
      std::optional<cuda::AllowTf32> allow;
      if (settings.tf32) allow.emplace();
      std::optional<cuda::AllowBf16Spectra> allow_spectra;
      if (settings.bf16_spectra) allow_spectra.emplace();
      measure_on<Cuda>(settings);
#else
      throw std::invalid_argument("this program was built without the CUDA toolkit's headers");
#endif
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hgru_step: %s\n%s", e.what(), usage);
    return 1;
  }
}
