// The same source on both devices: random numbers, solvers, optimisers; the CPU's numbers are what is expected.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "settle/cuda/cuda.hpp"
#include "settle/settle.hpp"

using namespace settle;

namespace {

template <class T, class D>
std::vector<double> numbers(const Var<T, D>& x) {
  const Tensor<T> here = to<Cpu>(x.value());
  return {here.values().begin(), here.values().end()};
}

template <class T, class D>
void append(std::vector<double>& out, const Var<T, D>& x) {
  const auto more = numbers(x);
  out.insert(out.end(), more.begin(), more.end());
}

/// The largest difference, relative to the largest value.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, scale = 1e-300;
  for (std::size_t k = 0; k < a.size(); ++k) {
    const double d = std::abs(a[k] - b[k]);
    worst = d <= worst ? worst : d;
    scale = std::max(scale, std::abs(b[k]));
  }
  return worst / scale;
}

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

/// z -> tanh(w z + mean(v z) + x): the mean is over each sample.
struct Step {
  template <class V>
  V operator()(const V& z, const V& w, const V& v, const V& x) const {
    const V coupled = mean(v * z, {1});
    return map([](auto state, auto weight, auto shared, auto drive) { return tanh(weight * state + shared + drive); },
               z, w, coupled, x);
  }
};

/// z -> z² + 0.3 x: some samples run away.
struct Square {
  template <class V>
  V operator()(const V& z, const V&, const V&, const V& x) const {
    return map([](auto state, auto drive) { return square(state) + 0.3 * drive; }, z, x);
  }
};

void append(std::vector<double>& out, const fixed_point::Report& report) {
  const auto& [forward, adjoint] = std::tie(report.forward, report.adjoint);
  for (const auto& list : {forward.residuals, forward.relative, adjoint.trace, adjoint.residuals,
                           adjoint.spectral_radius, adjoint.error_estimates}) {
    out.push_back(static_cast<double>(list.size()));
    out.insert(out.end(), list.begin(), list.end());
  }
  for (const auto& verdicts : {forward.samples, adjoint.samples})
    for (const auto verdict : verdicts) out.push_back(static_cast<double>(verdict));
  for (const int number : {forward.steps, adjoint.products, adjoint.terms, static_cast<int>(adjoint.end)})
    out.push_back(number);
  out.push_back(static_cast<double>(forward.sample_steps));
}

/// A solution, the gradients of <c, z>, and, if asked for, the report.
template <class D, class F = Step>
std::vector<double> solution(const fixed_point::Options& options, const F& step = {}, bool with_report = false) {
  Random random(11);
  const auto there = [&](const Shape& shape, double low, double high) {
    return to<D>(uniform<double>(shape, low, high, random));
  };
  Tape<double, D> tape;
  const Var<double, D> w = tape.leaf(there({6}, -0.6, 0.6)), v = tape.leaf(there({6}, -0.5, 0.5)),
                       x = tape.leaf(there({3, 6}, -1, 1)), c = there({3, 6}, -1, 1);
  const Var<double, D> start = Tensor<double, D>(Shape{3, 6}, 0.0);
  const auto solved = fixed_point::solve(step, options, start, w, v, x);
  std::vector<double> out = numbers(solved.z);
  append(out, solved.penalty);
  for (const auto& g : grad(sum(solved.z * c) + solved.penalty, {w, v, x})) append(out, g);
  out.push_back(static_cast<double>(solved.report->forward.steps));
  if (with_report) append(out, *solved.report);
  return out;
}

void check_solver(const std::string& name, const fixed_point::Options& options) {
  CAPTURE(name);
  CHECK(difference(solution<Cuda>(options), solution<Cpu>(options)) <= 1e-9);
}

/// Batch norm after a convolution.
template <class T, class D>
Var<T, D> normalised(const Var<T, D>& x, const Var<T, D>& w, ConvAlgorithm algorithm) {
  const auto norm = BatchNorm<T, D>::initial(w.shape(0), 0.5, 0.1, 1e-3);
  return norm(conv(x, w, {.padding = {1, 1}, .algorithm = algorithm}));
}

