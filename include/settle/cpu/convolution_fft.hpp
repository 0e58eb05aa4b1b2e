#pragma once
#include "settle/cpu/convolution_direct.hpp"
#include "settle/cpu/fft.hpp"

// Convolution in the frequency domain, for stride 1, dilation 1 and one group. The output is cut in tiles of
// n - k + 1 pixels a side; each is the valid part of the circular convolution of an n x n tile of the input. For each
// frequency the channels mix by a complex matrix product. The weights' spectra serve the forward direction as they are
// and the input gradient conjugated and transposed.

namespace settle::cpu {
namespace detail {

/// How the outputs of a convolution are cut in tiles for transforms of n x n.
struct TilePlan {
  TilePlan(const ConvGeometry& g, int n)
      : height(n - g.kernel_height + 1),
        width(n - g.kernel_width + 1),
        rows(height > 0 ? (g.out_height() + height - 1) / height : 0),
        columns(width > 0 ? (g.out_width() + width - 1) / width : 0),
        count(g.batch * rows * columns) {}

  Index height, width;  // output pixels of a tile
  Index rows, columns;  // tiles along an image's axes
  Index count;          // tiles of the batch
};

/// One tile: its image and its first output pixel.
struct TilePlace {
  TilePlace(const TilePlan& plan, Index tile)
      : image(tile / (plan.rows * plan.columns)),
        y(tile / plan.columns % plan.rows * plan.height),
        x(tile % plan.columns * plan.width) {}

