// Every op on the device: its values against plain loops, its first and second derivatives and its repeated products
// against the CPU's, which are checked by finite differences.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "settle/cuda/cuda.hpp"
#include "settle/ops/samples.hpp"
#include "settle/settle.hpp"

using namespace settle;

namespace {

/// What a sample gives: its values, its gradients, the gradients of <v, gradients>, and two later products.
template <class T, class D>
std::vector<Tensor<double>> everything(const OpSample<T, D>& sample, const Tensor<double>& cotangent,
                                       const std::vector<Tensor<double>>& tangents) {
  const auto there = [](const Tensor<double>& x) { return Var<T, D>(to<D>(cast<T>(x))); };
  std::vector<Tensor<double>> out;
  const auto add = [&](const Var<T, D>& x) { out.push_back(cast<double>(to<Cpu>(x.value()))); };
  Tape<T, D> tape;
  std::vector<Var<T, D>> x;
  for (const auto& input : sample.inputs) x.push_back(tape.leaf(there(input).value()));
  const Var<T, D> y = sample.function(x), c = tape.leaf(there(cotangent).value());
  add(y);
  const auto gradients = vjp(y, x, c, true);
  std::vector<Var<T, D>> at = x;
  at.push_back(c);
  Var<T, D> total(Tensor<T, D>(Shape{}, T{0}));
  for (std::size_t k = 0; k < x.size(); ++k) {
    add(gradients[k]);
    total = total + sum(gradients[k] * there(tangents[k]));
  }
  if (total.tape())
    for (const auto& g : grad(total, at, {.keep_graph = true})) add(g);
  Pullback<T, D> pullback({y}, x);
  for (int k = 0; k < 3; ++k)
    for (const auto& g : pullback({there(cotangent)})) add(g);
  return out;
}

/// The largest difference, relative to the largest value, but at least 1.
double difference(const Tensor<double>& a, const Tensor<double>& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0, scale = 1;
  for (Index k = 0; k < a.size(); ++k) {
    const double d = std::abs(a.data()[k] - b.data()[k]);
    worst = d <= worst ? worst : d;
    scale = std::max(scale, std::abs(b.data()[k]));
  }
  return worst / scale;
}

template <class T, class Ops>
void check_all(double tolerance) {
  Random random(3);
  Ops::for_each([&](auto op) {
    OpSamples<T, Cuda> on_device;
    OpSamples<double, Cpu> here;
    op.samples(on_device), op.samples(here);
    for (std::size_t n = 0; n < here.all().size(); ++n) {
      const std::string name = std::string(op.name) + ": " + here.all()[n].name;
      CAPTURE(name);
      const Tensor<double> value = here.all()[n].reference(here.all()[n].inputs);
      const Tensor<double> cotangent = uniform<double>(value.shape(), -1, 1, random);
      std::vector<Tensor<double>> tangents;
      for (const auto& input : here.all()[n].inputs) tangents.push_back(uniform<double>(input.shape(), -1, 1, random));
      const auto expected = everything(here.all()[n], cotangent, tangents);
      const auto got = everything(on_device.all()[n], cotangent, tangents);
      REQUIRE(got.size() == expected.size());
      CHECK(difference(got[0], value) <= tolerance);
      for (std::size_t k = 0; k < got.size(); ++k) {
        CAPTURE(k);
        CHECK(difference(got[k], expected[k]) <= tolerance);
      }
    }
  });
}

}  // namespace

TEST_CASE("every op on the device: values, first and second derivatives, repeated products") {
  check_all<double, AllOps>(1e-12);
}

TEST_CASE("convolution on the device in float32, whose derivatives are the other two, by tiles, cuDNN and matrices") {
  check_all<float, OpList<ConvOp>>(4e-6);
}
