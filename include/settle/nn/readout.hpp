#pragma once
#include <cmath>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"

namespace settle {

/// The recurrent models' last layer: batch norm on the batch's own statistics, then a 1 x 1 convolution to the logits
/// (N, 2, H, W) of background and contour.
template <Scalar T, class Device = Cpu>
struct BatchNormReadout {
  BatchNorm<T, Device> bn;
  ConvLayer<T, Device> conv6;

  /// As in the released code: batch norm 1 and 0 with epsilon 1e-3, a Xavier normal weight, and the bias log(0.99 /
  /// 0.01) for both classes (which cancels in the softmax).
  static BatchNormReadout initial(Index channels, ParameterStreams& streams) {
    return {BatchNorm<T, Device>::initial(channels, 1, 0, 1e-3),
            {to<Device>(xavier_normal<T>(Shape{2, channels, 1, 1}, streams.next())),
             Tensor<T, Device>(Shape{2}, static_cast<T>(std::log(0.99 / 0.01)))}};
  }

  /// The logits (N, 2, H, W) of a state (N, C, H, W).
  Var<T, Device> operator()(const Var<T, Device>& h) const { return conv6(bn(h)); }

  void parameters(auto&& visit) { visit_part("bn", bn, visit), visit_part("conv6", conv6, visit); }
};

}  // namespace settle