/// Its values, the gradients of a function of them, and the second derivatives.
template <class T, class D>
std::vector<double> normalised_twice(ConvAlgorithm algorithm) {
  Random random(4);
  const auto there = [&](const Shape& shape, double low, double high) {
    return to<D>(cast<T>(uniform<float>(shape, low, high, random)));
  };
  Tape<T, D> tape;
  const Var<T, D> x = tape.leaf(there({3, 2, 9, 8}, 1, 2)), w = tape.leaf(there({3, 2, 3, 3}, -1, 1)),
                  c = there({3, 3, 9, 8}, -1, 1);
  const Var<T, D> y = normalised(x, w, algorithm);
  std::vector<double> out = numbers(y);
  const auto first =
      grad(sum(map([](auto v, auto weight) { return weight * sin(v); }, y, c)), {x, w}, {.create_graph = true});
  for (const auto& g : first) append(out, g);
  for (const auto& g : grad(sum(first[0] * first[0]) + sum(first[1] * first[1]), {x, w})) append(out, g);
  return out;
}

/// z -> tanh(BN(w * z) + x): a convolution by tiles, and batch norm.
struct NormalisedStep {
  template <class V>
  V operator()(const V& z, const V& w, const V& x) const {
    return map([](auto state, auto drive) { return tanh(state + drive); }, normalised(z, w, ConvAlgorithm::fft), x);
  }
};

/// Two parameters.
template <class D>
struct Pair {
  Var<double, D> a, b;
  void parameters(auto&& visit) { visit("a", a), visit("b", b); }
};

template <class D, class Optimiser>
std::vector<double> optimised(Optimiser optimiser) {
  Pair<D> module{to<D>(Tensor<double>({3}, {1, -2, 0.5})), to<D>(Tensor<double>({2, 2}, {0.1, 0.2, 0.3, 0.4}))};
  for (int k = 0; k < 4; ++k) {
    Tape<double, D> tape;
    const Pair<D> taped = on_tape(module, tape);
    const auto loss =
        sum(map([](auto u) { return square(u - 3.); }, taped.a)) + sum(map([](auto u) { return exp(u); }, taped.b));
    auto gradients = grad(loss, {taped.a, taped.b});
    clip_global_norm(gradients, 2.0);
    optimiser.step(module, gradients);
  }
  std::vector<double> out = numbers(module.a);
  append(out, module.b);
  return out;
}

/// The graphs launched so far on the emulated device; nothing on a real one.
std::optional<int> graph_launches() {
  static const int* const count = cuda::Runtime(cuda::libraries_folder()).library.find<int>("fake_graph_launches");
  return count ? std::optional(*count) : std::nullopt;
}

/// What a function returns, to the last bit (of what is not a number, too) the same with graphs as without; on the
/// emulated device, whether it launches any.
template <class F>
void check_graphs(const std::string& name, bool launches, const F& f) {
  CAPTURE(name);
  const auto before = graph_launches();
  const std::vector<double> with_graphs = f();
  const auto after = graph_launches();
  if (after) CHECK((*after > *before) == launches);
  const cuda::NoGraphs eager;
  const std::vector<double> without = f();
  CHECK(graph_launches() == after);
  REQUIRE(with_graphs.size() == without.size());
  CHECK(std::memcmp(with_graphs.data(), without.data(), without.size() * sizeof(double)) == 0);
}

/// One step of training of a net; what it gives: objective, logits, gradients.
template <class T, class D, class Net>
std::vector<double> train_step(Net& net, Adam<T, D>& adam, const Data<T, D>& d, const Training& how) {
  Tape<T, D> tape;
  const Net taped = on_tape(net, tape);
  const auto result = run(taped, d.images, how);
  const auto loss = penalised(focal_loss(result.logits, d.target), result.penalty);
  const auto gradients = grad(loss, parameters<Var<T, D>>(taped));
  adam.step(net, gradients);
  std::vector<double> out{static_cast<double>(loss.item())};
  append(out, result.logits);
  for (const auto& g : gradients) append(out, g);
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
  for (const auto& p : parameters<Var<T, D>>(net)) append(out, p);
  return out;
}

}  // namespace

