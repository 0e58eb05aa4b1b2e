#include "instruction_sets.hpp"
#include "settle/settle.hpp"

namespace {

using namespace settle;

Tensor<float> forward(const Tensor<float>& x, const Tensor<float>& w) {
  return conv(Var(x), Var(w), ConvOptions::same(w.shape())).value();
}

Tensor<float> input_grad(const Tensor<float>& x, const Tensor<float>& w) {
  Tape<float> tape;
  const Var<float> leaf = tape.leaf(x);
  return grad(sum(square(conv(leaf, Var(w), ConvOptions::same(w.shape())))), {leaf}).front().value();
}

Tensor<float> second_derivative(const Tensor<float>& x) {
  Tape<float> tape;
  const Var<float> leaf = tape.leaf(x);
  const Var<float> y = map([](auto v) { return tanh(v) * v; }, leaf);
  const Var<float> slope = grad(sum(y), {leaf}, {.create_graph = true}).front();
  return grad(sum(slope), {leaf}).front().value();
}

}  // namespace

InstructionSetPart PART() { return {Backend<Cpu>::instruction_set<float>(), forward, input_grad, second_derivative}; }
