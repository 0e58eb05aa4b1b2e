#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>

#include "settle/cpu/convolution/geometry.hpp"
#include "settle/kernels/moments.hpp"
#include "settle/kernels/print.hpp"
#include "settle/kernels/source.hpp"

// Convolution by tiles of 64 x 64 in the frequency domain, in float32: stride 1, dilation 1, one group. Two tiles make
// the real and the imaginary part of one complex tile, which real kernels keep apart. The forward transform leaves the
// frequencies in an order of its own, which the inverse transform reads: nothing is reordered. All three products of a
// convolution are transforms, one product for each frequency, and inverse transforms.
namespace settle::inline v0_2::kernels {

/// How spectra are stored: as they are computed, or rounded to bfloat16, of 8 bits, which halves their way through
/// memory. All arithmetic is in float32, and so are sums of products over images.
enum class Spectra { float32, bfloat16 };

/// Windows of planes (images, channels, height, width) as tiles: tile t of a plane, in rows of `tiles_x`, is at (t /
/// tiles_x step_y, t % tiles_x step_x). The argument of the transforms.
struct Tiles {
  std::int32_t images = 1, channels = 1, height = 1, width = 1;
  std::int32_t tiles_y = 1, tiles_x = 1, step_y = 0, step_x = 0;
  std::int32_t origin_y = 0, origin_x = 0;  ///< where a forward transform's window begins, from the tile's place
  std::int32_t take_y = 64, take_x = 64;    ///< the part of the window that it reads; the rest is zero
  std::int32_t crop_y = 0, crop_x = 0;      ///< where in the window an inverse transform's results begin
  std::int32_t keep_y = 64, keep_x = 64;    ///< and how many there are

  /// Two tiles of one image each, or one that is left: what a transform rounds, or finds not to be finite, reaches both
  /// of its tiles, but no other image.
  Index pairs() const { return Index{images} * ((Index{tiles_y} * tiles_x + 1) / 2); }
};

/// The argument of the products: `planes` spectra of `sources` or `rows` channels.
struct SpectraProduct {
  std::int32_t planes = 0, sources = 0, rows = 0;
  std::int32_t weight_row = 0, weight_source = 0;  ///< strides, in spectra
  std::int32_t conjugate = 0;                      ///< whether the weights' spectra are conjugated
  std::int32_t add = 0;                            ///< whether correlate_spectra adds to what is there
};

namespace detail {

/// Complex numbers, and the values of spectra as they are stored.
inline std::string complex_text(Spectra storage) {
  const char* const as_computed = R"cuda(
typedef Complex Stored;
__device__ inline Complex loaded(Stored v) { return v; }
__device__ inline Stored stored(Complex v) { return v; }
)cuda";
  const char* const rounded = R"cuda(
typedef uint32 Stored;  // two bfloat16: the upper halves of float32, rounded to nearest, ties to even
__device__ inline uint32 rounded(float v) {
  const uint32 bits = __float_as_uint(v);
  return v == v ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u;
}
__device__ inline Complex loaded(Stored v) { return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)}; }
__device__ inline Stored stored(Complex v) { return rounded(v.x) | rounded(v.y) << 16; }
)cuda";
  return std::string(R"cuda(
struct alignas(8) Complex { float x, y; };  // lest each is read and written in two halves
__device__ inline Complex operator+(Complex a, Complex b) { return {a.x + b.x, a.y + b.y}; }
__device__ inline Complex operator-(Complex a, Complex b) { return {a.x - b.x, a.y - b.y}; }
__device__ inline Complex operator*(Complex a, Complex b) { return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x}; }
__device__ inline Complex conjugate(Complex a) { return {a.x, -a.y}; }
)cuda") + (storage == Spectra::float32 ? as_computed : rounded);
}

