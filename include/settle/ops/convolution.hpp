#pragma once
#include "settle/autodiff/tape.hpp"
#include "settle/core/scoped_value.hpp"
#include "settle/cpu/backend.hpp"
#include "settle/ops/slice.hpp"

namespace settle::inline v0_2 {

/// While it lives, convolutions on this thread that leave the choice of the algorithm open use a given one:
/// `PreferredConvAlgorithm prefer(ConvAlgorithm::fft);`. For measurements and for tests of each algorithm.
class PreferredConvAlgorithm {
 public:
  explicit PreferredConvAlgorithm(ConvAlgorithm algorithm) : scope_(current(), algorithm) {}

  /// The algorithm asked for, or the preferred one where that is automatic.
  static ConvAlgorithm or_preferred(ConvAlgorithm asked) {
    return asked == ConvAlgorithm::automatic ? current() : asked;
  }

 private:
  static ConvAlgorithm& current() {
    thread_local ConvAlgorithm algorithm = ConvAlgorithm::automatic;
    return algorithm;
  }

  ScopedValue<ConvAlgorithm> scope_;
};

/// How a convolution slides: per image axis (height, width).
struct ConvOptions {
  std::array<Index, 2> stride{1, 1};
  std::array<Index, 2> padding{0, 0};  ///< zeros added on both sides of each axis
  std::array<Index, 2> dilation{1, 1};
  Index groups = 1;
  ConvAlgorithm algorithm = ConvAlgorithm::automatic;
  std::array<Index, 2> padding_behind{0, 0};  ///< zeros added below and to the right beside `padding`

  /// Stride 1 and the padding that keeps the image's size, as PyTorch's padding = 'same': where the zeros cannot be as
  /// many on both sides, there is one more below and to the right.
  static ConvOptions same(const Shape& weight, std::array<Index, 2> dilation = {1, 1}) {
    require(weight.rank() == 4, "conv", "expected a weight (O, I, kh, kw), got ", weight);
    ConvOptions out{.dilation = dilation};
    for (std::size_t a = 0; a < 2; ++a) {
      const Index extent = weight[static_cast<int>(a) + 2] - 1;
      require(extent >= 0 && dilation[a] >= 1 && extent <= Shape::max_size / dilation[a], "conv",
              "no padding keeps the size with weight ", weight, " and dilation ", dilation[a]);
      out.padding[a] = extent * dilation[a] / 2;
      out.padding_behind[a] = extent * dilation[a] % 2;
    }
    return out;
  }
};

namespace detail {

inline cpu::ConvGeometry conv_geometry(const char* where, const Shape& x, const Shape& w, const ConvOptions& o) {
  require(x.rank() == 4, where, "expected an input (N, C, H, W), got ", x);
  require(w.rank() == 4, where, "expected a weight (O, I, kh, kw), got ", w);
  require(o.groups >= 1 && x[1] % o.groups == 0 && w[0] % o.groups == 0, where, "groups = ", o.groups,
          " must divide the input's ", x[1], " and the output's ", w[0], " channels");
  require(w[1] == x[1] / o.groups, where, "expected an input (N, C, H, W) with C = ", w[1] * o.groups,
          " for the weight ", w, ", got ", x);
  std::array<Index, 2> stride = o.stride, dilation = o.dilation;
  for (std::size_t a = 0; a < 2; ++a) {
    const int image_axis = static_cast<int>(a) + 2;
    require(stride[a] >= 1 && dilation[a] >= 1 && o.padding[a] >= 0 && o.padding[a] <= Shape::max_size, where,
            "stride and dilation must be at least 1 and padding from 0 to ", Shape::max_size, ", got ", stride[a], ", ",
            dilation[a], ", ", o.padding[a]);
    require(w[image_axis] >= 1, where, "the kernel is empty: weight ", w);
    const Index last = x[image_axis] + 2 * o.padding[a] - 1;  // where a tap may be at most
    require(last >= 0 && w[image_axis] - 1 <= last / dilation[a], where,
            "the kernel is larger than the padded image: input ", x, ", weight ", w, ", padding ", o.padding[a],
            ", dilation ", dilation[a]);
    // What reaches no pixel changes nothing, and stays out of products that it would overflow.
    stride[a] = std::min(stride[a], last + 1);
    if (w[image_axis] == 1) dilation[a] = 1;
  }
  return {.batch = x[0],
          .in_channels = x[1],
          .in_height = x[2],
          .in_width = x[3],
          .out_channels = w[0],
          .kernel_height = w[2],
          .kernel_width = w[3],
          .stride_h = stride[0],
          .stride_w = stride[1],
          .pad_h = o.padding[0],
          .pad_w = o.padding[1],
          .dilation_h = dilation[0],
          .dilation_w = dilation[1],
          .groups = o.groups};
}

/// An image (N, C, H, W) that padding_behind was added to, and where in it the image lies; `options` are what is left.
struct PaddedBehind {
  PaddedBehind(const char* where, const Shape& image, const ConvOptions& all) : options(all), inner{{}, image, {}} {
    options.padding_behind = {0, 0};
    require(image.rank() == 4, where, "expected an input (N, C, H, W), got ", image);
    const auto [below, right] = all.padding_behind;
    require(below >= 0 && right >= 0, where, "padding_behind must be at least 0, got ", below, ", ", right);
    shape = {image[0], image[1], sum_of_extents({image[2], below}), sum_of_extents({image[3], right})};
    inner.begin = {0, 0, 0, 0};
  }
  static bool needed(const ConvOptions& options) { return options.padding_behind != std::array<Index, 2>{0, 0}; }

