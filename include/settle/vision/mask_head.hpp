#pragma once
#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "settle/nn/conv_transpose_layer.hpp"
#include "settle/nn/losses.hpp"
#include "settle/vision/box_head.hpp"
#include "settle/vision/recurrence.hpp"

namespace settle::inline v0_2 {

/// The head that draws masks of regions, twice as large as the bins that it sees, one for each class: 3 x 3
/// convolutions with ReLU, or one hGRU that settles on the region's features, its last state normalised; then a
/// transposed convolution with ReLU and a 1 x 1 convolution. Parameters are named as detectron2's: mask_fcn1 ...,
/// deconv, predictor; those of the hGRU as the released code's: recurrent.*, horizontal_norm.*.
template <Scalar T, class Device = Cpu>
struct MaskHead {
  using V = Var<T, Device>;
  MaskHeadOptions options;
  LevelOptions levels;
  Index things = 0;
  std::vector<ConvNorm<T, Device>> mask_fcn;       ///< without recurrence
  std::vector<GalaHgruCell<T, Device>> recurrent;  ///< one with it, none without
  NormLayer<T, Device> horizontal_norm;
  ConvTransposeLayer<T, Device> deconv;
  ConvNorm<T, Device> predictor;

  /// Logits of masks, and what the recurrence cost.
  struct Output {
    V logits;   ///< (R, things, 2 pool, 2 pool)
    V penalty;  ///< a scalar, weighted; 0 without recurrence, without a penalty and without regions
    std::shared_ptr<const fixed_point::Report> report{};  ///< of the fixed point; null where there was none
  };

  /// Kernels as c2_msra_fill, biases 0, the predictor normal with a deviation of 0.001; the cell as it says.
  static MaskHead initial(const MaskHeadOptions& o, const LevelOptions& levels, Index channels, Index things,
                          ParameterStreams& streams) {
    MaskHead head{o, levels, things, {}, {}, {}, {}, {}};
    Index in = channels;
    if (o.recurrent) {
      head.recurrent.push_back(GalaHgruCell<T, Device>::initial(o.cell(in), streams));
      head.horizontal_norm = NormLayer<T, Device>::initial(in, o.output_norm);
    } else {
      for (Index k = 0; k < o.convolutions; ++k, in = o.channels)
        head.mask_fcn.push_back(ConvNorm<T, Device>::initial({in, o.channels, 3, 1, true, {}}, streams));
    }
    head.deconv = {fill_weight<T, Device>({in, o.channels, 2, 2}, {WeightFilling::kaiming_fan_out}, streams),
                   Tensor<T, Device>(Shape{o.channels}, T{0})};
    head.predictor =
        ConvNorm<T, Device>::initial({o.channels, things, 1, 1, true, {}, {WeightFilling::normal, 0.001}}, streams);
    return head;
  }

  /// The features of regions (R, C, pool, pool) of a pyramid p2 ... p5.
  V pool(const std::vector<V>& pyramid, const Regions<T>& regions) const {
    return pool_regions(pyramid, regions.boxes, regions.images, {.size = {options.pool, options.pool}}, levels);
  }

  /// The masks of regions' features (R, C, pool, pool). In training the recurrence is differentiated as
  /// options.policy() says; in evaluation it takes `steps`, or as many as the options say, and nothing is recorded.
  Output forward(const V& features, Mode mode, std::optional<int> steps = {}) {
    Output out{{}, Tensor<T, Device>(Shape{}, T{0}), {}};
    V x = features;
    for (auto& layer : mask_fcn) x = layer.forward(x, mode, true);
    if (!recurrent.empty() && x.size() > 0) {
      const auto settled = settle_cell(recurrent.front(), x, options, mode, steps);
      x = settled.state, out.penalty = settled.penalty, out.report = settled.report;
    }
    out.logits = masks(x, mode);
    return out;
  }

  /// Shows the logits after every step of the recurrence, in evaluation: on_step(k, logits), k = 1 ... steps. Without
  /// recurrence there is one step.
  void over_steps(const V& features, int steps, const std::function<void(int, const V&)>& on_step) {
    if (recurrent.empty() || features.size() == 0)
      return on_step(1, forward(stop_gradient(features), Mode::evaluate).logits);
    predict(detail::net_of(recurrent.front()), features, steps,
            [&](int k, const V& state) { on_step(k, masks(state, Mode::evaluate)); });
  }

  /// The mean binary cross-entropy of the masks of things, each that of its region's class; 0 where there are none.
  /// `regions` are those of output.logits, all things.
  V loss(const Output& output, const Regions<T>& regions, const std::vector<PanopticTruth>& truths) const {
    const Index side = 2 * options.pool;
    Tensor<T> targets(Shape{regions.size(), side, side});
    T* target = targets.mutable_data();
    for (Index k = 0; k < regions.size(); ++k) {
      const auto at = static_cast<std::size_t>(k);
      const T* b = regions.boxes.data() + 4 * k;
      const std::array<double, 4> box{static_cast<double>(b[0]), static_cast<double>(b[1]), static_cast<double>(b[2]),
                                      static_cast<double>(b[3])};
      const PanopticTruth& truth = truths[static_cast<std::size_t>(regions.images[at])];
      const Mask mask = mask_in_box(truth.masks[static_cast<std::size_t>(regions.objects[at])], box, side);
      for (const auto value : mask.values) *target++ = static_cast<T>(value);
    }
    return binary_cross_entropy_with_logits(of_classes(output.logits, regions.classes), to<Device>(targets));
  }

  /// The masks of one class each: (R, 2 pool, 2 pool).
  V of_classes(const V& logits, const std::vector<Index>& classes) const {
    const Index side = 2 * options.pool;
    std::vector<Index> places;
    for (std::size_t k = 0; k < classes.size(); ++k) places.push_back(static_cast<Index>(k) * things + classes[k]);
    return gather(reshape(logits, {logits.shape(0) * things, side, side}), 0, places);
  }

  void parameters(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_part(name, part, visit); });
  }
  void buffers(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_buffers(name, part, visit); });
  }

 private:
  V masks(V x, Mode mode) {
    if (!horizontal_norm.none()) {
      const auto [scale, shift] = horizontal_norm.fold(x, mode);
      x = map([](auto v, auto s, auto b) { return v * s + b; }, x, scale, shift);
    }
    const V larger = map([](auto v, auto b) { return relu(v + b); }, deconv.linear(x), deconv.channel_bias());
    return predictor.forward(larger, mode);
  }

  void each(const auto& f) {
    for (std::size_t k = 0; k < mask_fcn.size(); ++k) f("mask_fcn" + std::to_string(k + 1), mask_fcn[k]);
    for (auto& cell : recurrent) f("recurrent", cell);
    f("horizontal_norm", horizontal_norm), f("deconv", deconv), f("predictor", predictor);
  }
};

}  // namespace settle
