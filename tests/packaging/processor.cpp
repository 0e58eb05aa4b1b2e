#include <cmath>
#include <cstdio>

#include "settle/settle.hpp"

// A convolution whose results are known, and the instructions that it was computed with.
int main() {
  using namespace settle;
  const Tensor<float> w(Shape{9, 9, 15, 15}, 1.f);
  const auto y = conv(Var(Tensor<float>(Shape{1, 9, 64, 64}, 1.f)), Var(w), ConvOptions::same(w.shape()));
  const float middle = y.value().data()[32 * 64 + 32], corner = y.value().data()[0];
  std::puts(Backend<Cpu>::instruction_set<float>());
  return std::abs(middle - 9 * 225) < 0.01f && std::abs(corner - 9 * 64) < 0.01f ? 0 : 1;
}