  ConvOptions options;
  Shape shape;
  Window inner;
};

}  // namespace detail

template <class T, class D>
Var<T, D> conv_input_grad(const Var<T, D>& gy, const Var<T, D>& weight, const Shape& input, const ConvOptions& options);
template <class T, class D>
Var<T, D> conv_weight_grad(const Var<T, D>& x, const Var<T, D>& gy, const Shape& weight, const ConvOptions& options);

namespace detail {

/// Adds the input gradient of a convolution to the cotangent of its input where it is, if the device can do that, the
/// cotangent may be written to and nothing of it is recorded.
template <class T, class D>
bool add_conv_input_grad([[maybe_unused]] const cpu::ConvGeometry& geometry, [[maybe_unused]] const Var<T, D>& gy,
                         [[maybe_unused]] const Var<T, D>& weight, [[maybe_unused]] ConvAlgorithm algorithm,
                         [[maybe_unused]] Cotangents<T, D>& gradients) {
  if constexpr (requires(T* p) {
                  Backend<D>::add_conv_input_grad(geometry, p, p, p, algorithm, weight.value().derived());
                }) {
    if (recording_tape<T, D>("conv_input_grad", std::array{gy, weight})) return false;
    if (Tensor<T, D>* const sum = gradients.in_place(0)) {
      Backend<D>::add_conv_input_grad(geometry, gy.value().data(), weight.value().data(), sum->mutable_data(),
                                      PreferredConvAlgorithm::or_preferred(algorithm), weight.value().derived());
      return true;
    }
  }
  return false;
}

}  // namespace detail

// The three convolutions are the three partial derivatives of one trilinear form  sum gy · conv(x, w),  so each one's
// gradient is made of the other two.

/// The cross-correlation of x (N, I, H, W) with weight (O, I / groups, kh, kw), as PyTorch's conv2d without bias:
/// y[n, o, p, q] = sum over i, a, b of x[n, i, p s + a d - pad, q s + b d - pad] weight[o, i, a, b].
/// Throws Error when the shapes do not fit.
template <class T, class D>
Var<T, D> conv(const Var<T, D>& x, const Var<T, D>& weight, const ConvOptions& options = {}) {
  if (detail::PaddedBehind::needed(options)) {
    const detail::PaddedBehind padded("conv", x.shape(), options);
    return conv(embed(x, padded.shape, padded.inner), weight, padded.options);
  }
  const auto geometry = detail::conv_geometry("conv", x.shape(), weight.shape(), options);
  Tensor<T, D> y(Shape{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()});
  const auto compute = [&](auto... byproduct) {
    Backend<D>::conv_forward(geometry, x.value().data(), weight.value().data(), y.mutable_data(),
                             PreferredConvAlgorithm::or_preferred(options.algorithm), weight.value().derived(),
                             byproduct...);
  };
  if constexpr (requires { Backend<D>::channel_moments(y); })  // the device may find them along the way
    compute(y.byproduct());
  else
    compute();
  return record<T, D>("conv", y, {x, weight}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0) && !detail::add_conv_input_grad(geometry, g, weight, options.algorithm, gradients))
      gradients.add(0, conv_input_grad(g, weight, x.shape(), options));
    if (gradients.needs(1)) gradients.add(1, conv_weight_grad(x, g, weight.shape(), options));
  });
}