inline std::string transform_text(Spectra storage) {
  std::string out = complex_text(storage) + R"cuda(
struct Tiles {
  int images, channels, height, width, tiles_y, tiles_x, step_y, step_x, origin_y, origin_x, take_y, take_x, crop_y, crop_x, keep_y, keep_x;
};

// Where a tile's window is in the planes.
struct Place {
  uint64 plane;
  int y, x;
  bool present;

  // The first tile of a pair of one image, which: 0, or the second, which: 1.
  __device__ Place(const Tiles& g, uint64 pair, int which, int channel) {
    const int of_image = g.tiles_y * g.tiles_x, pairs = (of_image + 1) / 2;
    const int t = 2 * int(pair % uint64(pairs)) + which;
    plane = (pair / uint64(pairs) * uint64(g.channels) + uint64(channel)) * uint64(g.height) * uint64(g.width);
    y = t / g.tiles_x * g.step_y;
    x = t % g.tiles_x * g.step_x;
    present = t < of_image;
  }
};

// Times i for the inverse transform, -i for the forward one.
template <bool inverse> __device__ inline Complex turned(Complex a) {
  if (inverse) return {-a.y, a.x};
  return {a.y, -a.x};
}

template <bool inverse> __device__ inline void transform4(Complex& a, Complex& b, Complex& c, Complex& d) {
  const Complex even = a + c, odd = a - c, sum = b + d, difference = turned<inverse>(b - d);
  a = even + sum;
  b = odd + difference;
  c = even - sum;
  d = odd - difference;
}

template <bool inverse> __device__ inline void transform8(Complex* v) {
  Complex e0 = v[0], e1 = v[2], e2 = v[4], e3 = v[6], o0 = v[1], o1 = v[3], o2 = v[5], o3 = v[7];
  transform4<inverse>(e0, e1, e2, e3);
  transform4<inverse>(o0, o1, o2, o3);
  const float half = 0.70710678118654752f, sign = inverse ? half : -half;
  o1 = o1 * Complex{half, sign};
  o2 = turned<inverse>(o2);
  o3 = o3 * Complex{-half, sign};
  v[0] = e0 + o0, v[4] = e0 - o0;
  v[1] = e1 + o1, v[5] = e1 - o1;
  v[2] = e2 + o2, v[6] = e2 - o2;
  v[3] = e3 + o3, v[7] = e3 - o3;
}

// exp(-2 pi i k / 64)
__device__ const Complex root[64] = {)cuda";
  for (int k = 0; k < 64; ++k) {
    const double angle = 2 * std::numbers::pi * k / 64;
    const auto number = [](double v) { return print(static_cast<double>(static_cast<float>(v))) + "f"; };
    out += (k ? ", {" : "{") + number(std::cos(angle)) + ", " + number(-std::sin(angle)) + "}";
  }
  return out + R"cuda(};
const int row = 65;  // an odd distance, lest a column's values fall on few banks

// One half of the transforms of all lines, each unit of work eight values of a line. Place 8 k + n of a line holds, after
// the first half of a forward transform, frequency k of the values n, n + 8, ... A unit's n stands in its bits from `place`
// on: 0 where rows are read from or written to the images; 6 where neighbouring threads take neighbouring columns, or
// neighbouring rows of the tile, in which a thread's values lie side by side.
template <bool inverse, bool roots, class Load, class Store>
__device__ inline void half_transform(int place, Load load, Store store) {
  for (int unit = int(threadIdx.x); unit < 512; unit += int(blockDim.x)) {
    Complex v[8];
    for (int i = 0; i < 8; ++i) v[i] = load(unit, i);
    transform8<inverse>(v);
    for (int i = 0; i < 8; ++i) {
      if (roots) {
        const Complex w = root[(unit >> place & 7) * i];
        v[i] = v[i] * (inverse ? conjugate(w) : w);
      }
      store(unit, i, v[i]);
    }
  }
}
)cuda";
}

inline constexpr const char* product_text = R"cuda(
struct Product { int planes, sources, rows, weight_row, weight_source, conjugate, add; };
)cuda";

/// A kernel for each storage, in the order of Spectra.
template <class Text>
std::array<Kernel, 2> for_storages(const std::string& name, const Text& text, Bounds bounds) {
  return {for_scalar<float>(name, text(Spectra::float32), bounds, "convolution_fft"),
          for_scalar<float>(name + "_bfloat16", text(Spectra::bfloat16), bounds, "convolution_fft_bfloat16")};
}

}  // namespace detail