  Index image, y, x;
};

/// A matrix of complex packets: element (r, c) at data + r * row + c * column, strides in elements of T.
template <class Pointer>
struct ComplexMatrix {
  Pointer data;
  Index row, column;
};

/// A block of rows x columns of out (+)= left * right, or conj(left) * right.
template <int rows, int columns, bool conjugate, class T>
SETTLE_INLINE void complex_block(const ComplexMatrix<const T*>& left, const ComplexMatrix<const T*>& right, Index depth,
                                 const ComplexMatrix<T*>& out, bool add) {
  constexpr int lanes = packet_size<T>;
  Packet<T> re[rows * columns], im[rows * columns];
  SETTLE_UNROLL for (int i = 0; i < rows * columns; ++i) {
    const T* at = out.data + i / columns * out.row + i % columns * out.column;
    re[i] = add ? load(at) : Packet<T>{};
    im[i] = add ? load(at + lanes) : Packet<T>{};
  }
  const T* l = left.data;
  const T* r = right.data;
  for (Index k = 0; k < depth; ++k, l += left.column, r += right.row) {
    Packet<T> right_re[columns], right_im[columns];
    SETTLE_UNROLL for (int c = 0; c < columns; ++c) {
      right_re[c] = held(load(r + c * right.column));
      right_im[c] = held(load(r + c * right.column + lanes));
    }
    SETTLE_UNROLL for (int o = 0; o < rows; ++o) {
      const Packet<T> left_re = held(load(l + o * left.row)), left_im = held(load(l + o * left.row + lanes));
      SETTLE_UNROLL for (int c = 0; c < columns; ++c) {
        const int i = o * columns + c;
        re[i] = fma(left_re, right_re[c], re[i]);
        im[i] = fma(left_re, right_im[c], im[i]);
        re[i] = fma(conjugate ? left_im : -left_im, right_im[c], re[i]);
        im[i] = fma(conjugate ? -left_im : left_im, right_re[c], im[i]);
      }
    }
  }
  SETTLE_UNROLL for (int i = 0; i < rows * columns; ++i) {
    T* at = out.data + i / columns * out.row + i % columns * out.column;
    store(at, re[i]);
    store(at + lanes, im[i]);
  }
}

/// out (+)= left * right, or conj(left) * right, at one packet of frequencies.
template <bool conjugate, class T>
void complex_product(const ComplexMatrix<const T*>& left, const ComplexMatrix<const T*>& right, Index rows, Index depth,
                     Index columns, const ComplexMatrix<T*>& out, bool add) {
  constexpr int at_once = packet_registers >= 32 ? 2 : 1;
  const ChannelBlocks blocks(rows);
  for (Index block = 0; block < blocks.count; ++block)
    blocks.with_size(block, [&](auto size) {
      ComplexMatrix<const T*> l = left, r = right;
      ComplexMatrix<T*> to = out;
      l.data += blocks.begin(block) * left.row;
      to.data += blocks.begin(block) * out.row;
      Index c = 0;
      for (; c + at_once <= columns; c += at_once, r.data += at_once * r.column, to.data += at_once * to.column)
        complex_block<size, at_once, conjugate>(l, r, depth, to, add);
      for (; c < columns; ++c, r.data += r.column, to.data += to.column)
        complex_block<size, 1, conjugate>(l, r, depth, to, add);
    });
}

/// The bytes that the spectra of one round of tiles take at most: with the weights' they stay in a third-level cache.
inline constexpr Index spectra_bytes = 8 * 1024 * 1024;

/// The tiles of one round, an even number unless it is all of them.
template <int n, class T>
Index tiles_in_round(const ConvGeometry& g, const TilePlan& plan) {
  const Index tile_bytes = TileTransform<n, T>::packets * TileTransform<n, T>::complex_size *
                           (g.in_channels + g.out_channels) * static_cast<Index>(sizeof(T));
  const Index rounds = (plan.count * tile_bytes + spectra_bytes - 1) / spectra_bytes;
  return std::min(plan.count, round_up((plan.count + rounds - 1) / rounds, 2));
}

/// Spectra of the tiles [first, first + count) of all channels of x, [packet][channel][tile], two tiles to a transform.
/// Tiles are `rows` x `columns` pixels that begin at the output's place less the padding, and zero beyond.
template <int n, class T>
void transform_tiles(const TilePlan& plan, const T* x, Index channels, Index height, Index width, Index pad_h,
                     Index pad_w, Index rows, Index columns, Index first, Index count, bool double_single, T* spectra) {
  using Transform = TileTransform<n, T>;
  const Index pairs = (count + 1) / 2;
  ThreadPool::instance().parallel_for(channels * pairs, 4, [&](Index begin, Index end) {
    alignas(64) T tiles[2][n * n];
    for (Index unit = begin; unit < end; ++unit) {
      const Index channel = unit / pairs, pair = unit % pairs;
      const bool single = 2 * pair + 1 == count;
      for (Index member = 0; member < 2; ++member) {
        if (member == 1 && single) {
          std::fill_n(tiles[1], n * n, T(0));
          continue;
        }
        const TilePlace place(plan, first + 2 * pair + member);
        copy_padded(x + (place.image * channels + channel) * height * width, height, width, place.y - pad_h,
                    place.x - pad_w, rows, columns, n, tiles[member]);
        std::fill_n(tiles[member] + rows * n, (n - rows) * n, T(0));
      }
      if (single && double_single)
        for (T& v : tiles[0]) v *= 2;
      Transform::forward(tiles[0], n, tiles[1], n, columns,
                         spectra + (channel * count + 2 * pair) * Transform::complex_size,
                         channels * count * Transform::complex_size, !single);
    }
  });
}

/// The elements of the weights' spectra.
template <int n, class T>
Index spectra_size(const ConvGeometry& g) {
  return TileTransform<n, T>::packets * TileTransform<n, T>::complex_size * g.in_channels * g.out_channels;
}

/// The weights' spectra [packet][output][input]: conjugated, for the cross-correlation, and divided by n * n.
template <int n, class T>
void weight_spectra(const ConvGeometry& g, const T* w, T* spectra) {
  using Transform = TileTransform<n, T>;
  const Index planes = g.out_channels * g.in_channels, pairs = (planes + 1) / 2;
  ThreadPool::instance().parallel_for(pairs, 4, [&](Index begin, Index end) {
    alignas(64) T tiles[2][n * n];
    alignas(64) T both[Transform::packets * 2 * Transform::complex_size];
    const Packet<T> scale = splat(T(0.5) / (n * n));
    for (Index plane = 2 * begin; plane < std::min(2 * end, planes); plane += 2) {
      const bool single = plane + 1 == planes;
      std::fill_n(tiles[0], 2 * n * n, T(0));
      for (Index member = 0; member < (single ? 1 : 2); ++member)
        copy_padded(w + (plane + member) * g.taps(), g.kernel_height, g.kernel_width, 0, 0, g.kernel_height,
                    g.kernel_width, n, tiles[member]);
      Transform::forward(tiles[0], n, tiles[1], n, g.kernel_width, both, 2 * Transform::complex_size, true);
      for (Index p = 0; p < Transform::packets; ++p) {
        // Z = A + iB and conj Z(-f) = A - iB
        const auto z = Transform::read(both + 2 * p * Transform::complex_size);
        const auto other = Transform::read(both + (2 * p + 1) * Transform::complex_size);
        T* to = spectra + (p * planes + plane) * Transform::complex_size;
        Transform::write(to, {(z.re + other.re) * scale, -(z.im + other.im) * scale});
        if (!single)
          Transform::write(to + Transform::complex_size, {(z.im - other.im) * scale, (z.re - other.re) * scale});
      }
    }
  });
}

/// y = conv(x, w) from the weights' spectra, or, when transposed, gx from gy (as x and y).
template <int n, class T>
void fft_apply(const ConvGeometry& forward, const T* x, const T* weights, bool transpose, T* y) {
  using Transform = TileTransform<n, T>;
  constexpr Index complex_size = Transform::complex_size;
  const ConvGeometry g = transpose ? transposed(forward) : forward;
  const TilePlan plan(g, n);
  const Index inputs = g.in_channels, outputs = g.out_channels, height = g.out_height(), width = g.out_width();
  const Index round = tiles_in_round<n, T>(g, plan);
  auto scratch = workspace<T>(Transform::packets * complex_size * (inputs + outputs) * round);
  T* const x_spectra = scratch.mutable_data();
  T* const y_spectra = x_spectra + Transform::packets * complex_size * inputs * round;
  const int row = transpose ? static_cast<int>(g.kernel_height) - 1 : 0;  // where the circular convolution is valid
  const int column = transpose ? static_cast<int>(g.kernel_width) - 1 : 0;
  ThreadPool& pool = ThreadPool::instance();
  for (Index first = 0; first < plan.count; first += round) {
    const Index count = std::min(round, plan.count - first), pairs = (count + 1) / 2;
    transform_tiles<n>(plan, x, inputs, g.in_height, g.in_width, g.pad_h, g.pad_w, n, n, first, count, false,
                       x_spectra);
    pool.parallel_for(Transform::packets, 1, [&](Index begin, Index end) {
      for (Index p = begin; p < end; ++p) {
        const T* w = weights + p * inputs * outputs * complex_size;
        const ComplexMatrix<const T*> right{x_spectra + p * inputs * count * complex_size, count * complex_size,
                                            complex_size};
        const ComplexMatrix<T*> out{y_spectra + p * outputs * count * complex_size, count * complex_size, complex_size};
        if (transpose)
          complex_product<true>({w, complex_size, outputs * complex_size}, right, outputs, inputs, count, out, false);
        else
          complex_product<false>({w, inputs * complex_size, complex_size}, right, outputs, inputs, count, out, false);
      }
    });
    pool.parallel_for(outputs * pairs, 4, [&](Index begin, Index end) {
      alignas(64) T tiles[2][n * n];
      for (Index unit = begin; unit < end; ++unit) {
        const Index channel = unit / pairs, pair = unit % pairs;
        const bool single = 2 * pair + 1 == count;
        const T* from = y_spectra + (channel * count + 2 * pair) * complex_size;
        const Index stride = outputs * count * complex_size, second = single ? 0 : complex_size;
        Transform::inverse([&](int p, int c) { return Transform::read(from + p * stride + c * second); }, row,
                           row + static_cast<int>(plan.height), column, column + static_cast<int>(plan.width), tiles[0],
                           tiles[1]);
        for (Index member = 0; member < (single ? 1 : 2); ++member) {
          const TilePlace place(plan, first + 2 * pair + member);
          const Index columns = std::min(plan.width, width - place.x);
          const T* tile = tiles[member] + row * n + column;
          T* to = y + ((place.image * outputs + channel) * height + place.y) * width + place.x;
          for (Index r = 0; r < std::min(plan.height, height - place.y); ++r)
            std::copy_n(tile + r * n, columns, to + r * width);
        }
      }
    });
  }
}

/// gw from x and gy: the products of their tiles' spectra are summed over all tiles before one inverse transform.
template <int n, class T>
void fft_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  using Transform = TileTransform<n, T>;
  constexpr Index complex_size = Transform::complex_size;
  const TilePlan plan(g, n);
  const Index inputs = g.in_channels, outputs = g.out_channels, planes = inputs * outputs;
  const Index round = tiles_in_round<n, T>(g, plan);
  auto scratch = workspace<T>(Transform::packets * complex_size * ((inputs + outputs) * round + planes));
  T* const sums = scratch.mutable_data();  // [packet][output][input]
  T* const x_spectra = sums + Transform::packets * complex_size * planes;
  T* const gy_spectra = x_spectra + Transform::packets * complex_size * inputs * round;
  ThreadPool& pool = ThreadPool::instance();
  for (Index first = 0; first < plan.count; first += round) {
    const Index count = std::min(round, plan.count - first);
    transform_tiles<n>(plan, x, inputs, g.in_height, g.in_width, g.pad_h, g.pad_w, n, n, first, count, false,
                       x_spectra);
    // Both columns of a pair give the sum over its two tiles: a single tile, with one, counts double.
    transform_tiles<n>(plan, gy, outputs, g.out_height(), g.out_width(), 0, 0, plan.height, plan.width, first, count,
                       true, gy_spectra);
    pool.parallel_for(Transform::packets, 1, [&](Index begin, Index end) {
      for (Index p = begin; p < end; ++p)
        complex_product<true, T>({gy_spectra + p * outputs * count * complex_size, count * complex_size, complex_size},
                                 {x_spectra + p * inputs * count * complex_size, complex_size, count * complex_size},
                                 outputs, count, inputs,
                                 {sums + p * planes * complex_size, inputs * complex_size, complex_size}, first > 0);
    });
  }
  pool.parallel_for((planes + 1) / 2, 4, [&](Index begin, Index end) {
    alignas(64) T tiles[2][n * n];
    const T scale = T(0.5) / (n * n);
    for (Index plane = 2 * begin; plane < std::min(2 * end, planes); plane += 2) {
      const bool single = plane + 1 == planes;
      const T* from = sums + plane * complex_size;
      const auto read = [&](int p, int column) {  // A + iB, then A - iB
        const auto a = Transform::read(from + p * planes * complex_size);
        if (single) return a;
        const auto b = Transform::read(from + (p * planes + 1) * complex_size);
        return column == 0 ? ComplexPacket<T>{a.re - b.im, a.im + b.re} : ComplexPacket<T>{a.re + b.im, a.im - b.re};
      };
      Transform::inverse(read, 0, static_cast<int>(g.kernel_height), 0, static_cast<int>(g.kernel_width), tiles[0],
                         tiles[1]);
      for (Index member = 0; member < (single ? 1 : 2); ++member)
        for (Index tap = 0; tap < g.taps(); ++tap)
          gw[(plane + member) * g.taps() + tap] =
              tiles[member][tap / g.kernel_width * n + tap % g.kernel_width] * scale;
    }
  });
}

}  // namespace detail
}  // namespace settle::cpu