/// The adjoint of conv in its input (a transposed convolution): from gy (N, O, H', W') to the shape `input`.
template <class T, class D>
Var<T, D> conv_input_grad(const Var<T, D>& gy, const Var<T, D>& weight, const Shape& input,
                          const ConvOptions& options) {
  if (detail::PaddedBehind::needed(options)) {
    const detail::PaddedBehind padded("conv_input_grad", input, options);
    return slice(conv_input_grad(gy, weight, padded.shape, padded.options), padded.inner);
  }
  const auto geometry = detail::conv_geometry("conv_input_grad", input, weight.shape(), options);
  const Shape expected{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()};
  require(gy.shape() == expected, "conv_input_grad", "expected an output cotangent ", expected, ", got ", gy.shape());
  Tensor<T, D> gx(input);
  Backend<D>::conv_input_grad(geometry, gy.value().data(), weight.value().data(), gx.mutable_data(),
                              PreferredConvAlgorithm::or_preferred(options.algorithm), weight.value().derived());
  return record<T, D>("conv_input_grad", gx, {gy, weight}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, conv(g, weight, options));
    if (gradients.needs(1)) gradients.add(1, conv_weight_grad(g, gy, weight.shape(), options));
  });
}

/// The adjoint of conv in its weight: from x (N, I, H, W) and gy (N, O, H', W') to the shape `weight`.
template <class T, class D>
Var<T, D> conv_weight_grad(const Var<T, D>& x, const Var<T, D>& gy, const Shape& weight, const ConvOptions& options) {
  if (detail::PaddedBehind::needed(options)) {
    const detail::PaddedBehind padded("conv_weight_grad", x.shape(), options);
    return conv_weight_grad(embed(x, padded.shape, padded.inner), gy, weight, padded.options);
  }
  const auto geometry = detail::conv_geometry("conv_weight_grad", x.shape(), weight, options);
  const Shape expected{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()};
  require(gy.shape() == expected, "conv_weight_grad", "expected an output cotangent ", expected, ", got ", gy.shape());
  Tensor<T, D> gw(weight);
  Backend<D>::conv_weight_grad(geometry, x.value().data(), gy.value().data(), gw.mutable_data(),
                               PreferredConvAlgorithm::or_preferred(options.algorithm));
  return record<T, D>("conv_weight_grad", gw, {x, gy}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, conv_input_grad(gy, g, x.shape(), options));
    if (gradients.needs(1)) gradients.add(1, conv(x, g, options));
  });
}