/// Spectra [pair][channel][64 * 64] of tiles. Arguments: Tiles, const float* x, float* spectra; a block for each
/// channel of each pair.
inline const Kernel& transform_tiles(Spectra wanted) {
  const auto text = [](Spectra storage) {
    return detail::transform_text(storage) + R"cuda(
extern "C" __global__ void __launch_bounds__(256) $(const Tiles g, const float* x, Stored* spectra) {
  __shared__ Complex s[64 * 65];
  const int channel = int(blockIdx.x % unsigned(g.channels));
  const uint64 pair = blockIdx.x / unsigned(g.channels);
  const Place first(g, pair, 0, channel), second(g, pair, 1, channel);
  const auto read = [&](const Place& tile, int i, int j) {
    const int y = tile.y + g.origin_y + i, across = tile.x + g.origin_x + j;
    const bool inside = tile.present && i < g.take_y && j < g.take_x && y >= 0 && y < g.height && across >= 0 && across < g.width;
    return inside ? x[tile.plane + uint64(y) * uint64(g.width) + uint64(across)] : 0.0f;
  };
  half_transform<false, true>(
      0, [&](int unit, int i) { return Complex{read(first, unit >> 3, 8 * i + (unit & 7)), read(second, unit >> 3, 8 * i + (unit & 7))}; },
      [&](int unit, int i, Complex v) { s[(unit >> 3) * row + 8 * i + (unit & 7)] = v; });
  __syncthreads();
  half_transform<false, false>(6, [&](int unit, int i) { return s[(unit & 63) * row + 8 * (unit >> 6) + i]; },
                               [&](int unit, int i, Complex v) { s[(unit & 63) * row + 8 * (unit >> 6) + i] = v; });
  __syncthreads();
  half_transform<false, true>(6, [&](int unit, int i) { return s[(8 * i + (unit >> 6)) * row + (unit & 63)]; },
                              [&](int unit, int i, Complex v) { s[(8 * i + (unit >> 6)) * row + (unit & 63)] = v; });
  __syncthreads();
  spectra += uint64(blockIdx.x) * 4096;
  half_transform<false, false>(6, [&](int unit, int i) { return s[(8 * (unit >> 6) + i) * row + (unit & 63)]; },
                               [&](int unit, int i, Complex v) { spectra[(8 * (unit >> 6) + i) * 64 + (unit & 63)] = stored(v); });
}
)cuda";
  };
  static const auto kernels = detail::for_storages("transform_tiles", text, {.registers = 96, .shared = 64 * 65 * 8});
  return kernels[static_cast<std::size_t>(wanted)];
}

/// The tiles of spectra, each value times 1 / 64^2; and, unless `moments` is null, the moments [pair][channel] of what
/// is written. Arguments: Tiles, const float* spectra, float* y, Moments* moments; a block for each channel of each
/// pair.
inline const Kernel& inverse_transform_tiles(Spectra wanted) {
  const auto text = [](Spectra storage) {
    return detail::transform_text(storage) + detail::moments_text + R"cuda(
union Shared {
  Complex tile[64 * 65];
  float origin;
  Moments<float> moments[256];
};

extern "C" __global__ void __launch_bounds__(256) $(const Tiles g, const Stored* spectra, float* y, Moments<double>* moments) {
  __shared__ Shared shared;
  Complex* const s = shared.tile;
  const int channel = int(blockIdx.x % unsigned(g.channels));
  const uint64 pair = blockIdx.x / unsigned(g.channels);
  const Place first(g, pair, 0, channel), second(g, pair, 1, channel);
  spectra += uint64(blockIdx.x) * 4096;
  half_transform<true, true>(6, [&](int unit, int i) { return loaded(spectra[(8 * (unit >> 6) + i) * 64 + (unit & 63)]); },
                             [&](int unit, int i, Complex v) { s[(8 * (unit >> 6) + i) * row + (unit & 63)] = v; });
  __syncthreads();
  half_transform<true, false>(6, [&](int unit, int i) { return s[(8 * i + (unit >> 6)) * row + (unit & 63)]; },
                              [&](int unit, int i, Complex v) { s[(8 * i + (unit >> 6)) * row + (unit & 63)] = v; });
  __syncthreads();
  half_transform<true, true>(6, [&](int unit, int i) { return s[(unit & 63) * row + 8 * (unit >> 6) + i]; },
                             [&](int unit, int i, Complex v) { s[(unit & 63) * row + 8 * (unit >> 6) + i] = v; });
  __syncthreads();
  // This thread's few values are summed about the first of them.
  float origin = 0.0f, sum = 0.0f, squares = 0.0f;
  int count = 0;
  const auto write = [&](const Place& tile, int i, int j, float value) {
    i -= g.crop_y;
    j -= g.crop_x;
    const int down = tile.y + i, across = tile.x + j;
    if (!tile.present || i < 0 || i >= g.keep_y || j < 0 || j >= g.keep_x || down >= g.height || across >= g.width) return;
    const float result = value * (1.0f / 4096);
    y[tile.plane + uint64(down) * uint64(g.width) + uint64(across)] = result;
    if (count++ == 0) origin = result;
    const float distance = result - origin;
    sum += distance;
    squares += distance * distance;
  };
  half_transform<true, false>(0, [&](int unit, int i) { return s[(unit >> 3) * row + 8 * i + (unit & 7)]; },
                              [&](int unit, int i, Complex v) {
                                write(first, unit >> 3, 8 * i + (unit & 7), v.x);
                                write(second, unit >> 3, 8 * i + (unit & 7), v.y);
                              });
  if (!moments) return;
  // Means are merged as distances from one value of the tile, which keep their digits in float32.
  __syncthreads();
  if (threadIdx.x == 0) shared.origin = origin;
  __syncthreads();
  const float from = shared.origin, offset = count > 0 ? sum / float(count) : 0.0f;
  const Moments<float> mine = {float(count), origin - from + offset, maximum(squares - sum * offset, 0.0f)};
  const Moments<float> all = combine_row<Merged>(mine, shared.moments);
  if (threadIdx.x == 0) moments[blockIdx.x] = {double(all.count), double(from) + double(all.mean), double(all.squares)};
}
)cuda";
  };
  static const auto kernels =
      detail::for_storages("inverse_transform_tiles", text, {.registers = 96, .shared = 64 * 65 * 8});
  return kernels[static_cast<std::size_t>(wanted)];
}

