#pragma once
#include <algorithm>
#include <cstdint>

#include "settle/cpu/convolution/geometry.hpp"
#include "settle/kernels/matrix_product.hpp"
#include "settle/kernels/source.hpp"

// Convolution as products of matrices, for any geometry. The patches under the kernel are the columns of a matrix, as
// on the CPU: [image][channel][tap][output pixel], for as many images, or rows of one image, as a limited scratch
// holds.
namespace settle::inline v0_2::kernels {

/// The argument of the kernels below: planes of an image, and the patches of some rows of outputs; {height, width}
/// each.
struct Patches {
  std::int32_t in[2] = {}, kernel[2] = {}, stride[2] = {}, padding[2] = {}, dilation[2] = {};
  std::int32_t first_row = 0, rows = 0, width = 0;  ///< of the outputs
  std::int32_t add = 0;                             ///< whether scatter_patches adds to what is there
};

namespace detail {
inline constexpr const char* patches_text = R"cuda(
struct Patches { int in[2], kernel[2], stride[2], padding[2], dilation[2], first_row, rows, width, add; };
)cuda";
}

/// patches[plane taps + tap][pixel] = the pixel of x that the tap reads, zero outside. Arguments: Patches, const T* x,
/// T* patches; a column of blocks for each tap of each plane.
template <class T>
const Kernel& gather_patches() {
  static const Kernel kernel = for_scalar<T>("gather_patches", std::string(detail::patches_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Patches g, const real* x, real* patches) {
  const unsigned taps = unsigned(g.kernel[0] * g.kernel[1]);
  const int tap = int(blockIdx.x % taps), pixels = g.rows * g.width;
  const int top = g.first_row * g.stride[0] + tap / g.kernel[1] * g.dilation[0] - g.padding[0];
  const int left = tap % g.kernel[1] * g.dilation[1] - g.padding[1];
  x += uint64(blockIdx.x / taps) * uint64(g.in[0]) * uint64(g.in[1]);
  patches += uint64(blockIdx.x) * uint64(pixels);
  for (int pixel = int(blockIdx.y * blockDim.x + threadIdx.x); pixel < pixels; pixel += int(gridDim.y * blockDim.x)) {
    const int row = pixel / g.width * g.stride[0] + top, column = pixel % g.width * g.stride[1] + left;
    const bool inside = row >= 0 && row < g.in[0] && column >= 0 && column < g.in[1];
    patches[pixel] = inside ? x[uint64(row) * uint64(g.in[1]) + uint64(column)] : real(0);
  }
}
)cuda",
                                             {.registers = 48}, "patches");
  return kernel;
}

/// The adjoint of gather_patches: each pixel adds up what was read from it, in the order of the taps, so that no two
/// threads write one place. Arguments: Patches, const T* patches, T* x; a column of blocks for each plane.
template <class T>
const Kernel& scatter_patches() {
  static const Kernel kernel = for_scalar<T>("scatter_patches", std::string(detail::patches_text) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Patches g, const real* patches, real* x) {
  const int pixels = g.in[0] * g.in[1];
  const int places = g.rows * g.width;
  patches += uint64(blockIdx.x) * uint64(g.kernel[0] * g.kernel[1]) * uint64(places);
  x += uint64(blockIdx.x) * uint64(pixels);
  for (int pixel = int(blockIdx.y * blockDim.x + threadIdx.x); pixel < pixels; pixel += int(gridDim.y * blockDim.x)) {
    // An output p reads row r by tap a when p stride = r + padding - a dilation.
    const int row = pixel / g.in[1] + g.padding[0] - g.first_row * g.stride[0], column = pixel % g.in[1] + g.padding[1];
    const real* of_tap = patches;
    real total = g.add ? x[pixel] : real(0);
    for (int a = 0, b = 0; a < g.kernel[0]; of_tap += places) {
      const int down = row - a * g.dilation[0], across = column - b * g.dilation[1];
      const int p = down / g.stride[0], q = across / g.stride[1];
      if (down >= 0 && across >= 0 && down == p * g.stride[0] && across == q * g.stride[1] && p < g.rows && q < g.width)
        total += of_tap[p * g.width + q];
      if (++b == g.kernel[1]) ++a, b = 0;
    }
    x[pixel] = total;
  }
}
)cuda",
                                             {.registers = 48}, "patches");
  return kernel;
}