TEST_CASE("random numbers on the device are the CPU's, wherever the stream stands") {
  for (const int used : {0, 1, 6}) {
    Random here(5, 9), there(5, 9);
    for (int k = 0; k < used; ++k) here.bits(), there.bits();
    for (int round = 0; round < 2; ++round) {
      CHECK(difference(numbers(Var(uniform<double, Cuda>({37}, -2, 3, there))),
                       numbers(Var(uniform<double>({37}, -2, 3, here)))) <= 1e-15);
      CHECK(difference(numbers(Var(normal<float, Cuda>({5, 3}, 1, 2, there))),
                       numbers(Var(normal<float>({5, 3}, 1, 2, here)))) <= 1e-6);
    }
    CHECK(here.words() == there.words());
    CHECK(here.bits() == there.bits());
  }
}

TEST_CASE("every solver finds on the device what it finds on the CPU") {
  using namespace fixed_point;
  const Residual tight{.rtol = 1e-12, .max_steps = 300};
  check_solver("plain, series", {.stop = tight, .adjoint = Neumann{.max_products = 200, .rtol = 1e-12}});
  check_solver("fixed steps, terms", {.stop = Steps{30}, .adjoint = Terms{12}});
  check_solver("damped, released series",
               {.forward = Plain{.damping = 0.3}, .stop = tight, .adjoint = ReleasedNeumann{}});
  check_solver("Anderson both ways", {.forward = Anderson{},
                                      .stop = tight,
                                      .adjoint = AdjointAnderson{.solver = {}, .max_products = 100, .rtol = 1e-12}});
  check_solver("Broyden, GMRES", {.forward = Broyden{}, .stop = tight, .adjoint = Gmres{.rtol = 1e-12}});
  check_solver("BiCGSTAB", {.stop = tight, .adjoint = BiCgStab{.rtol = 1e-12}});
  check_solver("normal equations", {.stop = tight, .adjoint = NormalCg{.rtol = 1e-12}});
  check_solver("elimination", {.stop = tight, .adjoint = Dense{}});
  check_solver("automatic", {.stop = tight, .adjoint = Auto{}});
  check_solver("with a penalty", {.stop = tight, .adjoint = Gmres{.rtol = 1e-12}, .penalty = Lcp{}});
  check_solver("with a hinge", {.stop = tight, .adjoint = Gmres{.rtol = 1e-12}, .penalty = SpectralHinge{}});
  check_solver("with probes", {.stop = tight, .adjoint = Gmres{.rtol = 1e-12}, .penalty = Hutchinson{}});
}

TEST_CASE("chunks that are repeated as graphs give the bits and the reports of single launches") {
  using namespace fixed_point;
  const auto same = [](const std::string& name, const auto& step, const Options& options, bool launches = true) {
    check_graphs(name, launches, [&] { return solution<Cuda>(options, step, true); });
  };
  for (const int count : {1, 5, 6, 7, 30})
    same("fixed steps, terms " + std::to_string(count), ::Step{}, {.stop = Steps{count}, .adjoint = Terms{count}},
         count > 5);
  const Residual tight{.rtol = 1e-12, .max_steps = 300};
  same("until each sample's residual, series", ::Step{},
       {.stop = tight, .adjoint = Neumann{.max_products = 200, .rtol = 1e-12}});
  same("samples stay in the batch", ::Step{},
       {.forward = Plain{.damping = 0.3}, .stop = Residual{.rtol = 1e-9, .compact = false}, .adjoint = Auto{}});
  for (const int most : {6, 9, 10})
    same("steps end", ::Step{},
         {.stop = Residual{.rtol = 0, .max_steps = most},
          .adjoint = Neumann{.max_products = most, .rtol = 0},
          .on_fail = OnFail::report});
  same("released", ::Step{}, {.stop = Steps{12}, .adjoint = ReleasedNeumann{.terms = 30}});
  for (const Stop& stop : {Stop(Steps{40}), Stop(Residual{.max_steps = 40})})
    same("a sample runs away", Square{}, {.stop = stop, .adjoint = Terms{20}, .on_fail = OnFail::report});

  check_graphs("batch norm of a convolution by tiles", true, [] {
    Random random(8);
    Tape<float, Cuda> tape;
    const auto there = [&](const Shape& shape) { return to<Cuda>(uniform<float>(shape, -1, 1, random)); };
    const Var<float, Cuda> w = tape.leaf(there({2, 2, 3, 3})), x = tape.leaf(there({2, 2, 5, 4}));
    const auto solved = fixed_point::solve(NormalisedStep{}, {.stop = Steps{9}, .adjoint = Terms{7}},
                                           Var(Tensor<float, Cuda>(x.shape(), 0.0f)), w, x);
    std::vector<double> out = numbers(solved.z);
    for (const auto& g : grad(sum(solved.z * solved.z), {w, x})) append(out, g);
    return out;
  });
}