/// out[p][r] = sum over s of in[p][s] weights[r weight_row + s weight_source] at each frequency; each thread has two
/// planes and four rows. Arguments: SpectraProduct, const float* in, const float* weights, float* out.
inline const Kernel& multiply_spectra(Spectra wanted) {
  const auto text = [](Spectra storage) {
    return detail::complex_text(storage) + detail::product_text + R"cuda(
const int rows_at_once = 4, planes_at_once = 2, sources_at_once = 32;

extern "C" __global__ void __launch_bounds__(256) $(const Product g, const Stored* in, const Stored* weights, Stored* out) {
  __shared__ Complex slab[rows_at_once * sources_at_once * 32];
  const unsigned groups = 4096 / blockDim.x;
  const unsigned frequency = blockIdx.x % groups * blockDim.x + threadIdx.x;
  const int first_row = int(blockIdx.x / groups) * rows_at_once;
  const int first_plane = int(blockIdx.y * blockDim.y + threadIdx.y) * planes_at_once;
  Complex total[planes_at_once][rows_at_once];
  for (int p = 0; p < planes_at_once; ++p)
    for (int r = 0; r < rows_at_once; ++r) total[p][r] = {0.0f, 0.0f};
  for (int from = 0; from < g.sources; from += sources_at_once) {
    const int sources = g.sources - from < sources_at_once ? g.sources - from : sources_at_once;
    __syncthreads();
    for (int k = int(threadIdx.y); k < sources * rows_at_once; k += int(blockDim.y)) {
      const int r = first_row + k % rows_at_once, s = from + k / rows_at_once;
      Complex w = {0.0f, 0.0f};
      if (r < g.rows) w = loaded(weights[uint64(r * g.weight_row + s * g.weight_source) * 4096 + frequency]);
      if (g.conjugate) w.y = -w.y;
      slab[unsigned(k) * blockDim.x + threadIdx.x] = w;
    }
    __syncthreads();
    for (int s = 0; s < sources; ++s) {
      Complex value[planes_at_once];
      for (int p = 0; p < planes_at_once; ++p) {
        value[p] = {0.0f, 0.0f};
        if (first_plane + p < g.planes)
          value[p] = loaded(in[(uint64(first_plane + p) * uint64(g.sources) + uint64(from + s)) * 4096 + frequency]);
      }
      for (int r = 0; r < rows_at_once; ++r) {
        const Complex w = slab[unsigned(s * rows_at_once + r) * blockDim.x + threadIdx.x];
        for (int p = 0; p < planes_at_once; ++p) {
          total[p][r].x += w.x * value[p].x - w.y * value[p].y;
          total[p][r].y += w.x * value[p].y + w.y * value[p].x;
        }
      }
    }
  }
  for (int p = 0; p < planes_at_once; ++p)
    for (int r = 0; r < rows_at_once; ++r)
      if (first_plane + p < g.planes && first_row + r < g.rows)
        out[(uint64(first_plane + p) * uint64(g.rows) + uint64(first_row + r)) * 4096 + frequency] = stored(total[p][r]);
}
)cuda";
  };
  static const auto kernels =
      detail::for_storages("multiply_spectra", text, {.registers = 96, .shared = 4 * 32 * 32 * 8});
  return kernels[static_cast<std::size_t>(wanted)];
}

