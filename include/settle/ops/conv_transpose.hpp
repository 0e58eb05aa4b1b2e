#pragma once
#include <array>

#include "settle/ops/convolution.hpp"

namespace settle::inline v0_2 {

/// How a transposed convolution slides: stride and padding of the convolution that it is the adjoint of.
struct ConvTransposeOptions {
  std::array<Index, 2> stride{1, 1};
  std::array<Index, 2> padding{0, 0};
  std::array<Index, 2> output_padding{0, 0};  ///< further rows and columns below and to the right, below the stride
};

/// The transposed convolution, as PyTorch's conv_transpose2d without bias: x (N, I, H, W) and weight (I, O, kh, kw) to
/// (N, O, (H - 1) stride - 2 padding + kh + output_padding, ...). It is the input's gradient of a convolution of O
/// channels to I, and computed by it. Throws Error when the shapes do not fit.
template <class T, class D>
Var<T, D> conv_transpose(const Var<T, D>& x, const Var<T, D>& weight, const ConvTransposeOptions& options = {}) {
  const char* where = "conv_transpose";
  const Shape &s = x.shape(), &w = weight.shape();
  require(s.rank() == 4 && w.rank() == 4 && s[1] == w[0] && s[2] >= 1 && s[3] >= 1, where,
          "expected an input (N, I, H, W) of at least one pixel and a weight (I, O, kh, kw), got ", s, " and ", w);
  Shape y{s[0], w[1]};
  for (std::size_t a = 0; a < 2; ++a) {
    const int axis = static_cast<int>(a) + 2;
    const Index stride = options.stride[a], more = options.output_padding[a];
    require(stride >= 1 && stride <= Shape::max_size / s[axis] && more >= 0 && more < stride, where,
            "expected a stride of at least 1 and an output padding below it, got ", stride, " and ", more);
    const Index extent = sum_of_extents({(s[axis] - 1) * stride, w[axis], more}) - 2 * options.padding[a];
    require(options.padding[a] >= 0 && options.padding[a] < w[axis] && extent >= 1, where,
            "expected a padding below the kernel's extents that leaves at least one pixel, got ", options.padding[a],
            " for the weight ", w);
    y.append(extent);
  }
  return conv_input_grad(x, weight, y, {.stride = options.stride, .padding = options.padding});
}

struct ConvTransposeOp {
  static constexpr const char* name = "conv_transpose";
  static void samples(auto& s) {
    const auto add = [&](const char* title, Shape x, Shape w, ConvTransposeOptions o) {
      const auto extent = [&](int axis) {
        const auto a = static_cast<std::size_t>(axis - 2);
        return (x[axis] - 1) * o.stride[a] - 2 * o.padding[a] + w[axis] + o.output_padding[a];
      };
      const Shape to{x[0], w[1], extent(2), extent(3)};
      s.add(
          title, [=](const auto& in) { return conv_transpose(in[0], in[1], o); }, {s.uniform(x), s.uniform(w)},
          [=, &s](const auto& in) {
            return s.table(to, [&](Index at) {
              const auto y = s.position(to, at);
              double sum = 0;
              for (Index k = 0; k < w.size(); ++k) {
                const auto tap = s.position(w, k);
                if (tap[1] != y[1]) continue;
                const Index row = y[2] + o.padding[0] - tap[2], column = y[3] + o.padding[1] - tap[3];
                if (row < 0 || column < 0 || row % o.stride[0] != 0 || column % o.stride[1] != 0) continue;
                const Index i = row / o.stride[0], j = column / o.stride[1];
                if (i < x[2] && j < x[3])
                  sum += in[0].data()[((y[0] * x[1] + tap[0]) * x[2] + i) * x[3] + j] * in[1].data()[k];
              }
              return sum;
            });
          });
    };
    add("2 x 2 with stride 2", {2, 3, 2, 3}, {3, 2, 2, 2}, {.stride = {2, 2}});
    add("3 x 2 with padding", {1, 2, 3, 4}, {2, 1, 3, 2}, {.padding = {1, 0}});
    add("output padding", {1, 1, 2, 3}, {1, 2, 3, 3}, {.stride = {2, 3}, .padding = {1, 1}, .output_padding = {1, 2}});
    add("no images", {0, 2, 3, 3}, {2, 1, 2, 2}, {.stride = {2, 2}});
  }
};

}  // namespace settle
