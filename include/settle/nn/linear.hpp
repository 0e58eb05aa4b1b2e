#pragma once
#include "settle/nn/initialisers.hpp"
#include "settle/ops/map.hpp"
#include "settle/ops/matmul.hpp"

namespace settle::inline v0_2 {

/// A fully connected layer, as PyTorch's Linear: x (N, I) to x · weightᵀ + bias (N, O).
template <Scalar T, class Device = Cpu>
struct Linear {
  Var<T, Device> weight;  ///< (O, I)
  Var<T, Device> bias;    ///< (O)

  /// PyTorch's default initial values. Throws Error for no outputs or inputs.
  static Linear initial(Index out, Index in, ParameterStreams& streams) {
    require(out >= 1 && in >= 1, "linear", "expected at least 1 output and input, got ", out, " and ", in);
    const Shape shape{out, in};
    const auto weight = to<Device>(conv_uniform<T>(shape, shape, streams.next()));
    return {weight, to<Device>(conv_uniform<T>({out}, shape, streams.next()))};
  }

  /// The product without the bias, which is left to the map that uses it.
  Var<T, Device> linear(const Var<T, Device>& x) const { return matmul(x, weight, {.transpose_b = true}); }

  Var<T, Device> operator()(const Var<T, Device>& x) const { return linear(x) + bias; }

  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
};

}  // namespace settle