/// out[r sources + s] = sum over p of in[p][s] conj(cotangents[p][r]) at each frequency, in the order of p, or that
/// added to what is there, as float32; each thread has four rows and four sources. Arguments: SpectraProduct, const
/// float* in, const float* cotangents, float* out.
inline const Kernel& correlate_spectra(Spectra wanted) {
  const auto text = [](Spectra storage) {
    return detail::complex_text(storage) + detail::product_text + R"cuda(
const int side = 4;

extern "C" __global__ void __launch_bounds__(256) $(const Product g, const Stored* in, const Stored* cotangents, Complex* out) {
  const unsigned groups = 4096 / blockDim.x;
  const unsigned frequency = blockIdx.x % groups * blockDim.x + threadIdx.x;
  const int blocks_of_sources = (g.sources + side - 1) / side;
  const int block = int(blockIdx.x / groups * blockDim.y + threadIdx.y);
  const int first_row = block / blocks_of_sources * side, first_source = block % blocks_of_sources * side;
  if (first_row >= g.rows) return;
  Complex total[side][side];
  for (int r = 0; r < side; ++r)
    for (int s = 0; s < side; ++s) total[r][s] = {0.0f, 0.0f};
  for (int p = 0; p < g.planes; ++p) {
    Complex u[side], v[side];
    for (int k = 0; k < side; ++k) {
      u[k] = {0.0f, 0.0f};
      v[k] = {0.0f, 0.0f};
      if (first_row + k < g.rows)
        u[k] = loaded(cotangents[(uint64(p) * uint64(g.rows) + uint64(first_row + k)) * 4096 + frequency]);
      if (first_source + k < g.sources)
        v[k] = loaded(in[(uint64(p) * uint64(g.sources) + uint64(first_source + k)) * 4096 + frequency]);
    }
    for (int r = 0; r < side; ++r)
      for (int s = 0; s < side; ++s) {
        total[r][s].x += v[s].x * u[r].x + v[s].y * u[r].y;
        total[r][s].y += v[s].y * u[r].x - v[s].x * u[r].y;
      }
  }
  for (int r = 0; r < side; ++r)
    for (int s = 0; s < side; ++s)
      if (first_row + r < g.rows && first_source + s < g.sources) {
        Complex& to = out[uint64((first_row + r) * g.sources + first_source + s) * 4096 + frequency];
        to = g.add ? to + total[r][s] : total[r][s];
      }
}
)cuda";
  };
  static const auto kernels = detail::for_storages("correlate_spectra", text, {.registers = 128});
  return kernels[static_cast<std::size_t>(wanted)];
}

/// A convolution and its two derivatives as launches of the kernels above, a chunk of images after the other;
/// `launch(kernel, grid, arguments)`. Spectra, of either storage, are counted in floats.
class FftConvolution {
 public:
  static bool serves(const cpu::ConvGeometry& g) {
    return g.stride_h == 1 && g.stride_w == 1 && g.dilation_h == 1 && g.dilation_w == 1 && g.groups == 1 &&
           g.kernel_height <= 48 && g.kernel_width <= 48;
  }

