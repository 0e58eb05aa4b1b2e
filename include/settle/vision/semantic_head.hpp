#pragma once
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "settle/nn/losses.hpp"
#include "settle/ops/resize.hpp"
#include "settle/vision/panoptic_options.hpp"
#include "settle/vision/panoptic_truth.hpp"
#include "settle/vision/recurrence.hpp"

namespace settle::inline v0_2 {

/// The head that tells the kind of stuff of each pixel (Kirillov et al. 2019): each of p2 ... p5 brought to a quarter
/// of the image's size by 3 x 3 convolutions with a norm and ReLU, each but p2's followed by a bilinear doubling; their
/// sum, on demand an hGRU that settles on it, a 1 x 1 convolution, and four times the size. Parameters are named as
/// detectron2's: p2.0, p3.0, p4.0, p4.2, p5.0, p5.2, p5.4, predictor; those of the hGRU recurrent.*, recurrent_norm.*.
template <Scalar T, class Device = Cpu>
struct SemanticHead {
  using V = Var<T, Device>;
  SemanticHeadOptions options;
  std::array<std::vector<ConvNorm<T, Device>>, 4> levels;
  std::vector<GalaHgruCell<T, Device>> recurrent;  ///< one or none
  NormLayer<T, Device> recurrent_norm;
  ConvNorm<T, Device> predictor;

  /// Kernels as c2_msra_fill, biases 0. `classes` are those of stuff and one for things, number 0.
  static SemanticHead initial(const SemanticHeadOptions& o, Index channels, Index classes, ParameterStreams& streams) {
    SemanticHead head;
    head.options = o;
    const bool bias = o.norm.kind == NormKind::none;
    for (Index l = 0; l < 4; ++l)
      for (Index k = 0; k < std::max<Index>(l, 1); ++k)
        head.levels[static_cast<std::size_t>(l)].push_back(
            ConvNorm<T, Device>::initial({k == 0 ? channels : o.channels, o.channels, 3, 1, bias, o.norm}, streams));
    if (o.recurrent) {
      head.recurrent.push_back(GalaHgruCell<T, Device>::initial(o.cell(o.channels), streams));
      head.recurrent_norm = NormLayer<T, Device>::initial(o.channels, o.norm);
    }
    head.predictor = ConvNorm<T, Device>::initial({o.channels, classes, 1, 1, true, {}}, streams);
    return head;
  }

  /// The logits (N, classes, H, W) at the size of the padded images, of a pyramid p2 ... ; what recurrence costs is
  /// added to `penalty`, a scalar.
  V forward(const std::vector<V>& pyramid, Mode mode, V* penalty = nullptr) {
    require(pyramid.size() >= 4, "semantic_head", "expected at least the levels p2 ... p5, got ", pyramid.size());
    V sum;
    for (std::size_t l = 0; l < 4; ++l) {
      V x = pyramid[l];
      for (auto& layer : levels[l]) {
        x = layer.forward(x, mode, true);
        if (l > 0) x = enlarged(x, 2);
      }
      sum = sum.defined() ? sum + x : x;
    }
    if (!recurrent.empty()) {
      const auto settled = settle_cell(recurrent.front(), sum, options, mode);
      sum = settled.state;
      if (penalty) *penalty = *penalty + settled.penalty;
      if (!recurrent_norm.none()) {
        const auto [scale, shift] = recurrent_norm.fold(sum, mode);
        sum = map([](auto v, auto s, auto b) { return v * s + b; }, sum, scale, shift);
      }
    }
    return enlarged(predictor.forward(sum, mode), 4);
  }

  /// options.loss_weight times the mean cross-entropy over the pixels whose label is known. Labels beyond an image, in
  /// the padding, are not.
  V loss(const V& logits, const std::vector<PanopticTruth>& truths) const {
    const Index height = logits.shape(2), width = logits.shape(3);
    Tensor<T> labels(Shape{logits.shape(0), height, width}, static_cast<T>(ignored_label));
    require(std::ssize(truths) == logits.shape(0), "semantic_head", "expected the truth of ", logits.shape(0),
            " images, got ", truths.size());
    T* label = labels.mutable_data();
    for (const PanopticTruth& truth : truths) {
      const Index rows = truth.semantic.shape(0), columns = truth.semantic.shape(1);
      require(rows <= height && columns <= width, "semantic_head", "expected a semantic map within ", height, " x ",
              width, ", got ", rows, " x ", columns);
      for (Index y = 0; y < rows; ++y)
        for (Index x = 0; x < columns; ++x)
          label[y * width + x] = static_cast<T>(truth.semantic.data()[y * columns + x]);
      label += height * width;
    }
    return options.loss_weight * cross_entropy(logits, to<Device>(labels), {.ignore = ignored_label});
  }

  void parameters(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_part(name, part, visit); });
  }
  void buffers(auto&& visit) {
    each([&](const std::string& name, auto& part) { visit_buffers(name, part, visit); });
  }

 private:
  static V enlarged(const V& x, Index times) {
    return resize(x, {times * x.shape(2), times * x.shape(3)}, Interpolation::bilinear);
  }

  void each(const auto& f) {
    for (std::size_t l = 0; l < 4; ++l)
      for (std::size_t k = 0; k < levels[l].size(); ++k)
        f(std::string("p").append(std::to_string(l + 2)) + '.' + std::to_string(2 * k), levels[l][k]);
    for (auto& cell : recurrent) f("recurrent", cell);
    f("recurrent_norm", recurrent_norm), f("predictor", predictor);
  }
};

}  // namespace settle