/// A convolution and its two derivatives as launches of the kernels above, `launch(kernel, grid, arguments)`, and
/// products of matrices, `multiply(product, a, b, c)`. Scratch is counted in values.
template <class T>
class GemmConvolution {
 public:
  static constexpr Index usual_scratch = (Index{256} << 20) / static_cast<Index>(sizeof(T));

  /// The patches take about `scratch_limit` values, one row of outputs at least. `block` is the number of threads in a
  /// block. Throws Error when the convolution has nothing to add up.
  explicit GemmConvolution(const cpu::ConvGeometry& geometry, Index scratch_limit = usual_scratch, unsigned block = 256)
      : g_(geometry),
        block_(block),
        patches_are_x_(g_.taps() == 1 && g_.stride_h == 1 && g_.stride_w == 1 && g_.pad_h == 0 && g_.pad_w == 0),
        depth_(g_.in_channels / g_.groups * g_.taps()),
        outputs_(g_.out_channels / g_.groups) {
    require(g_.multiply_adds() > 0, "conv", "products of matrices serve a convolution that is not empty");
    const Index row = g_.in_channels * g_.taps() * g_.out_width();
    rows_ = patches_are_x_ ? g_.out_height() : std::clamp<Index>(scratch_limit / row, 1, g_.out_height());
    images_ = patches_are_x_ ? g_.batch : std::clamp<Index>(scratch_limit / (row * g_.out_height()), 1, g_.batch);
    scratch_ = patches_are_x_ ? 0 : images_ * rows_ * row;
  }

  /// What each product takes besides its operands.
  Index scratch() const { return scratch_; }

  /// y = conv(x, w).
  template <class Launch, class Multiply>
  void convolve(Launch&& launch, Multiply&& multiply, const T* x, const T* w, T* y, T* scratch) const {
    for_each_chunk([&](const Chunk& c) {
      const T* const patches = gather(launch, c, x, scratch);
      MatrixProduct p{.rows = outputs_,
                      .inner = depth_,
                      .columns = c.pixels(),
                      .row_a = depth_,
                      .row_b = c.pixels(),
                      .row_c = g_.out_pixels()};
      multiply_all(multiply, p, c.images, weights(w), of_patches(patches, c), of_outputs(y, c));
    });
  }

  /// dx, the derivative of <dy, conv(x, w)> by x.
  template <class Launch, class Multiply>
  void input_gradient(Launch&& launch, Multiply&& multiply, const T* dy, const T* w, T* dx, T* scratch) const {
    for_each_chunk([&](const Chunk& c) {
      T* const patches = patches_are_x_ ? dx : scratch;
      MatrixProduct p{.rows = depth_,
                      .inner = outputs_,
                      .columns = c.pixels(),
                      .transpose_a = true,
                      .row_a = depth_,
                      .row_b = g_.out_pixels(),
                      .row_c = c.pixels()};
      multiply_all(multiply, p, c.images, weights(w), of_outputs(dy, c), of_patches(patches, c));
      if (patches_are_x_) return;
      T* const to = dx + c.image * g_.in_channels * g_.in_pixels();
      run(launch, scatter_patches<T>(), c.images * g_.in_channels, g_.in_pixels(), patches_of(c), patches, to);
    });
  }

  /// dw, the derivative of <dy, conv(x, w)> by w: image after image.
  template <class Launch, class Multiply>
  void weight_gradient(Launch&& launch, Multiply&& multiply, const T* x, const T* dy, T* dw, T* scratch) const {
    for_each_chunk([&](const Chunk& c) {
      const T* const patches = gather(launch, c, x, scratch);
      const auto from = of_outputs(dy, c);
      const auto columns = of_patches(patches, c);
      MatrixProduct p{.batch = g_.groups,
                      .rows = outputs_,
                      .inner = c.pixels(),
                      .columns = depth_,
                      .transpose_b = true,
                      .row_a = g_.out_pixels(),
                      .row_b = c.pixels(),
                      .row_c = depth_,
                      .next_a = from.group,
                      .next_b = columns.group,
                      .next_c = outputs_ * depth_};
      for (Index n = 0; n < c.images; ++n) {
        p.add = c.image + n > 0 || c.row > 0;
        multiply(p, from.data + n * from.image, columns.data + n * columns.image, dw);
      }
    });
  }