  /// A chunk has `images` images; with 0 as many as leave its spectra in a second-level cache. `block` is the number of
  /// threads in a block. Throws Error unless the stride, the dilation and the groups are 1 and the kernel is at most
  /// 48 x 48.
  explicit FftConvolution(const cpu::ConvGeometry& geometry, Spectra storage = Spectra::float32, Index images = 0,
                          unsigned block = 256)
      : g_(geometry), storage_(storage), block_(block) {
    require(serves(g_), "conv",
            "tiles of 64 x 64 serve stride 1, dilation 1, one group and kernels up to 48 x 48, got ", g_.kernel_height,
            " x ", g_.kernel_width);
    const Index in_cache = (Index{48} << 20) / (pairs(1) * (g_.in_channels + g_.out_channels) * spectrum() * 4 + 1);
    images_ = std::clamp<Index>(images > 0 ? images : in_cache, 1, std::max<Index>(g_.batch, 1));
  }

  /// The pairs of tiles of one image: what the three products' costs go by.
  Index pairs_of_image() const { return output_tiles(1).pairs(); }

  /// One spectrum, as it is stored.
  Index spectrum() const { return storage_ == Spectra::float32 ? computed : computed / 2; }
  /// The weights' spectra, made once for all products with them.
  Index weight_spectra() const { return g_.out_channels * g_.in_channels * spectrum(); }
  /// What each product takes besides.
  Index scratch() const { return scratch_of_chunk() + g_.out_channels * g_.in_channels * computed; }
  /// The parts of each channel of y whose moments convolve() gives.
  Index parts() const {
    Index out = 0;
    for_each_chunk([&](Index, Index images) { out += output_tiles(images).pairs(); });
    return out;
  }

  template <class Launch>
  void transform_weights(Launch&& launch, const float* w, float* spectra) const {
    forward(launch, kernel_tiles(), w, spectra);
  }

  /// y = conv(x, w); and, if they are asked for, the moments [part][channel] of y.
  template <class Launch>
  void convolve(Launch&& launch, const float* x, const float* weight_spectra, float* y, float* scratch,
                Moments* moments = nullptr) const {
    for_each_chunk([&](Index image, Index images) {
      const Tiles in = windows_of_x(images), out = output_tiles(images);
      float* const product = scratch + in.pairs() * g_.in_channels * spectrum();
      forward(launch, in, x + image * size_of_x(), scratch);
      multiply(launch, {i32(in.pairs()), i32(g_.in_channels), i32(g_.out_channels), i32(g_.in_channels), 1, 1}, scratch,
               weight_spectra, product);
      inverse(launch, storage_, out, product, y + image * size_of_y(), moments);
      if (moments) moments += out.pairs() * out.channels;
    });
  }

  /// dx, the derivative of <dy, conv(x, w)> by x.
  template <class Launch>
  void input_gradient(Launch&& launch, const float* dy, const float* weight_spectra, float* dx, float* scratch) const {
    for_each_chunk([&](Index image, Index images) {
      Tiles in = input_tiles(images), out = in;
      in.channels = i32(g_.out_channels), in.height = i32(g_.out_height()), in.width = i32(g_.out_width());
      out.crop_y = i32(g_.kernel_height) - 1, out.crop_x = i32(g_.kernel_width) - 1;
      in.origin_y = i32(g_.pad_h) - out.crop_y, in.origin_x = i32(g_.pad_w) - out.crop_x;
      float* const product = scratch + in.pairs() * g_.out_channels * spectrum();
      forward(launch, in, dy + image * size_of_y(), scratch);
      multiply(launch, {i32(in.pairs()), i32(g_.out_channels), i32(g_.in_channels), 1, i32(g_.in_channels), 0}, scratch,
               weight_spectra, product);
      inverse(launch, storage_, out, product, dx + image * size_of_x());
    });
  }

  /// dw, the derivative of <dy, conv(x, w)> by w.
  template <class Launch>
  void weight_gradient(Launch&& launch, const float* x, const float* dy, float* dw, float* scratch) const {
    float* const product = scratch + scratch_of_chunk();
    for_each_chunk([&](Index image, Index images) {
      const Tiles in = windows_of_x(images);
      Tiles cotangents = output_tiles(images);
      cotangents.take_y = cotangents.step_y, cotangents.take_x = cotangents.step_x;
      float* const of_dy = scratch + in.pairs() * g_.in_channels * spectrum();
      forward(launch, in, x + image * size_of_x(), scratch);
      forward(launch, cotangents, dy + image * size_of_y(), of_dy);
      const SpectraProduct p{
          .planes = i32(in.pairs()), .sources = i32(g_.in_channels), .rows = i32(g_.out_channels), .add = image > 0};
      const unsigned lanes = std::min(32u, block_), rows = block_ / lanes;
      const Index blocks = (p.rows + 3) / 4 * ((p.sources + 3) / 4);
      run(launch, correlate_spectra(storage_), {groups_of(1, 4096 / lanes * groups_of(rows, blocks)), 1, lanes, rows},
          p, scratch, of_dy, product);
    });
    inverse(launch, Spectra::float32, kernel_tiles(), product, dw);
  }

