#pragma once
#include <string>
#include <type_traits>
#include <vector>

#include "settle/kernels/map.hpp"
#include "settle/kernels/registry.hpp"
#include "settle/optim/adam.hpp"
#include "settle/optim/sgd.hpp"

// The maps that the generator prints for the emulator, and that the tests run and compile.
namespace kernel_cases {

using namespace settle;
using expr::Program;
using kernels::Put;

struct MapCase {
  std::string name;
  Program program;  ///< as traced
  Shape space;
  std::vector<Shape> inputs;
  std::vector<kernels::Map<float>::Result> results;
  double low = 0.3, high = 2;  ///< of the inputs' values
  kernels::MapOptions options = {};

  template <class T>
  kernels::Map<T> map() const {
    std::vector<typename kernels::Map<T>::Result> wanted;
    for (const auto& r : results) wanted.push_back({r.put, r.shape});
    return kernels::Map<T>(expr::lower(program), space, inputs, wanted, options);
  }
};

/// A last gate of the hGRU, with the constants of its channels.
struct Gate {
  constexpr auto operator()(auto state, auto sum, auto u, auto b, auto c, auto scale, auto shift, auto k, auto g,
                            auto o) const {
    const auto gate = sigmoid(u + b), c2 = c * scale + shift;
    const auto next = softplus_cut(k * sum + g * c2 + o * sum * c2);
    return softplus_cut((1. - gate) * state + gate * next);
  }
};

/// Functions through which not-a-number passes, whichever operand it is.
inline MapCase passing_case() {
  constexpr auto f = [](auto x, auto y) {
    return expr::outputs(min(x, y), max(x, y), relu(x + y), clamp(x + y, 0., 1.), abs(x + y), softplus(x + y));
  };
  const Shape shape{3};
  return {.name = "functions that pass on not-a-number",
          .program = expr::trace<std::remove_const_t<decltype(f)>, 2>(),
          .space = shape,
          .inputs = {shape, shape},
          .results = std::vector<kernels::Map<float>::Result>(6, {Put::assign, shape})};
}

inline std::vector<MapCase> map_cases() {
  std::vector<MapCase> out;
  const auto whole = [](int results, const Shape& shape) {
    return std::vector<kernels::Map<float>::Result>(static_cast<std::size_t>(results), {Put::assign, shape});
  };

  constexpr auto functions = [](auto x, auto y) {
    return expr::outputs(exp(x), log(x), log1p(x), expm1(x), sqrt(x), rsqrt(x), tanh(x), erf(x), sin(x), cos(x),
                         sigmoid(x), softplus(x), gelu(x), abs(-x), pow(x, 2), pow(x, 3), pow(x, -1), pow(x, 2.5),
                         min(x, y), max(x, y), select(x < y, x, y * y), (x <= y) + (x == x), clamp(x, 0.5, 1e30) / y);
  };
  const Program all = expr::trace<std::remove_const_t<decltype(functions)>, 2>();
  out.push_back(
      {.name = "every function", .program = all, .space = {67}, .inputs = {{67}, {67}}, .results = whole(23, {67})});
  constexpr auto stable = [](auto x) {
    return expr::outputs(sigmoid(x), softplus(x), log_sigmoid(x), softplus_cut(x), relu(x));
  };
  out.push_back({.name = "stable forms at large arguments",
                 .program = expr::trace<std::remove_const_t<decltype(stable)>, 1>(),
                 .space = {50},
                 .inputs = {{50}},
                 .results = whole(5, {50}),
                 .low = -60,
                 .high = 60});

  out.push_back(passing_case());

  const Shape images{2, 3, 5, 7}, channel{3, 1, 1};
  std::vector<Shape> gate_inputs{images,       images,       images,  channel, images,
                                 {1, 3, 1, 1}, {1, 3, 1, 1}, channel, channel, channel};
  const Program gate = expr::trace<Gate, 10>(), gradient = expr::gradient(gate), second = expr::gradient(gradient);
  out.push_back({.name = "the hGRU's gate",
                 .program = gate,
                 .space = images,
                 .inputs = gate_inputs,
                 .results = whole(1, images)});
  MapCase backward{.name = "the hGRU's gate, gradient",
                   .program = gradient,
                   .space = images,
                   .inputs = gate_inputs,
                   .results = {},
                   .options = {.chunk = 16}};
  backward.inputs.insert(backward.inputs.begin(), images);
  for (const Shape& shape : gate_inputs) backward.results.push_back({Put::assign, shape});
  backward.results[1].put = Put::accumulate, backward.results[7].put = Put::accumulate,
  backward.results[4].put = Put::skip;
  out.push_back(backward);
  MapCase twice{.name = "the hGRU's gate, second derivative",
                .program = second,
                .space = images,
                .inputs = backward.inputs,
                .results = {}};
  for (const Shape& shape : backward.inputs) twice.results.push_back({Put::assign, shape});
  twice.inputs.insert(twice.inputs.begin(), gate_inputs.begin(), gate_inputs.end());
  out.push_back(twice);

  constexpr auto statistics = [](auto v, auto c) { return expr::outputs(v - c, square(v - c)); };
  out.push_back({.name = "batch norm's sums",
                 .program = expr::trace<std::remove_const_t<decltype(statistics)>, 2>(),
                 .space = {3, 2, 9, 11},
                 .inputs = {{3, 2, 9, 11}, {1, 2, 1, 1}},
                 .results = {{Put::assign, {1, 2, 1, 1}}, {Put::assign, {1, 2, 1, 1}}},
                 .options = {.chunk = 40}});
  const Shape weights{2, 3, 3, 3}, one{};
  out.push_back({.name = "Adam's update",
                 .program = expr::trace<settle::detail::AdamUpdate, 14>(),
                 .space = weights,
                 .inputs = {weights, weights, weights, weights, one, one, one, one, one, one, one, one, one, one},
                 .results = whole(3, weights),
                 .low = 0.1,
                 .high = 0.9});
  out.push_back({.name = "SGD's update",
                 .program = expr::trace<settle::detail::SgdUpdate, 8>(),
                 .space = weights,
                 .inputs = {weights, weights, weights, one, one, one, one, one},
                 .results = whole(2, weights)});

  constexpr auto product = [](auto x, auto y) { return x * sin(y); };
  const Program multiply = expr::trace<std::remove_const_t<decltype(product)>, 2>(), slopes = expr::gradient(multiply);
  const auto binary = [&](const char* name, Shape a, Shape b, Index chunk) {
    const Shape space = broadcast(a, b);
    out.push_back({.name = name,
                   .program = multiply,
                   .space = space,
                   .inputs = {a, b},
                   .results = whole(1, space),
                   .options = {.chunk = chunk}});
    out.push_back({.name = std::string(name) + ", gradient",
                   .program = slopes,
                   .space = space,
                   .inputs = {space, a, b},
                   .results = {{Put::assign, a}, {Put::assign, b}},
                   .options = {.chunk = chunk}});
  };
  binary("rows and a vector", {6, 5}, {5}, 4096);
  binary("rows with columns", {4, 1}, {1, 3}, 4096);
  binary("a vector between", {3, 4, 5}, {4, 1}, 2);
  binary("outer axes repeat", {2, 3, 4}, {3, 4}, 5);
  binary("an axis between repeats", {2, 3, 4}, {2, 1, 4}, 4096);
  binary("a number", {}, {7}, 3);
  binary("two numbers", {}, {}, 4096);
  binary("extents of one", {1, 1}, {1}, 4096);
  MapCase wide = out.back();
  wide.name = "64-bit positions";
  wide.space = {2, 3, 4}, wide.inputs = {{2, 3, 4}, {2, 3, 4}, {2, 1, 4}};
  wide.results = {{Put::assign, {2, 3, 4}}, {Put::assign, {2, 1, 4}}};
  wide.options = {.chunk = 3, .narrow_limit = 1};
  out.push_back(wide);
  binary("nothing", {0, 3}, {1, 3}, 4096);
  binary("nothing inside", {3, 0}, {3, 1}, 4096);
  return out;
}

/// Each kernel of the cases and of the registry once.
inline std::vector<kernels::Kernel> all_kernels() {
  std::vector<kernels::Kernel> out = kernels::registry();
  const auto add = [&](const kernels::Kernel& kernel) {
    for (const kernels::Kernel& other : out)
      if (other.name == kernel.name) return;
    out.push_back(kernel);
  };
  for (const MapCase& c : map_cases()) {
    for (const kernels::Kernel& kernel : c.map<float>().kernels()) add(kernel);
    for (const kernels::Kernel& kernel : c.map<double>().kernels()) add(kernel);
  }
  return out;
}

}  // namespace kernel_cases
