#pragma once
#include <cmath>

#include "settle/autodiff/module.hpp"
#include "settle/nn/conv_layer.hpp"
#include "settle/ops/reduce.hpp"

namespace settle::inline v0_2 {

/// The recurrent models' last layer: batch norm on the batch's own statistics, then a 1 x 1 convolution to the logits
/// (N, K, H, W) of K classes: two in the released models, background and contour.
template <Scalar T, class Device = Cpu>
struct BatchNormReadout {
  BatchNorm<T, Device> bn;
  ConvLayer<T, Device> conv6;
  /// One class for the image: each class's largest logit over the pixels, given to all of them, as the hGRU of 2018
  /// reads its classes. So a loss and a score over pixels are those over images.
  bool whole_image = false;

  /// As in the released code: batch norm 1 and 0 with epsilon 1e-3, a Xavier normal weight, and the bias log(0.99 /
  /// 0.01) for all classes (which cancels in the softmax).
  static BatchNormReadout initial(Index channels, ParameterStreams& streams, Index classes = 2) {
    require(classes >= 2, "readout", "expected at least 2 classes, got ", classes);
    return {BatchNorm<T, Device>::initial(channels, 1, 0, 1e-3),
            {to<Device>(xavier_normal<T>(Shape{classes, channels, 1, 1}, streams.next())),
             Tensor<T, Device>(Shape{classes}, static_cast<T>(std::log(0.99 / 0.01)))},
            false};
  }

  /// The logits (N, K, H, W) of a state (N, C, H, W).
  Var<T, Device> operator()(const Var<T, Device>& h) const {
    const Var<T, Device> logits = conv6(bn(h));
    return whole_image ? broadcast_to(max(logits, {2, 3}), logits.shape()) : logits;
  }

  void parameters(auto&& visit) { visit_part("bn", bn, visit), visit_part("conv6", conv6, visit); }
};

}  // namespace settle