 private:
  /// Some images, or some rows of outputs of one image.
  struct Chunk {
    Index image, images, row, rows, width;
    Index pixels() const { return rows * width; }
  };

  /// Where an operand's matrices are.
  template <class Value>
  struct Operand {
    Value* data;
    Index image, group;  ///< from one to the next
  };

  static std::int32_t i32(Index v) { return static_cast<std::int32_t>(v); }

  template <class F>
  void for_each_chunk(const F& f) const {
    for (Index image = 0; image < g_.batch; image += images_)
      for (Index row = 0; row < g_.out_height(); row += rows_)
        f(Chunk{image, std::min(images_, g_.batch - image), row, std::min(rows_, g_.out_height() - row),
                g_.out_width()});
  }

  Operand<const T> weights(const T* w) const { return {w, 0, outputs_ * depth_}; }
  template <class Value>
  Operand<Value> of_patches(Value* patches, const Chunk& c) const {
    return {patches, g_.groups * depth_ * c.pixels(), depth_ * c.pixels()};
  }
  template <class Value>
  Operand<Value> of_outputs(Value* y, const Chunk& c) const {
    const Index image = g_.out_channels * g_.out_pixels();
    return {y + c.image * image + c.row * c.width, image, outputs_ * g_.out_pixels()};
  }

  /// The products of all images and groups: the more numerous are the batch.
  template <class Multiply, class B, class C>
  void multiply_all(Multiply&& multiply, MatrixProduct p, Index images, Operand<const T> a, Operand<B> b,
                    Operand<C> c) const {
    const bool by_group = images >= g_.groups;
    p.batch = by_group ? images : g_.groups;
    p.next_a = by_group ? a.image : a.group;
    p.next_b = by_group ? b.image : b.group;
    p.next_c = by_group ? c.image : c.group;
    const auto offset = [&](const auto& operand, Index k) { return k * (by_group ? operand.group : operand.image); };
    for (Index k = 0; k < (by_group ? g_.groups : images); ++k)
      multiply(p, a.data + offset(a, k), b.data + offset(b, k), c.data + offset(c, k));
  }

  Patches patches_of(const Chunk& c) const {
    return {.in = {i32(g_.in_height), i32(g_.in_width)},
            .kernel = {i32(g_.kernel_height), i32(g_.kernel_width)},
            .stride = {i32(g_.stride_h), i32(g_.stride_w)},
            .padding = {i32(g_.pad_h), i32(g_.pad_w)},
            .dilation = {i32(g_.dilation_h), i32(g_.dilation_w)},
            .first_row = i32(c.row),
            .rows = i32(c.rows),
            .width = i32(c.width),
            .add = c.row > 0};
  }

  template <class Launch>
  const T* gather(Launch&& launch, const Chunk& c, const T* x, T* scratch) const {
    if (patches_are_x_) return x;
    const T* const from = x + c.image * g_.in_channels * g_.in_pixels();
    run(launch, gather_patches<T>(), c.images * g_.in_channels * g_.taps(), c.pixels(), patches_of(c), from, scratch);
    return scratch;
  }

  /// One column of blocks for each of `columns`, over `places`.
  template <class Launch>
  void run(Launch&& launch, const Kernel& kernel, Index columns, Index places, Patches patches, const T* in,
           T* out) const {
    void* arguments[] = {&patches, &in, &out};
    launch(kernel, Grid{groups_of(1, columns), std::min(groups_of(block_, places), 65535u), block_, 1}, arguments);
  }

  cpu::ConvGeometry g_;
  unsigned block_;
  bool patches_are_x_;     ///< nothing is gathered for a 1 x 1 kernel
  Index depth_, outputs_;  ///< rows of the patches, and channels of y, of a group
  Index rows_, images_, scratch_;
};

}  // namespace settle::kernels
