#pragma once
#include <array>
#include <string>
#include <vector>

#include "settle/nn/hgru_v2.hpp"
#include "settle/ops/resize.hpp"
#include "settle/ops/slice.hpp"
#include "settle/vision/recurrence.hpp"
#include "settle/vision/resnet.hpp"

namespace settle::inline v0_2 {

/// A feature pyramid on a ResNet (Lin et al. 2017): p_l = output(lateral(res_l) + nearest upsampling of the level
/// above), l = 2 ... 5, and p6, every second place of p5. A lateral is a 1 x 1 convolution, or an hGRU's settled state
/// with a norm. Parameters are named as detectron2's: bottom_up.*, fpn_lateral2, fpn_output2, ...
template <Scalar T, class Device = Cpu>
struct Fpn {
  using V = Var<T, Device>;
  Resnet<T, Device> bottom_up;
  FpnOptions options;
  std::vector<ConvNorm<T, Device>> lateral;      ///< four, or none with recurrence
  std::vector<HgruV2Cell<T, Device>> recurrent;  ///< four with it
  std::vector<GroupNorm<T, Device>> recurrent_norm;
  std::array<ConvNorm<T, Device>, 4> output;

  /// Kernels as c2_xavier_fill; biases where no norm is.
  static Fpn initial(const ResnetOptions& resnet, const FpnOptions& o, ParameterStreams& streams) {
    Fpn net;
    net.options = o;
    net.bottom_up = Resnet<T, Device>::initial(resnet, streams);
    Index in = resnet.channels;
    const auto layer = [&](Index from, Index kernel) {
      const bool bias = o.norm.kind == NormKind::none;
      return ConvNorm<T, Device>::initial({from, o.channels, kernel, 1, bias, o.norm, {WeightFilling::caffe2_xavier}},
                                          streams);
    };
    for (std::size_t l = 0; l < 4; ++l, in *= 2) {
      if (o.recurrent) {
        const HgruV2Options cell{in, o.channels, o.kernel, o.gala, o.groups, o.steps};
        net.recurrent.push_back(HgruV2Cell<T, Device>::initial(cell, streams));
        net.recurrent_norm.push_back(GroupNorm<T, Device>::initial(o.channels, o.groups));
      } else {
        net.lateral.push_back(layer(in, 1));
      }
      net.output[l] = layer(o.channels, 3);
    }
    return net;
  }

  /// p2 ... p6 of images (N, C, H, W) whose sides 32 divides; what recurrence costs is added to `penalty`, a scalar.
  /// Throws Error for other images.
  std::vector<V> forward(const V& images, Mode mode, V* penalty = nullptr) {
    require(images.shape().rank() == 4 && images.shape(2) % 32 == 0 && images.shape(3) % 32 == 0, "fpn",
            "expected images (N, C, H, W) whose sides 32 divides, got ", images.shape());
    const std::array<V, 4> features = bottom_up.forward(images, mode);
    std::vector<V> out(5);
    V down;
    for (std::size_t l = 4; l-- > 0;) {
      const Shape& s = features[l].shape();
      const V above = down.defined() ? resize(down, {s[2], s[3]}, Interpolation::nearest) : V{};
      if (options.recurrent) {
        const auto settled = settle_cell(recurrent[l], features[l], options, mode);
        const V own = recurrent_norm[l](settled.state);
        down = above.defined() ? own + above : own;
        if (penalty) *penalty = *penalty + settled.penalty;
      } else {
        down = lateral[l].forward(features[l], mode, false, above);
      }
      out[l] = output[l].forward(down, mode);
    }
    const Shape& s = out[3].shape();
    const Index rows = (s[2] + 1) / 2, columns = (s[3] + 1) / 2;
    out[4] = slice(out[3], Window{{0, 0, 0, 0}, {s[0], s[1], rows, columns}, {1, 1, 2, 2}});
    return out;
  }

  void parameters(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_part(name, part, visit); });
  }
  void buffers(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_buffers(name, part, visit); });
  }

 private:
  void each(const auto& f) {
    f("bottom_up", bottom_up);
    for (std::size_t l = 0; l < 4; ++l) {
      const std::string level = std::to_string(l + 2);
      if (options.recurrent)
        f("fpn_lateral" + level + ".recurrent", recurrent[l]), f("fpn_lateral" + level + ".norm", recurrent_norm[l]);
      else
        f("fpn_lateral" + level, lateral[l]);
      f("fpn_output" + level, output[l]);
    }
  }
};

}  // namespace settle
