#pragma once
#include "settle/autodiff/tape.hpp"
#include "settle/cpu/convolution.hpp"

namespace settle {

/// How a convolution slides: per image axis (height, width).
struct ConvOptions {
  std::array<Index, 2> stride{1, 1};
  std::array<Index, 2> padding{0, 0};  ///< zeros added on both sides of each axis
  std::array<Index, 2> dilation{1, 1};
  Index groups = 1;
  ConvAlgorithm algorithm = ConvAlgorithm::automatic;

  /// Stride 1 and the padding that keeps the image's size, for a weight with odd kernel extents.
  static ConvOptions same(const Shape& weight) { return {.padding = {weight[2] / 2, weight[3] / 2}}; }
};

namespace detail {

inline cpu::ConvGeometry conv_geometry(const char* where, const Shape& x, const Shape& w, const ConvOptions& o) {
  require(x.rank() == 4, where, "expected an input (N, C, H, W), got ", x);
  require(w.rank() == 4, where, "expected a weight (O, I, kh, kw), got ", w);
  require(o.groups >= 1 && x[1] % o.groups == 0 && w[0] % o.groups == 0, where, "groups = ", o.groups,
          " must divide the input's ", x[1], " and the output's ", w[0], " channels");
  require(w[1] == x[1] / o.groups, where, "expected weight (O, I, kh, kw) with I = ", x[1] / o.groups, ", got ", w);
  for (std::size_t a = 0; a < 2; ++a) {
    const int image_axis = static_cast<int>(a) + 2;
    require(o.stride[a] >= 1 && o.dilation[a] >= 1 && o.padding[a] >= 0, where,
            "stride and dilation must be at least 1 and padding at least 0, got ", o.stride[a], ", ", o.dilation[a],
            ", ", o.padding[a]);
    require(w[image_axis] >= 1, where, "the kernel is empty: weight ", w);
    require(x[image_axis] + 2 * o.padding[a] >= o.dilation[a] * (w[image_axis] - 1) + 1, where,
            "the kernel is larger than the padded image: input ", x, ", weight ", w, ", padding ", o.padding[a]);
  }
  return {.batch = x[0],
          .in_channels = x[1],
          .in_height = x[2],
          .in_width = x[3],
          .out_channels = w[0],
          .kernel_height = w[2],
          .kernel_width = w[3],
          .stride_h = o.stride[0],
          .stride_w = o.stride[1],
          .pad_h = o.padding[0],
          .pad_w = o.padding[1],
          .dilation_h = o.dilation[0],
          .dilation_w = o.dilation[1],
          .groups = o.groups};
}

}  // namespace detail

template <class T, class D>
Var<T, D> conv_input_grad(const Var<T, D>& gy, const Var<T, D>& weight, const Shape& input, const ConvOptions& options);
template <class T, class D>
Var<T, D> conv_weight_grad(const Var<T, D>& x, const Var<T, D>& gy, const Shape& weight, const ConvOptions& options);

// The three convolutions are the three partial derivatives of one trilinear form  sum gy · conv(x, w),  so each one's
// gradient is made of the other two.

/// The cross-correlation of x (N, I, H, W) with weight (O, I / groups, kh, kw), as PyTorch's conv2d without bias:
/// y[n, o, p, q] = sum over i, a, b of x[n, i, p s + a d - pad, q s + b d - pad] weight[o, i, a, b].
/// Throws Error when the shapes do not fit.
template <class T, class D>
Var<T, D> conv(const Var<T, D>& x, const Var<T, D>& weight, const ConvOptions& options = {}) {
  const auto geometry = detail::conv_geometry("conv", x.shape(), weight.shape(), options);
  Tensor<T, D> y(Shape{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()});
  cpu::conv_forward(geometry, x.value().data(), weight.value().data(), y.mutable_data(), options.algorithm,
                    weight.value().derived());
  return record<T, D>("conv", y, {x, weight}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, conv_input_grad(g, weight, x.shape(), options));
    if (gradients.needs(1)) gradients.add(1, conv_weight_grad(x, g, weight.shape(), options));
  });
}

/// The adjoint of conv in its input (a transposed convolution): from gy (N, O, H', W') to the shape `input`.
template <class T, class D>
Var<T, D> conv_input_grad(const Var<T, D>& gy, const Var<T, D>& weight, const Shape& input, const ConvOptions& options) {
  const auto geometry = detail::conv_geometry("conv_input_grad", input, weight.shape(), options);
  const Shape expected{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()};
  require(gy.shape() == expected, "conv_input_grad", "expected an output cotangent ", expected, ", got ", gy.shape());
  Tensor<T, D> gx(input);
  cpu::conv_input_grad(geometry, gy.value().data(), weight.value().data(), gx.mutable_data(), options.algorithm,
                       weight.value().derived());
  return record<T, D>("conv_input_grad", gx, {gy, weight}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, conv(g, weight, options));
    if (gradients.needs(1)) gradients.add(1, conv_weight_grad(g, gy, weight.shape(), options));
  });
}

/// The adjoint of conv in its weight: from x (N, I, H, W) and gy (N, O, H', W') to the shape `weight`.
template <class T, class D>
Var<T, D> conv_weight_grad(const Var<T, D>& x, const Var<T, D>& gy, const Shape& weight, const ConvOptions& options) {
  const auto geometry = detail::conv_geometry("conv_weight_grad", x.shape(), weight, options);
  const Shape expected{geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width()};
  require(gy.shape() == expected, "conv_weight_grad", "expected an output cotangent ", expected, ", got ", gy.shape());
  Tensor<T, D> gw(weight);
  cpu::conv_weight_grad(geometry, x.value().data(), gy.value().data(), gw.mutable_data(), options.algorithm);
  return record<T, D>("conv_weight_grad", gw, {x, gy}, [=](const Var<T, D>& g, Cotangents<T, D>& gradients) {
    if (gradients.needs(0)) gradients.add(0, conv_input_grad(gy, g, x.shape(), options));
    if (gradients.needs(1)) gradients.add(1, conv(x, g, options));
  });
}

}  // namespace settle