TEST_CASE("batch norm takes the sums that tiles leave beside a convolution: values, first and second derivatives") {
  using enum ConvAlgorithm;
  const auto exact = normalised_twice<double, Cpu>(gemm);
  CHECK(difference(normalised_twice<double, Cuda>(fft), exact) <= 1e-9);
  const auto by_sums = normalised_twice<float, Cuda>(fft);
  CHECK(difference(by_sums, exact) <= 2e-5);
  CHECK(difference(normalised_twice<float, Cuda>(gemm), exact) <= 2e-5);
  CHECK(by_sums == normalised_twice<float, Cuda>(fft));

  const auto left = []<class T>(ConvAlgorithm algorithm, T) {
    Var<T, Cuda> x(Tensor<T, Cuda>(Shape{2, 1, 4, 4}, T{1})), w(Tensor<T, Cuda>(Shape{3, 1, 1, 1}, T{2}));
    return conv(x, w, {.algorithm = algorithm}).value();
  };
  for (const ConvAlgorithm other : {automatic, direct, gemm})
    CHECK(cuda::channel_moments(left(other, float{})).empty());
  CHECK(cuda::channel_moments(left(fft, double{})).empty());
  Tensor<float, Cuda> y = left(fft, float{});
  const auto moments = cuda::channel_moments(y);
  REQUIRE(moments.size() == 3);
  CHECK(difference(numbers(Var(moments[0])), std::vector<double>(3, 2)) <= 1e-6);
  CHECK(cuda::channel_moments(y.reshape({3, 2, 4, 4})).empty());
  const Tensor<float, Cuda> before = y;
  y.mutable_data();
  CHECK(cuda::channel_moments(y).empty());
  CHECK(cuda::channel_moments(before).size() == 3);
  Tensor<float, Cuda> alone = left(fft, float{});
  alone.mutable_data();
  CHECK(cuda::channel_moments(alone).empty());
}

TEST_CASE("spectra as bfloat16, where they are allowed: the last digits of a result, and spectra of their own") {
  Random random(6);
  const auto x = uniform<float>({2, 3, 60, 60}, -1, 1, random), w = uniform<float>({4, 3, 5, 5}, -1, 1, random);
  const Var<float, Cuda> there = to<Cuda>(x), weights = to<Cuda>(w);
  const auto result = [&] {
    return numbers(conv(there, weights, {.padding = {2, 2}, .algorithm = ConvAlgorithm::fft}));
  };
  const auto error = [&](const std::vector<double>& got) {
    const auto exact = numbers(conv(Var(cast<double>(x)), Var(cast<double>(w)), {.padding = {2, 2}}));
    double squares = 0, scale = 0;
    for (std::size_t k = 0; k < exact.size(); ++k)
      squares += (got[k] - exact[k]) * (got[k] - exact[k]), scale += exact[k] * exact[k];
    return std::sqrt(squares / scale);
  };
  const auto plain = result();
  CHECK(error(plain) <= 1e-6);
  for (int round = 0; round < 2; ++round) {
    {
      const cuda::AllowBf16Spectra allow;
      const auto rounded = result();
      CHECK(error(rounded) <= 4e-3);
      CHECK(error(rounded) >= 1e-3);
    }
    CHECK(result() == plain);
  }
}

TEST_CASE("a net trains with graphs to the same bits as without") {
  check_graphs("hGRU", true, [] {
    return trained<float, Cuda>(hgru_net<float, Cuda>(small), Rbp::released(8, 8, fixed_point::Lcp{}));
  });
}

