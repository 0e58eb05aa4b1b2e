#pragma once
#include <bit>
#include <limits>
#include <numeric>

#include "settle/cpu/convolution/direct.hpp"
#include "settle/cpu/convolution/weight_grad.hpp"
#include "settle/cpu/fft.hpp"
#include "settle/cpu/vectors.hpp"

// Convolution in the frequency domain, for stride 1, dilation 1 and one group. The output is cut in tiles of
// n - k + 1 pixels a side; each is the valid part of the circular convolution of an n x n tile of the input. For each
// frequency the channels mix by a complex matrix product. The weights' spectra serve the forward direction as they are
// and the input gradient conjugated and transposed.
//
// A transform spreads what it rounds, 1e-7 of the largest value in float, and what is not finite, over all of its tile.
// So tiles that are not even go the direct way: those where some value is not finite, where the transform could
// overflow, where the largest value is more than `most_uneven` times that of some part of the tile that is not zero (of
// all channels together, and about half a kernel wide), or where less than a quarter of the parts is not zero. Weights
// are held to the same.

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {
namespace detail {

/// How the outputs of a convolution are cut in tiles for transforms of n x n.
struct TilePlan {
  TilePlan(const ConvGeometry& g, int n)
      : height(n - g.kernel_height + 1),
        width(n - g.kernel_width + 1),
        rows(height > 0 ? divide_up(g.out_height(), height) : 0),
        columns(width > 0 ? divide_up(g.out_width(), width) : 0),
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

/// Some of a tile's rows and columns.
struct TilePart {
  Index top, bottom, left, right;
};

/// The tile whose element (0, 0) is the element (y, x) of a plane; of it those of `part` that are in the plane. The
/// same of the next plane is fetched.
template <class T>
TileWindow<T> tile_window(T* plane, Index height, Index width, Index y, Index x, const TilePart& part) {
  const Index top = std::clamp(-y, part.top, part.bottom), left = std::clamp(-x, part.left, part.right);
  return {.plane = plane,
          .origin = y * width + x,
          .stride = width,
          .top = static_cast<int>(top),
          .bottom = static_cast<int>(std::clamp(height - y, top, part.bottom)),
          .left = static_cast<int>(left),
          .right = static_cast<int>(std::clamp(width - x, left, part.right)),
          .next = height * width};
}

/// A matrix of complex packets: element (r, c) at data + r * row + c * column, strides in elements of T.
template <class Pointer>
struct ComplexMatrix {
  Pointer data;
  Index row, column;
};

/// Asks for two stretches of memory that are needed soon, a little of each at a time.
template <class T>
class Prefetch {
 public:
  Prefetch() = default;
  Prefetch(const T* first, Index first_size, const T* second, Index second_size)
      : first_(first), first_end_(first + first_size), second_(second), second_end_(second + second_size) {}

  SETTLE_INLINE void next() {
    constexpr int step = 128 / sizeof(T);
    if (first_ < first_end_) fetch(first_, step), first_ += step;
    if (second_ < second_end_) fetch(second_, step), second_ += step;
  }

 private:
  const T *first_ = nullptr, *first_end_ = nullptr, *second_ = nullptr, *second_end_ = nullptr;
};

/// A block of rows x columns of out (+)= left * right, the imaginary parts times `sign`. The rows of `right` have no
/// gaps.
template <int rows, int columns, class T>
SETTLE_INLINE void complex_block(const ComplexMatrix<const T*>& left, const T* right, Index depth, T sign,
                                 const ComplexMatrix<T*>& out, bool add, Prefetch<T>& soon) {
  constexpr int lanes = packet_size<T>, count = rows * columns;
  Packet<T> re[count], im[count];
  SETTLE_UNROLL for (int i = 0; i < count; ++i) re[i] = im[i] = Packet<T>{};
  const T* l = left.data;
  for (Index k = 0; k < depth; ++k, l += left.column, right += 2 * columns * lanes) {
    soon.next();
    Packet<T> right_re[columns], right_im[columns];
    SETTLE_UNROLL for (int c = 0; c < columns; ++c) {
      right_re[c] = held(load(right + 2 * c * lanes));
      right_im[c] = held(load(right + (2 * c + 1) * lanes));
    }
    SETTLE_UNROLL for (int o = 0; o < rows; ++o) {
      const Packet<T> left_re = held(load(l + o * left.row)), left_im = held(load(l + o * left.row + lanes));
      SETTLE_UNROLL for (int c = 0; c < columns; ++c) {
        const int i = o * columns + c;
        re[i] = fma(left_re, right_re[c], re[i]);
        im[i] = fma(left_re, right_im[c], im[i]);
        re[i] = fma(-left_im, right_im[c], re[i]);
        im[i] = fma(left_im, right_re[c], im[i]);
      }
    }
  }
  SETTLE_UNROLL for (int i = 0; i < count; ++i) {
    T* const at = out.data + i / columns * out.row + i % columns * out.column;
    store(at, add ? load(at) + re[i] : re[i]);
    store(at + lanes, add ? load(at + lanes) + im[i] * sign : im[i] * sign);
  }
}

/// The elements of scratch that complex_product needs.
template <class T>
constexpr Index product_scratch(Index depth, Index columns) {
  return 2 * depth * columns * packet_size<T>;
}

/// out (+)= left * right, or conj(left) * right, at one packet of frequencies. `right` is copied to `scratch` first, so
/// out may be where it was. Meanwhile fetches what is needed soon.
template <class T>
void complex_product(bool conjugate, const ComplexMatrix<const T*>& left, const ComplexMatrix<const T*>& right,
                     Index rows, Index depth, Index columns, const ComplexMatrix<T*>& out, bool add, T* scratch,
                     Prefetch<T> soon) {
  constexpr Index lanes = packet_size<T>;
  constexpr int at_once = packet_registers >= 32 ? 2 : 1;
  const T sign = conjugate ? T(-1) : T(1);  // conj(left) right = conj(left conj(right))
  T* to = scratch;
  for (Index begin = 0; begin < columns; begin += at_once)
    for (Index k = 0; k < depth; ++k)
      for (Index c = begin; c < std::min(begin + at_once, columns); ++c, to += 2 * lanes) {
        const T* const from = right.data + k * right.row + c * right.column;
        store(to, load(from));
        store(to + lanes, load(from + lanes) * sign);
      }
  const ChannelBlocks blocks(rows);
  for (Index block = 0; block < blocks.count; ++block)
    blocks.with_size(block, [&](auto size) {
      ComplexMatrix<const T*> l = left;
      ComplexMatrix<T*> o = out;
      l.data += blocks.begin(block) * left.row;
      o.data += blocks.begin(block) * out.row;
      const T* r = scratch;
      Index c = 0;
      for (; c + at_once <= columns; c += at_once, o.data += at_once * o.column, r += 2 * at_once * depth * lanes)
        complex_block<size, at_once>(l, r, depth, sign, o, add, soon);
      if (c < columns) complex_block<size, 1>(l, r, depth, sign, o, add, soon);
    });
}

/// The distance of two packets of frequencies that hold `count` complex packets each: odd, lest a transform's packets
/// fall on few sets of a cache.
template <int n, class T>
constexpr Index packet_stride(Index count) {
  return (count | 1) * TileTransform<n, T>::complex_size;
}

/// The bytes that the spectra of one round of tiles take at most: with the weights' they stay in a third-level cache.
inline constexpr Index spectra_bytes = 8 * 1024 * 1024;

/// The bytes of one tile's spectra in so many channels.
template <int n, class T>
constexpr Index tile_bytes(Index channels) {
  return TileTransform<n, T>::packets * TileTransform<n, T>::complex_size * channels * static_cast<Index>(sizeof(T));
}

/// The tiles of one round, an even number unless it is all of them, when `at_once` rounds share the caches.
template <int n, class T>
Index tiles_in_round(const ConvGeometry& g, const TilePlan& plan, int at_once = 1) {
  const Index all_bytes = at_once * plan.count * tile_bytes<n, T>(g.in_channels + g.out_channels);
  const Index rounds = divide_up(all_bytes, spectra_bytes);
  return std::min(plan.count, round_up(divide_up(plan.count, rounds), 2));
}

/// The tiles of one round where each of several threads has rounds of its own. They are longer where that leaves all
/// threads as many rounds, two at least, so that weights are read less often: an output's spectra take its input's
/// place, and with two threads 16 MB of them were faster than what a shared cache asks for.
template <int n, class T>
Index tiles_in_own_round(const ConvGeometry& g, const TilePlan& plan, int threads) {
  const Index round = tiles_in_round<n, T>(g, plan, threads);
  const Index most = 2 * spectra_bytes / (threads * tile_bytes<n, T>(std::max(g.in_channels, g.out_channels)));
  for (Index rounds = 2 * threads; plan.count / rounds > round; rounds += threads) {
    const Index longer = plan.count / rounds;
    if (longer <= most && longer % 2 == 0 && longer * rounds == plan.count) return longer;
  }
  return round;
}

/// The planes of a batch that tiles are taken from: a tile begins at its output's place less the padding; the `part` of
/// it counts, the rest is zero.
template <class T>
struct TiledPlanes {
  const T* x;
  Index channels, height, width, pad_h, pad_w;
  TilePart part;

  TileWindow<const T> window(const TilePlace& place, Index channel) const {
    return tile_window(x + (place.image * channels + channel) * height * width, height, width, place.y - pad_h,
                       place.x - pad_w, part);
  }

  /// The largest magnitude in the channels [first, end) of a tile; NaN if there is one.
  T largest(const TilePlace& place, Index first, Index end) const {
    Largest<T> found;
    for (Index channel = first; channel < end; ++channel) {
      const TileWindow<const T> tile = window(place, channel);
      for (int y = tile.top; y < tile.bottom; ++y) found.take(tile.left, tile.right, tile.at(y, 0));
    }
    return found.value();
  }
};

/// Whether two tiles, or their spectra, with these largest magnitudes may share a transform. What it rounds, or finds
/// not to be finite, reaches both: neither may be more than `ratio` times the other, or so large that the sum of a tile
/// overflows.
template <class T>
bool alike(T a, T b, T ratio = 16) {
  constexpr T most = std::numeric_limits<T>::max() / (64 * 64);
  return a <= most && b <= most && a <= ratio * b && b <= ratio * a;
}

/// The magnitudes of numbers as the integers of their bits: in the same order, with NaN above all others.
template <class T>
using Magnitude = Lane<Mask<T>>;
template <class T>
Magnitude<T> magnitude_bits(T value) {
  return std::bit_cast<Magnitude<T>>(value) & std::numeric_limits<Magnitude<T>>::max();
}

/// Raises a packet of magnitudes at `largest`, which are no less than 0, to those of some values.
template <class T>
SETTLE_INLINE void raise_to_magnitudes(T* largest, Packet<T> values) {
  const auto most = reinterpret_cast<Mask<T>>(load(largest));
  const Mask<T> bits = reinterpret_cast<Mask<T>>(values) & std::numeric_limits<Magnitude<T>>::max();
  store(largest, reinterpret_cast<Packet<T>>(bits > most ? bits : most));
}

/// The same for `count` magnitudes.
template <class T>
SETTLE_INLINE void raise_to_magnitudes(T* largest, const T* values, Index count) {
  constexpr Index lanes = packet_size<T>;
  Index k = 0;
  for (; k + lanes <= count; k += lanes) raise_to_magnitudes<T>(largest + k, load(values + k));
  if (k < count && count >= lanes)  // with some that were looked at before
    return raise_to_magnitudes<T>(largest + count - lanes, load(values + count - lanes));
  for (; k < count; ++k) largest[k] = std::bit_cast<T>(std::max(magnitude_bits(largest[k]), magnitude_bits(values[k])));
}

/// The largest magnitude of some values, NaN above all others; the smallest of those of their parts that are not zero,
/// infinite where all are; and how many parts are not zero, of how many.
template <class T>
struct Spread {
  T largest = 0, least = std::numeric_limits<T>::infinity();
  Index filled = 0, parts = 0;

  /// Of rows of magnitudes, in parts of so many rows and columns each.
  static Spread of(const T* magnitudes, Index rows, Index columns, Index part_rows, Index part_columns) {
    Magnitude<T> most = 0, fewest = std::bit_cast<Magnitude<T>>(std::numeric_limits<T>::infinity());
    Index filled = 0;
    for (Index top = 0; top < rows; top += part_rows)
      for (Index left = 0; left < columns; left += part_columns) {
        Magnitude<T> part = 0;
        for (Index y = top; y < std::min(top + part_rows, rows); ++y)
          for (Index x = left; x < std::min(left + part_columns, columns); ++x)
            part = std::max(part, std::bit_cast<Magnitude<T>>(magnitudes[y * columns + x]));
        most = std::max(most, part);
        if (part > 0) fewest = std::min(fewest, part), ++filled;
      }
    return {std::bit_cast<T>(most), std::bit_cast<T>(fewest), filled,
            divide_up(rows, part_rows) * divide_up(columns, part_columns)};
  }

  void add(const Spread& other) {
    largest = larger(largest, other.largest);
    least = std::min(least, other.least);
    filled += other.filled, parts += other.parts;
  }
  /// Whether what a transform loses of the largest value is little of every part.
  bool even() const {
    constexpr T most_uneven = 1 << 16;
    return largest == T(0) ||
           (largest <= std::numeric_limits<T>::max() && largest / most_uneven <= least && 4 * filled >= parts);
  }
};

/// The largest magnitudes of a tile, over its channels and over parts of its columns: found while its channels are
/// transformed, for a few instructions to a packet.
template <int n, class T>
class TileMagnitudes {
 public:
  /// Any kernel's reach has a whole part in it.
  explicit TileMagnitudes(const ConvGeometry& g) {
    const Index kernel = std::min(g.kernel_height, g.kernel_width);
    while (part() < 8 && 4 * part() <= kernel + 1) ++shift_;
  }

  /// The numbers that a tile takes; they start as zeros.
  Index size() const { return n / part() * n; }

  /// Takes in the packet of a channel that stands at (y, x).
  SETTLE_INLINE void take(T* largest, int y, int x, Packet<T> values) const {
    raise_to_magnitudes<T>(largest + (y >> shift_) * n + x, values);
  }

  /// Of a tile whose channels `threads` threads have taken in, each in numbers of its own, `stride` apart.
  Spread<T> spread(const TileWindow<const T>& tile, T* largest, int threads, Index stride) const {
    for (int t = 1; t < threads; ++t) raise_to_magnitudes(largest, largest + t * stride, size());
    Spread<T> out = Spread<T>::of(largest, n / part(), n, 1, part());
    const auto touched = [&](int begin, int end) { return begin < end ? divide_up(end, part()) - begin / part() : 0; };
    out.parts = Index{touched(tile.top, tile.bottom)} * touched(tile.left, tile.right);
    return out;
  }

 private:
  int part() const { return 1 << shift_; }  ///< rows and columns of a part

  int shift_ = 0;
};

/// Finds the pairs of the tiles [first, first + count), `first` being even, that must not share a transform: those of
/// two images that are not alike, as a whole or, when channels stay apart, in each of them. Sets split[pair], in a
/// part's own memory, to 1 for them and leaves the others. Returns whether it found any.
template <class T>
bool find_unlike(const TilePlan& plan, const TiledPlanes<T>& planes, bool channels_apart, Index first, Index count,
                 T* split) {
  const Index pairs = count / 2, together = channels_apart ? 1 : planes.channels;
  if (plan.rows * plan.columns % 2 == 0) return false;  // no pair has two images
  ThreadPool::instance().parallel_for(pairs, 1, [&](Index begin, Index end) {
    for (Index pair = begin; pair < end; ++pair) {
      const TilePlace a(plan, first + 2 * pair), b(plan, first + 2 * pair + 1);
      if (a.image == b.image) continue;
      for (Index channel = 0; channel < planes.channels && split[pair] == T(0); channel += together)
        if (!alike(planes.largest(a, channel, channel + together), planes.largest(b, channel, channel + together)))
          split[pair] = T(1);
    }
  });
  return std::any_of(split, split + pairs, [](T flag) { return flag != T(0); });
}

/// Spectra of the tiles [first, first + count) of all channels, [packet][channel][tile] with packets `stride` apart,
/// two tiles to a transform, but for pairs whose `split` is not 0. Tiles that have a transform of their own, such
/// pairs' and a last one without another, are multiplied by `single_scale`. Meanwhile each thread takes the tiles in,
/// in `round` magnitudes of its own.
template <int n, class T>
void transform_tiles(const TilePlan& plan, const TiledPlanes<T>& planes, Index first, Index count, const T* split,
                     T single_scale, T* spectra, Index stride, const TileMagnitudes<n, T>& magnitudes, Index round,
                     T* largest) {
  using Transform = TileTransform<n, T>;
  const Index pairs = divide_up(count, 2);
  ThreadPool::instance().parallel_for(planes.channels * pairs, 4, [&](Index begin, Index end) {
    T* const own = largest + ThreadPool::thread() * round * magnitudes.size();
    for (Index unit = begin; unit < end; ++unit) {
      const Index channel = unit / pairs, pair = unit % pairs, last = std::min(2 * pair + 2, count);
      const bool joined = 2 * pair + 1 < count && split[pair] == T(0);
      const auto window = [&](Index tile) { return planes.window(TilePlace(plan, first + tile), channel); };
      for (Index tile = 2 * pair; tile < last; tile += joined ? 2 : 1) {
        T* const to = spectra + (channel * count + tile) * Transform::complex_size;
        T* const of_a = own + tile * magnitudes.size();
        T* const of_b = joined ? of_a + magnitudes.size() : of_a;  // a single tile is joined by zeros
        Transform::forward(window(tile), joined ? window(tile + 1) : TileWindow<const T>{}, to, stride, joined,
                           [&](int y, int x, Packet<T> a, Packet<T> b) __attribute__((always_inline)) {
                             magnitudes.take(of_a, y, x, a);
                             magnitudes.take(of_b, y, x, b);
                           });
        if (joined || single_scale == T(1)) continue;
        for (Index p = 0; p < Transform::packets; ++p)
          for (Index i = 0; i < Transform::complex_size; ++i) to[p * stride + i] *= single_scale;
      }
    }
  });
}

/// Calls f(tile, its pair's spread) for the tiles that transform_tiles has taken in: what shares a transform is as one.
template <int n, class T, class F>
void each_spread(const TilePlan& plan, const TiledPlanes<T>& planes, Index first, Index count, const T* split,
                 const TileMagnitudes<n, T>& magnitudes, Index round, T* largest, int threads, const F& f) {
  if (planes.channels == 0) return;
  const auto spread = [&](Index tile) {
    return magnitudes.spread(planes.window(TilePlace(plan, first + tile), 0), largest + tile * magnitudes.size(),
                             threads, round * magnitudes.size());
  };
  for (Index tile = 0; tile < count; ++tile) {
    Spread<T> of = spread(tile);
    const bool joined = tile + 1 < count && split[tile / 2] == T(0);
    if (joined) of.add(spread(tile + 1)), f(tile++, of);
    f(tile, of);
  }
}

/// The elements of the weights' spectra, and the largest value of a tile that may be multiplied by them.
template <int n, class T>
Index spectra_size(const ConvGeometry& g) {
  return TileTransform<n, T>::packets * packet_stride<n, T>(g.in_channels * g.out_channels) + 1;
}

/// The largest value for which no transform of n x n, product with weights and inverse transform overflows; 0 where the
/// weights to some output or from some input are not even, so that all goes the direct way.
template <int n, class T>
T largest_for_weights(const ConvGeometry& g, const T* w) {
  constexpr Index part = 4;
  const Index taps = g.taps(), inputs = g.in_channels, outputs = g.out_channels;
  auto scratch = workspace<T>(taps);
  T* const largest = scratch.mutable_data();
  T most = 1;  // no sum of magnitudes to an output or from an input is larger
  const auto all_even = [&](Index channels, Index channel, Index others, Index other) {
    for (Index c = 0; c < channels; ++c) {
      std::fill_n(largest, taps, T(0));
      for (Index o = 0; o < others; ++o) raise_to_magnitudes(largest, w + c * channel + o * other, taps);
      if (!Spread<T>::of(largest, g.kernel_height, g.kernel_width, part, part).even()) return false;
      most = std::max(most, static_cast<T>(others) * std::accumulate(largest, largest + taps, T(0)));
    }
    return true;
  };
  if (!all_even(outputs, inputs * taps, inputs, taps) || !all_even(inputs, taps, outputs, inputs * taps)) return 0;
  return std::numeric_limits<T>::max() / (2 * n * n) / most;
}

/// The weights' spectra [packet][output][input]: conjugated, for the cross-correlation, and divided by n * n. Behind them
/// largest_for_weights.
template <int n, class T>
void weight_spectra(const ConvGeometry& g, const T* w, T* spectra) {
  using Transform = TileTransform<n, T>;
  const Index planes = g.out_channels * g.in_channels, pairs = divide_up(planes, 2);
  const Index stride = packet_stride<n, T>(planes);
  spectra[Transform::packets * stride] = largest_for_weights<n>(g, w);
  ThreadPool::instance().parallel_for(pairs, 4, [&](Index begin, Index end) {
    alignas(64) T both[Transform::packets * 2 * Transform::complex_size];
    const Packet<T> scale = splat(T(0.5) / (n * n));
    const auto window = [&](Index plane) {
      return tile_window(w + plane * g.taps(), g.kernel_height, g.kernel_width, 0, 0, {0, n, 0, n});
    };
    const auto largest = [&](Index plane) {
      Largest<T> found;
      found.take(0, g.taps(), w + plane * g.taps());
      return found.value();
    };
    for (Index pair = begin; pair < end; ++pair) {
      const Index first = 2 * pair, last = std::min(first + 2, planes);
      const bool joined = last - first == 2 && alike(largest(first), largest(first + 1));
      for (Index plane = first; plane < last; plane += joined ? 2 : 1) {
        Transform::forward(window(plane), joined ? window(plane + 1) : TileWindow<const T>{}, both,
                           2 * Transform::complex_size, true, [](int, int, Packet<T>, Packet<T>) {});
        for (Index p = 0; p < Transform::packets; ++p) {
          // Z = A + iB and conj Z(-f) = A - iB
          const auto z = Transform::read(both + 2 * p * Transform::complex_size);
          const auto other = Transform::read(both + (2 * p + 1) * Transform::complex_size);
          T* to = spectra + p * stride + plane * Transform::complex_size;
          Transform::write(to, {(z.re + other.re) * scale, -(z.im + other.im) * scale});
          if (joined)
            Transform::write(to + Transform::complex_size, {(z.im - other.im) * scale, (z.re - other.re) * scale});
        }
      }
    }
  });
}

/// A tile as an image of its own: the convolution without padding of what its outputs depend on.
inline ConvGeometry tile_geometry(const ConvGeometry& g, const TilePlan& plan, const TilePlace& place) {
  const Index rows = std::min(plan.height, g.out_height() - place.y), columns = std::min(plan.width, g.out_width() - place.x);
  return {1,
          g.in_channels,
          rows + g.kernel_height - 1,
          columns + g.kernel_width - 1,
          g.out_channels,
          g.kernel_height,
          g.kernel_width};
}

/// Copies its image from x (N, C, H, W).
template <class T>
void copy_tile(const ConvGeometry& g, const ConvGeometry& tile, const TilePlace& place, const T* x, T* out) {
  for (Index c = 0; c < g.in_channels; ++c)
    copy_padded(x + (place.image * g.in_channels + c) * g.in_pixels(), g.in_height, g.in_width, place.y - g.pad_h,
                place.x - g.pad_w, tile.in_height, tile.in_width, tile.in_width, out + c * tile.in_pixels());
}

/// One tile of y (+)= conv(x, w) the direct way, from packed weights.
template <class T>
void direct_tile(const ConvGeometry& g, const TilePlan& plan, const TilePlace& place, const T* x, const T* packed, T* y,
                 bool add) {
  const ConvGeometry tile = tile_geometry(g, plan, place);
  auto scratch = workspace<T>(tile.in_size() + tile.out_size());
  T *const in = scratch.mutable_data(), *out = in + tile.in_size();
  copy_tile(g, tile, place, x, in);
  direct_forward(tile, in, packed, out, false);
  const Index columns = tile.out_width();
  for (Index c = 0; c < g.out_channels; ++c) {
    T* to = y + ((place.image * g.out_channels + c) * g.out_height() + place.y) * g.out_width() + place.x;
    for (Index row = 0; row < tile.out_height(); ++row, to += g.out_width(), out += columns)
      for (Index k = 0; k < columns; ++k) to[k] = add ? to[k] + out[k] : out[k];
  }
}

/// y (+)= conv(x, w) from the weights' spectra, or, when transposed, gx from gy (as x and y). Where tiles are not even,
/// packed() gives the weights for the direct way.
template <int n, class T, class Packed>
void fft_apply(const ConvGeometry& forward, const T* x, const T* weights, bool transpose, T* y, bool add,
               const Packed& packed) {
  using Transform = TileTransform<n, T>;
  constexpr Index complex_size = Transform::complex_size;
  const ConvGeometry g = transpose ? transposed(forward) : forward;
  const TilePlan plan(g, n);
  const Index inputs = g.in_channels, outputs = g.out_channels, height = g.out_height(), width = g.out_width();
  ThreadPool& pool = ThreadPool::instance();
  // Threads with rounds of their own wait for each other once, not three times a round.
  const int threads = pool.threads_for(Transform::packets);
  const Index own_round = tiles_in_own_round<n, T>(g, plan, threads);
  const bool apart = threads > 1 && 2 * threads * own_round <= plan.count;
  const Index round = apart ? own_round : tiles_in_round<n, T>(g, plan), rounds = divide_up(plan.count, round);
  const Index w_stride = packet_stride<n, T>(inputs * outputs);
  const Index stride = packet_stride<n, T>(std::max(inputs, outputs) * round);
  const Index product_size = product_scratch<T>(inputs, round), products = (apart ? 1 : threads) * product_size;
  const Index splits = round_up(divide_up(round, 2), packet_size<T>);
  const TileMagnitudes<n, T> magnitudes(g);
  const Index all_magnitudes = (apart ? 1 : threads) * round * magnitudes.size();
  const Index share = Transform::packets * stride + products + splits + all_magnitudes;
  auto scratch = workspace<T>((apart ? threads : 1) * share + plan.count);
  T* const scratch_data = scratch.mutable_data();
  T* const uneven = scratch_data + (apart ? threads : 1) * share;  // of each tile, 0 or 1
  const T most = weights[Transform::packets * w_stride];
  const Index row = transpose ? g.kernel_height - 1 : 0, column = transpose ? g.kernel_width - 1 : 0;
  const TilePart valid{row, row + plan.height, column, column + plan.width};  // of the circular convolution
  const TiledPlanes<T> planes{x, inputs, g.in_height, g.in_width, g.pad_h, g.pad_w, {0, n, 0, n}};
  const auto convolve = [&](Index first) {
    T* const spectra = scratch_data + pool.thread() * share;  // x's, then y's in their place
    T* const product = spectra + Transform::packets * stride;
    T* const split = product + products;
    T* const largest = split + splits;
    std::fill_n(split, splits + all_magnitudes, T(0));
    const Index count = std::min(round, plan.count - first), pairs = divide_up(count, 2);
    const bool all_joined = !find_unlike(plan, planes, false, first, count, split);
    transform_tiles<n>(plan, planes, first, count, split, T(1), spectra, stride, magnitudes, round, largest);
    each_spread(plan, planes, first, count, split, magnitudes, round, largest, apart ? 1 : threads,
                [&](Index tile, const Spread<T>& of) {
                  uneven[first + tile] = of.even() && of.largest <= most ? T(0) : T(1);
                });
    pool.parallel_for(Transform::packets, 1, [&](Index begin, Index end) {
      for (Index p = begin; p < end; ++p) {
        const T* const w = weights + p * w_stride;
        T* const at = spectra + p * stride;
        const Index row_stride = count * complex_size;
        // Where a joined pair's frequencies are their own negatives, its second column is not read.
        const Index each = all_joined && Transform::self_conjugate(p) ? 2 : 1, columns = divide_up(count, each);
        const Index column_stride = each * complex_size;
        complex_product<T>(
            transpose,
            {w, transpose ? complex_size : inputs * complex_size, transpose ? outputs * complex_size : complex_size},
            {at, row_stride, column_stride}, outputs, inputs, columns, {at, row_stride, column_stride}, false,
            product + pool.thread() * product_size,
            Prefetch<T>(w + w_stride, p + 1 < end ? w_stride : 0, at + stride, p + 1 < end ? inputs * row_stride : 0));
      }
    });
    pool.parallel_for(outputs * pairs, 4, [&](Index begin, Index end) {
      for (Index unit = begin; unit < end; ++unit) {
        const Index channel = unit / pairs, pair = unit % pairs, last = std::min(2 * pair + 2, count);
        const bool joined = 2 * pair + 1 < count && split[pair] == T(0);
        const T* from = spectra + (channel * count + 2 * pair) * complex_size;
        const Index second = joined ? complex_size : 0;
        const auto window = [&](Index tile) {
          if (uneven[first + tile] != T(0)) return TileWindow<T>{};
          const TilePlace place(plan, first + tile);
          return tile_window(y + (place.image * outputs + channel) * height * width, height, width, place.y - row,
                             place.x - column, valid);
        };
        const auto read = [&](int p, int c) {
          const T* const at = from + p * stride + c * second;
          fetch(at + 2 * complex_size, complex_size);  // for the next pair
          return Transform::read(at);
        };
        for (Index tile = 2 * pair; tile < last; tile += joined ? 2 : 1, from += complex_size)
          Transform::inverse(read, window(tile), joined ? window(tile + 1) : TileWindow<T>{}, add);
      }
    });
  };
  // One part is no loop to share: the loops in it are.
  pool.split(rounds, apart ? static_cast<int>(std::min<Index>(rounds, 8 * threads)) : 1,
             [&](int, Index begin, Index end) {
               for (Index r = begin; r < end; ++r) convolve(r * round);
             });
  if (std::all_of(uneven, uneven + plan.count, [](T flag) { return flag == T(0); })) return;
  const auto packed_weights = packed();
  for (Index tile = 0; tile < plan.count; ++tile)
    if (uneven[tile] != T(0)) direct_tile(g, plan, TilePlace(plan, tile), x, packed_weights.data(), y, add);
}

/// sum += the weights' gradient of one tile, the direct way.
template <class T>
void add_direct_tile(const ConvGeometry& g, const TilePlan& plan, const TilePlace& place, const T* x, const T* gy,
                     T* sum) {
  const ConvGeometry tile = tile_geometry(g, plan, place);
  auto scratch = workspace<T>(tile.in_size() + tile.out_size() + tile.weight_size());
  T *const in = scratch.mutable_data(), *const out = in + tile.in_size(), *const gw = out + tile.out_size();
  copy_tile(g, tile, place, x, in);
  for (Index c = 0; c < g.out_channels; ++c)
    copy_padded(gy + (place.image * g.out_channels + c) * g.out_pixels(), g.out_height(), g.out_width(), place.y,
                place.x, tile.out_height(), tile.out_width(), tile.out_width(), out + c * tile.out_pixels());
  direct_weight_grad(tile, in, out, gw);
  for (Index k = 0; k < g.weight_size(); ++k) sum[k] += gw[k];
}

/// gw from x and gy: the products of their tiles' spectra are summed over all tiles before one inverse transform. Tiles
/// where x or gy is not even are left out of it and added the direct way.
template <int n, class T>
void fft_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  using Transform = TileTransform<n, T>;
  constexpr Index complex_size = Transform::complex_size;
  const TilePlan plan(g, n);
  const Index inputs = g.in_channels, outputs = g.out_channels, planes = inputs * outputs;
  const Index round = tiles_in_round<n, T>(g, plan), sum_stride = packet_stride<n, T>(planes);
  const Index stride = packet_stride<n, T>((inputs + outputs) * round), x_size = inputs * round * complex_size;
  ThreadPool& pool = ThreadPool::instance();
  const Index product_size = product_scratch<T>(round, inputs);
  const int threads = pool.threads_for(Transform::packets);
  const Index splits = divide_up(round, 2);
  const TileMagnitudes<n, T> magnitudes(g);
  const Index all_magnitudes = threads * round * magnitudes.size();
  auto scratch = workspace<T>(Transform::packets * (stride + sum_stride) + threads * product_size + splits +
                              2 * (all_magnitudes + round));
  T* const sums = scratch.mutable_data();  // [packet][output][input]
  T* const x_spectra = sums + Transform::packets * sum_stride;
  T* const gy_spectra = x_spectra + x_size;  // behind x's in each packet
  T* const product = x_spectra + Transform::packets * stride;
  T* const split = product + threads * product_size;
  T* const x_largest = split + splits;
  T* const gy_largest = x_largest + all_magnitudes;
  T* const uneven = gy_largest + all_magnitudes;  // of the round's tiles, and their largest values of x
  T* const largest_of_x = uneven + round;
  Tensor<T> of_uneven;  // their gradient
  const TiledPlanes<T> of_x{x, inputs, g.in_height, g.in_width, g.pad_h, g.pad_w, {0, n, 0, n}};
  const TiledPlanes<T> of_gy{gy, outputs, g.out_height(), g.out_width(), 0, 0, {0, plan.height, 0, plan.width}};
  for (Index first = 0; first < plan.count; first += round) {
    const Index count = std::min(round, plan.count - first);
    std::fill_n(split, splits + 2 * all_magnitudes, T(0));
    // What a tile leaves in the other of its pair changes a sum only where x and gy are both unlike: x alone tells.
    find_unlike(plan, of_x, true, first, count, split);
    transform_tiles<n>(plan, of_x, first, count, split, T(1), x_spectra, stride, magnitudes, round, x_largest);
    // Both columns of a pair give the sum over its two tiles: a single tile, with one, counts double.
    transform_tiles<n>(plan, of_gy, first, count, split, T(2), gy_spectra, stride, magnitudes, round, gy_largest);
    each_spread(plan, of_x, first, count, split, magnitudes, round, x_largest, threads,
                [&](Index tile, const Spread<T>& of) {
                  uneven[tile] = of.even() ? T(0) : T(1);
                  largest_of_x[tile] = of.largest;
                });
    each_spread(plan, of_gy, first, count, split, magnitudes, round, gy_largest, threads,
                [&](Index tile, const Spread<T>& of) {
                  const double terms = 4.0 * n * n * n * n * static_cast<double>(plan.count);
                  const double most =
                      static_cast<double>(std::numeric_limits<T>::max()) / terms / static_cast<double>(of.largest);
                  if (!of.even() || !(static_cast<double>(largest_of_x[tile]) <= most)) uneven[tile] = T(1);
                });
    for (Index tile = 0; tile < count; ++tile) {
      if (uneven[tile] == T(0)) continue;
      if (of_uneven.size() == 0) of_uneven = Tensor<T>(Shape{g.weight_size()}, T(0));
      add_direct_tile(g, plan, TilePlace(plan, first + tile), x, gy, of_uneven.mutable_data());
      for (Index p = 0; p < Transform::packets; ++p)
        for (Index c = 0; c < inputs + outputs; ++c)
          std::fill_n(x_spectra + p * stride + (c < inputs ? 0 : x_size) +
                          ((c < inputs ? c : c - inputs) * count + tile) * complex_size,
                      complex_size, T(0));
    }
    pool.parallel_for(Transform::packets, 1, [&](Index begin, Index end) {
      for (Index p = begin; p < end; ++p)
        complex_product<T>(true, {gy_spectra + p * stride, count * complex_size, complex_size},
                           {x_spectra + p * stride, complex_size, count * complex_size}, outputs, count, inputs,
                           {sums + p * sum_stride, inputs * complex_size, complex_size}, first > 0,
                           product + pool.thread() * product_size,
                           Prefetch<T>(x_spectra + (p + 1) * stride, p + 1 < end ? stride : 0,
                                       sums + (p + 1) * sum_stride, p + 1 < end && first > 0 ? sum_stride : 0));
    });
  }
  // One inverse transform serves all tiles, so double precision is cheap here: it leaves out a third of the error.
  const Index taps = g.taps();
  auto results = workspace<double>(threads * 2 * taps);
  double* const results_data = results.mutable_data();
  const auto largest = [&](Index plane) {  // of its spectrum: of the whole tile, not of the taps alone
    Largest<T> found;
    for (Index p = 0; p < Transform::packets; ++p)
      found.take(0, complex_size, sums + p * sum_stride + plane * complex_size);
    return found.value();
  };
  const auto invert = [&](Index plane, bool joined, double* out) {  // of a plane, or of two that share a transform
    const T* const from = sums + plane * complex_size;
    const auto read = [&](int p, int column) {  // A; or A + iB, then A - iB
      const T* const at = from + p % Transform::packets * sum_stride;
      const int part = p / Transform::packets;
      fetch(at + (2 + column) * complex_size, complex_size);  // for the next pair
      const auto a = Transform::widened(at, part);
      if (!joined) return a;
      const auto b = Transform::widened(at + complex_size, part);
      return column == 0 ? a - times_minus_i(b) : a + times_minus_i(b);
    };
    const auto window = [&](double* to) {
      return tile_window(to, g.kernel_height, g.kernel_width, 0, 0, {0, n, 0, n});
    };
    TileTransform<n, double>::inverse(read, window(out), joined ? window(out + taps) : TileWindow<double>{});
  };
  constexpr T ratio = std::is_same_v<T, double> ? T(16) : T(1e6);  // the transform leaves 1e-16 of the one in the other
  pool.parallel_for(divide_up(planes, 2), 4, [&](Index begin, Index end) {
    double* const out = results_data + 2 * taps * pool.thread();
    for (Index plane = 2 * begin; plane < std::min(2 * end, planes); plane += 2) {
      const Index count = std::min<Index>(2, planes - plane);
      for (Index k = 0; k < count; ++k) Transform::make_real(sums + (plane + k) * complex_size, sum_stride);
      const bool joined = count == 2 && alike(largest(plane), largest(plane + 1), ratio);
      for (Index k = 0; k < count; k += joined ? 2 : 1) invert(plane + k, joined, out + k * taps);
      for (Index k = 0; k < count * taps; ++k) gw[plane * taps + k] = static_cast<T>(out[k] * (0.5 / (n * n)));
    }
  });
  for (Index k = 0; k < of_uneven.size(); ++k) gw[k] += of_uneven.data()[k];
}

}  // namespace detail
}  // namespace settle::cpu
