#pragma once
#include <array>
#include <string>
#include <vector>

#include "settle/nn/conv_norm.hpp"
#include "settle/ops/pool.hpp"
#include "settle/vision/panoptic_options.hpp"

namespace settle::inline v0_2 {

/// A residual block: two or three convolutions, and the block's input, or a 1 x 1 convolution of it where sizes differ,
/// added before the last ReLU.
template <Scalar T, class Device = Cpu>
struct ResnetBlock {
  using V = Var<T, Device>;
  std::vector<ConvNorm<T, Device>> convolutions;
  std::vector<ConvNorm<T, Device>> shortcut;  ///< one or none

  static ResnetBlock initial(Index in, Index out, Index stride, const ResnetOptions& o, ParameterStreams& streams) {
    ResnetBlock block;
    const auto add = [&](Index from, Index to, Index kernel, Index step) {
      block.convolutions.push_back(ConvNorm<T, Device>::initial({from, to, kernel, step, false, o.norm}, streams));
    };
    if (o.bottleneck) {
      const Index inner = out / o.squeeze;
      add(in, inner, 1, o.stride_in_1x1 ? stride : 1);
      add(inner, inner, 3, o.stride_in_1x1 ? 1 : stride);
      add(inner, out, 1, 1);
    } else {
      add(in, out, 3, stride), add(out, out, 3, 1);
    }
    if (in != out || stride != 1)
      block.shortcut.push_back(ConvNorm<T, Device>::initial({in, out, 1, stride, false, o.norm}, streams));
    return block;
  }

  V forward(const V& x, Mode mode) {
    const V beside = shortcut.empty() ? x : shortcut[0].forward(x, mode);
    V y = x;
    for (std::size_t k = 0; k + 1 < convolutions.size(); ++k) y = convolutions[k].forward(y, mode, true);
    return convolutions.back().forward(y, mode, true, beside);
  }

  void parameters(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_part(name, part, visit); });
  }
  void buffers(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_buffers(name, part, visit); });
  }
  void freeze() {
    each([](const std::string&, auto& part) { part.frozen = true; });
  }

 private:
  void each(const auto& f) {
    for (std::size_t k = 0; k < convolutions.size(); ++k) f("conv" + std::to_string(k + 1), convolutions[k]);
    for (auto& part : shortcut) f("shortcut", part);
  }
};

/// A ResNet without its classifier (He et al. 2015), parameters named as detectron2's: stem.conv1, res2.0.conv1, ...
template <Scalar T, class Device = Cpu>
struct Resnet {
  using V = Var<T, Device>;
  ConvNorm<T, Device> stem;
  std::array<std::vector<ResnetBlock<T, Device>>, 4> stages;

  /// Kernels as c2_msra_fill, norms the identity; the first o.freeze_at parts are buffers. Throws Error for a stage
  /// without blocks, and channels that o.squeeze does not divide.
  static Resnet initial(const ResnetOptions& o, ParameterStreams& streams) {
    require(o.freeze_at >= 0 && o.freeze_at <= 5, "resnet", "expected freeze_at from 0 to 5, got ", o.freeze_at);
    require(o.channels >= 1 && o.squeeze >= 1 && o.channels % o.squeeze == 0, "resnet",
            "expected channels that squeeze divides, got ", o.channels, " and ", o.squeeze);
    Resnet net;
    net.stem = ConvNorm<T, Device>::initial({o.image_channels, o.stem_channels, 7, 2, false, o.norm}, streams);
    net.stem.frozen = o.freeze_at >= 1;
    Index in = o.stem_channels, out = o.channels;
    for (std::size_t s = 0; s < 4; ++s, out *= 2) {
      require(o.blocks[s] >= 1, "resnet", "expected at least one block in each stage, got ", o.blocks[s]);
      for (Index b = 0; b < o.blocks[s]; ++b) {
        const Index stride = b == 0 && s > 0 ? 2 : 1;
        net.stages[s].push_back(ResnetBlock<T, Device>::initial(in, out, stride, o, streams));
        if (o.freeze_at >= static_cast<Index>(s) + 2) net.stages[s].back().freeze();
        in = out;
      }
    }
    return net;
  }

  /// The results of res2 ... res5 for images (N, C, H, W): a quarter, an eighth, ... of their size, rounded up.
  std::array<V, 4> forward(const V& images, Mode mode) {
    V x = max_pool(stem.forward(images, mode, true), {.size = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
    std::array<V, 4> out;
    for (std::size_t s = 0; s < 4; ++s) {
      for (auto& block : stages[s]) x = block.forward(x, mode);
      out[s] = x;
    }
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
    f("stem.conv1", stem);
    for (std::size_t s = 0; s < 4; ++s)
      for (std::size_t b = 0; b < stages[s].size(); ++b)
        f("res" + std::to_string(s + 2) + '.' + std::to_string(b), stages[s][b]);
  }
};

}  // namespace settle