TEST_CASE("optimisers and clipping step on the device as on the CPU") {
  CHECK(difference(optimised<Cuda>(Adam<double, Cuda>({.rate = 0.1, .weight_decay = 0.01})),
                   optimised<Cpu>(Adam<double>({.rate = 0.1, .weight_decay = 0.01}))) <= 1e-13);
  CHECK(difference(optimised<Cuda>(Sgd<double, Cuda>({.rate = 0.1, .momentum = 0.9})),
                   optimised<Cpu>(Sgd<double>({.rate = 0.1, .momentum = 0.9}))) <= 1e-13);
}

TEST_CASE("the device's memory does not grow with the number of steps") {
  const auto peak = [](int steps) {
    auto& memory = MemoryOf<Cuda>::instance();
    memory.reset_peak();
    const std::size_t before = memory.use().current;
    solution<Cuda>({.stop = fixed_point::Steps{steps}, .adjoint = fixed_point::Terms{5}});
    return memory.use().peak - before;
  };
  peak(6);
  const std::size_t six = peak(6);
  CHECK(six > 0);
  CHECK(peak(20) == six);
  CHECK(peak(300) == six);
}

TEST_CASE("a net trains on the device as on the CPU: through the fixed point and through time, with the penalty") {
  const Training crbp = Rbp::released(4, 3, fixed_point::Lcp{}),
                 cbptt = Bptt{.steps = 2, .penalty = fixed_point::Lcp{}};
  const auto here = trained<double, Cpu>(hgru_net<double>(small), crbp);
  CHECK(difference(trained<double, Cuda>(hgru_net<double, Cuda>(small), crbp), here) <= 1e-10);
  // Adam makes whole steps of gradients that are all rounding.
  CHECK(difference(trained<float, Cuda>(hgru_net<float, Cuda>(small), crbp), here) <= 1e-3);
  CHECK(difference(trained<double, Cuda>(hgru_net<double, Cuda>(small), cbptt),
                   trained<double, Cpu>(hgru_net<double>(small), cbptt)) <= 1e-10);
}

TEST_CASE("where a net computes is said by its type alone") {
  const auto& options = small;
  const Tensor<float> images = data<float, Cpu>().images.value();
  const auto here = run(hgru_net<float>(options), Var(images), Rbp::released(20)).logits;
  const auto net = hgru_net<float, Cuda>(options);
  Tape<float, Cuda> tape;
  const auto result = run(on_tape(net, tape), Var(to<Cuda>(images)), Rbp::released(20));
  CHECK(difference(numbers(result.logits), numbers(here)) <= 1e-4);
}

TEST_CASE("nets predict on the device as on the CPU") {
  const auto logits = []<class D>(D) {
    const auto images = data<double, D>().images;
    std::vector<double> out = numbers(predict(conv_lstm_net<double, D>(small), images, 3));
    auto control = feed_forward_net<double, D>(small);
    append(out, control.train(images));
    append(out, control(images));
    return out;
  };
  CHECK(difference(logits(Cuda{}), logits(Cpu{})) <= 1e-10);
}

TEST_CASE("a net trained on the device predicts on the CPU with the parameters copied by name") {
  HgruNet<float, Cuda> trained_net = hgru_net<float, Cuda>(small);
  Adam<float, Cuda> adam;
  const auto there = data<float, Cuda>();
  train_step(trained_net, adam, there, Rbp::released(4, 3, fixed_point::Lcp{}));
  HgruNet<float> net = hgru_net<float>({.kernel = 5, .orientations = 2, .seed = 4});
  copy_parameters(trained_net, net);
  const auto here = data<float, Cpu>();
  CHECK(difference(numbers(predict(net, here.images, 4)), numbers(predict(trained_net, there.images, 4))) <= 1e-5);

  auto control = feed_forward_net<float, Cuda>(small);
  control.train(there.images);  // moves the running statistics, which are no parameters
  auto copy = feed_forward_net<float>(small), back = copy;
  copy_parameters(control, copy);
  CHECK(difference(numbers(copy(here.images)), numbers(control(there.images))) <= 1e-5);
  auto again = feed_forward_net<float, Cuda>(small);
  copy_parameters(copy, again);
  copy_parameters(again, back);
  CHECK(numbers(back(here.images)) == numbers(copy(here.images)));
}

TEST_CASE("training on the device gives the same bits twice, and asks for no memory after a warm-up") {
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