namespace detail {

/// The samples of one of the three convolutions, in its two operands: every algorithm on every geometry. `f` takes the
/// operands and the third shape; `term` names the operands and the result among (x, w, gy).
void convolution_samples(auto& s, auto f, std::array<std::size_t, 2> operands, std::size_t result) {
  const auto add = [&](const char* title, Shape x, Shape w, ConvOptions options) {
    const PaddedBehind padded("samples", x, options);
    const cpu::ConvGeometry g = conv_geometry("samples", padded.shape, w, padded.options);
    const std::array<Shape, 3> shapes{x, w, Shape{g.batch, g.out_channels, g.out_height(), g.out_width()}};
    const auto reference = [=, &s](const auto& in) {
      // Every term of the trilinear form sum gy[n, o, p, q] x[n, i, ...] w[o, i, a, b], with 1 for the missing operand.
      Tensor<double> out(shapes[result], 0.0);
      double* sums = out.mutable_data();
      const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
      for (Index term = 0; term < shapes[2].size() * inputs * g.kernel_height * g.kernel_width; ++term) {
        const auto t = s.position({shapes[2].size(), inputs, g.kernel_height, g.kernel_width}, term);
        const auto y = s.position(shapes[2], t[0]);
        const Index row = y[2] * g.stride_h + t[2] * g.dilation_h - g.pad_h;
        const Index column = y[3] * g.stride_w + t[3] * g.dilation_w - g.pad_w;
        if (row < 0 || row >= x[2] || column < 0 || column >= x[3]) continue;
        const Index channel = y[1] / outputs * inputs + t[1];
        const std::array<Index, 3> at{((y[0] * x[1] + channel) * x[2] + row) * x[3] + column,
                                      ((y[1] * inputs + t[1]) * g.kernel_height + t[2]) * g.kernel_width + t[3], t[0]};
        sums[at[result]] += in[0].data()[at[operands[0]]] * in[1].data()[at[operands[1]]];
      }
      return out;
    };
    for (const auto& [algorithm, label] :
         {std::pair(ConvAlgorithm::automatic, "automatic"), std::pair(ConvAlgorithm::direct, "direct"),
          std::pair(ConvAlgorithm::gemm, "gemm"), std::pair(ConvAlgorithm::fft, "fft")}) {
      options.algorithm = algorithm;
      s.add(
          s.text(title, ", ", label), [=](const auto& in) { return f(in[0], in[1], shapes[result], options); },
          {s.uniform(shapes[operands[0]]), s.uniform(shapes[operands[1]])}, reference);
    }
  };
  add("kernel 1 x 1", {2, 2, 3, 3}, {3, 2, 1, 1}, {});
  add("kernel 1 x 2", {1, 2, 3, 4}, {1, 2, 1, 2}, {.padding = {0, 1}});
  add("kernel 3 x 2", {1, 2, 4, 5}, {2, 2, 3, 2}, {.padding = {1, 0}});
  add("kernel 4 x 3", {1, 1, 5, 4}, {2, 1, 4, 3}, {.padding = {2, 1}});
  add("kernel 5 x 3", {1, 2, 5, 4}, {1, 2, 5, 3}, {.padding = {2, 1}});
  add("kernel 3 x 5, larger than the image", {2, 1, 2, 3}, {1, 1, 3, 5}, {.padding = {1, 2}});
  add("strides 2 and 3", {1, 2, 5, 7}, {2, 2, 3, 3}, {.stride = {2, 3}, .padding = {1, 1}});
  add("dilations 2 and 3", {1, 1, 6, 8}, {2, 1, 3, 2}, {.padding = {2, 1}, .dilation = {2, 3}});
  add("strides and dilations", {1, 1, 7, 6}, {1, 1, 2, 3}, {.stride = {2, 1}, .padding = {1, 2}, .dilation = {3, 2}});
  add("groups", {1, 4, 3, 4}, {4, 2, 3, 3}, {.padding = {1, 1}, .groups = 2});
  add("one group per channel, strided", {1, 3, 5, 4}, {3, 1, 2, 2}, {.stride = {2, 2}, .groups = 3});
  add("an even kernel, of the same size", {1, 2, 4, 5}, {1, 2, 4, 2}, ConvOptions::same({1, 2, 4, 2}));
  add("no images", {0, 2, 4, 4}, {2, 2, 3, 3}, {.padding = {1, 1}});
}

}  // namespace detail

struct ConvOp {
  static constexpr const char* name = "conv";
  static void samples(auto& s) {
    detail::convolution_samples(
        s, [](const auto& x, const auto& w, const Shape&, const ConvOptions& o) { return conv(x, w, o); }, {0, 1}, 2);
  }
};

struct ConvInputGradOp {
  static constexpr const char* name = "conv_input_grad";
  static void samples(auto& s) {
    detail::convolution_samples(
        s,
        [](const auto& gy, const auto& w, const Shape& x, const ConvOptions& o) {
          return conv_input_grad(gy, w, x, o);
        },
        {2, 1}, 0);
  }
};

struct ConvWeightGradOp {
  static constexpr const char* name = "conv_weight_grad";
  static void samples(auto& s) {
    detail::convolution_samples(
        s,
        [](const auto& x, const auto& gy, const Shape& w, const ConvOptions& o) {
          return conv_weight_grad(x, gy, w, o);
        },
        {0, 2}, 1);
  }
};

}  // namespace settle