 private:
  static std::int32_t i32(Index v) { return static_cast<std::int32_t>(v); }

  Index size_of_x() const { return g_.in_channels * g_.in_pixels(); }
  Index size_of_y() const { return g_.out_channels * g_.out_pixels(); }

  template <class F>
  void for_each_chunk(const F& f) const {
    for (Index image = 0; image < g_.batch; image += images_) f(image, std::min(images_, g_.batch - image));
  }

  /// Tiles that cover planes of an extent by the parts that a kernel leaves valid.
  Tiles covering(Index images, Index channels, Index height, Index width) const {
    const Index step_y = 64 - g_.kernel_height + 1, step_x = 64 - g_.kernel_width + 1;
    Tiles out;
    out.images = i32(images), out.channels = i32(channels), out.height = i32(height), out.width = i32(width);
    out.tiles_y = i32(divide_up(height, step_y)), out.tiles_x = i32(divide_up(width, step_x));
    out.step_y = out.keep_y = i32(step_y), out.step_x = out.keep_x = i32(step_x);
    return out;
  }
  Tiles output_tiles(Index images) const { return covering(images, g_.out_channels, g_.out_height(), g_.out_width()); }
  Tiles input_tiles(Index images) const { return covering(images, g_.in_channels, g_.in_height, g_.in_width); }
  /// The parts of x that the tiles of the outputs read.
  Tiles windows_of_x(Index images) const {
    Tiles out = output_tiles(images);
    out.channels = i32(g_.in_channels), out.height = i32(g_.in_height), out.width = i32(g_.in_width);
    out.origin_y = -i32(g_.pad_h), out.origin_x = -i32(g_.pad_w);
    return out;
  }
  Index scratch_of_chunk() const { return pairs(images_) * (g_.in_channels + g_.out_channels) * spectrum(); }
  Index pairs(Index images) const { return std::max(output_tiles(images).pairs(), input_tiles(images).pairs()); }
  Tiles kernel_tiles() const {
    Tiles out;
    out.channels = i32(g_.out_channels * g_.in_channels);
    out.height = i32(g_.kernel_height), out.width = i32(g_.kernel_width);
    return out;
  }

  template <class Launch, class... A>
  static void run(Launch&& launch, const Kernel& kernel, const Grid& grid, A... arguments) {
    void* addresses[] = {&arguments...};
    if (grid.blocks > 0 && grid.blocks_y > 0) launch(kernel, grid, addresses);
  }

  Grid grid_of(const Tiles& tiles) const { return {groups_of(1, tiles.pairs() * tiles.channels), 1, block_, 1}; }

  template <class Launch>
  void forward(Launch&& launch, const Tiles& tiles, const float* x, float* spectra) const {
    run(launch, transform_tiles(storage_), grid_of(tiles), tiles, x, spectra);
  }
  template <class Launch>
  void inverse(Launch&& launch, Spectra storage, const Tiles& tiles, const float* spectra, float* y,
               Moments* moments = nullptr) const {
    run(launch, inverse_transform_tiles(storage), grid_of(tiles), tiles, spectra, y, moments);
  }
  template <class Launch>
  void multiply(Launch&& launch, const SpectraProduct& p, const float* in, const float* weights, float* out) const {
    const unsigned lanes = std::min(32u, block_), rows = block_ / lanes;
    const Grid grid{groups_of(1, 4096 / lanes * groups_of(4, p.rows)), groups_of(2 * rows, p.planes), lanes, rows};
    require(grid.blocks_y <= 65535, "conv", p.planes, " pairs of tiles are too many for one launch");
    run(launch, multiply_spectra(storage_), grid, p, in, weights, out);
  }

  static constexpr Index computed = 2 * 64 * 64;  ///< the floats of a spectrum in float32

  cpu::ConvGeometry g_;
  Spectra storage_;
  unsigned block_;
  Index images_ = 1;  ///< of a chunk
};

}  // namespace settle::kernels
