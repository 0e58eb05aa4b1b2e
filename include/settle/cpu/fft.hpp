#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "settle/core/shape.hpp"
#include "settle/cpu/unroll.hpp"

// Two-dimensional Fourier transforms of small square tiles, two real tiles at a time.
//
// A pair of real tiles a, b is transformed as the one complex tile a + ib. Multiplying its spectrum Z by the spectrum
// of a real kernel convolves both at once, so the two need never be separated. Only the frequencies with
// kx = 0 ... n/2 are visited: at each stand two columns, Z(f) and conj Z(-f), which multiply by the same frequency of
// the kernel. A single tile has one column, for then they are equal.

namespace settle::cpu {

/// A packet of complex numbers.
template <class T>
struct ComplexPacket {
  Packet<T> re, im;

  friend SETTLE_INLINE ComplexPacket operator+(ComplexPacket a, ComplexPacket b) { return {a.re + b.re, a.im + b.im}; }
  friend SETTLE_INLINE ComplexPacket operator-(ComplexPacket a, ComplexPacket b) { return {a.re - b.re, a.im - b.im}; }
};

namespace detail {

template <class T>
SETTLE_INLINE ComplexPacket<T> times_minus_i(ComplexPacket<T> z) {
  return {z.im, -z.re};
}

/// z times (re + i im), the same number in all lanes.
template <class T>
SETTLE_INLINE ComplexPacket<T> rotated(ComplexPacket<T> z, T re, T im) {
  return {z.re * re - z.im * im, z.re * im + z.im * re};
}

/// The discrete Fourier transform of 3, 4, 6 or 8 numbers in registers.
template <class T>
SETTLE_INLINE std::array<ComplexPacket<T>, 3> dft(const std::array<ComplexPacket<T>, 3>& z) {
  constexpr T half = T(0.5), half_root = static_cast<T>(std::numbers::sqrt3 / 2);
  const auto sum = z[1] + z[2], turned = times_minus_i(z[1] - z[2]);
  const ComplexPacket<T> a{z[0].re - sum.re * half, z[0].im - sum.im * half};
  const ComplexPacket<T> b{turned.re * half_root, turned.im * half_root};
  return {z[0] + sum, a + b, a - b};
}

template <class T>
SETTLE_INLINE std::array<ComplexPacket<T>, 4> dft(const std::array<ComplexPacket<T>, 4>& z) {
  const auto a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = times_minus_i(z[1] - z[3]);
  return {a + c, b + d, a - c, b - d};
}

/// Without twiddles, for 2 and 3 have no common factor: with j = 3 a + 2 b modulo 6, exp(-2 pi i j k / 6) is
/// (-1)^(a k) exp(-2 pi i b k / 3).
template <class T>
SETTLE_INLINE std::array<ComplexPacket<T>, 6> dft(const std::array<ComplexPacket<T>, 6>& z) {
  const auto a = dft(std::array{z[0], z[2], z[4]}), b = dft(std::array{z[3], z[5], z[1]});
  return {a[0] + b[0], a[1] - b[1], a[2] + b[2], a[0] - b[0], a[1] + b[1], a[2] - b[2]};
}

template <class T>
SETTLE_INLINE std::array<ComplexPacket<T>, 8> dft(const std::array<ComplexPacket<T>, 8>& z) {
  const auto even = dft(std::array{z[0], z[2], z[4], z[6]});
  auto odd = dft(std::array{z[1], z[3], z[5], z[7]});
  const T half_root = static_cast<T>(std::numbers::sqrt2 / 2);
  odd[1] = {(odd[1].re + odd[1].im) * half_root, (odd[1].im - odd[1].re) * half_root};
  odd[2] = times_minus_i(odd[2]);
  odd[3] = {(odd[3].im - odd[3].re) * half_root, (odd[3].re + odd[3].im) * -half_root};
  return {even[0] + odd[0], even[1] + odd[1], even[2] + odd[2], even[3] + odd[3],
          even[0] - odd[0], even[1] - odd[1], even[2] - odd[2], even[3] - odd[3]};
}

/// exp(-2 pi i b k / n) at [b][k], for b < 8 and k < n / 8.
template <class T, int n>
struct Twiddles {
  T re[8][n / 8], im[8][n / 8];

  Twiddles() {
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < n / 8; ++k) {
        const double angle = -2 * std::numbers::pi * b * k / n;
        re[b][k] = static_cast<T>(std::cos(angle));
        im[b][k] = static_cast<T>(std::sin(angle));
      }
  }

  static const Twiddles& instance() {
    static const Twiddles table;
    return table;
  }
};

/// The discrete Fourier transform of n = 32, 48 or 64 packets, lane by lane: write(k, X_k) for
/// X_k = sum over j of read(j) exp(-2 pi i j k / n). With j = 8 a + b and k = c + (n / 8) d, sums over a, then over b.
template <int n, class T, class Read, class Write>
SETTLE_INLINE void fft(const Twiddles<T, n>& twiddles, const Read& read, const Write& write) {
  constexpr int first = n / 8;
  ComplexPacket<T> half_way[n];  // [c][b]
  for (int b = 0; b < 8; ++b) {
    std::array<ComplexPacket<T>, first> z;
    SETTLE_UNROLL for (int a = 0; a < first; ++a) z[static_cast<std::size_t>(a)] = read(8 * a + b);
    z = dft(z);
    half_way[b] = z[0];
    SETTLE_UNROLL for (int c = 1; c < first; ++c) half_way[8 * c + b] =
        rotated(z[static_cast<std::size_t>(c)], twiddles.re[b][c], twiddles.im[b][c]);
  }
  for (int c = 0; c < first; ++c) {
    std::array<ComplexPacket<T>, 8> z;
    SETTLE_UNROLL for (int b = 0; b < 8; ++b) z[static_cast<std::size_t>(b)] = half_way[8 * c + b];
    z = dft(z);
    SETTLE_UNROLL for (int d = 0; d < 8; ++d) write(c + first * d, z[static_cast<std::size_t>(d)]);
  }
}

/// One round of a transposition: of each two rows whose numbers differ in the given bit, lane i of the first becomes
/// element first(i) of the two rows' lanes one after the other, and of the second element second(i).
template <int bit, class V, class First, class Second, int lanes = packet_size<Lane<V>>>
SETTLE_INLINE void exchange(V (&rows)[lanes], First first, Second second) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    SETTLE_UNROLL for (int r = 0; r < lanes; ++r) {
      if (r & bit) continue;
      const V a = rows[r], b = rows[r | bit];
      rows[r] = __builtin_shufflevector(a, b, first(i)...);
      rows[r | bit] = __builtin_shufflevector(a, b, second(i)...);
    }
  }
  (std::make_integer_sequence<int, lanes>{});
}

/// Exchanges lanes and positions of as many packets as each has lanes. A processor exchanges faster within 16 bytes, so
/// the blocks of that size are transposed first, then moved as wholes.
template <class V, int lanes = packet_size<Lane<V>>>
SETTLE_INLINE void transpose(V (&rows)[lanes]) {
  constexpr int block = 16 / sizeof(Lane<V>), blocks = lanes / block;
  const auto interleave = [&]<int bit>(std::integral_constant<int, bit>) __attribute__((always_inline)) {
    exchange<bit>(
        rows, [](int i) { return i / block * block + i % block / 2 + i % 2 * lanes; },
        [](int i) { return i / block * block + i % block / 2 + i % 2 * lanes + block / 2; });
  };
  if constexpr (block == 4) interleave(std::integral_constant<int, 2>{});
  interleave(std::integral_constant<int, 1>{});
  // Half of a result are blocks of the first row, half of the second.
  if constexpr (blocks == 4)
    exchange<block>(
        rows, [](int i) { return i % (lanes / 2) + i / (lanes / 2) * lanes; },
        [](int i) { return i % (lanes / 2) + i / (lanes / 2) * lanes + lanes / 2; });
  if constexpr (blocks >= 2) {
    const auto even = [](int i) {
      const int half = i / (lanes / 2), k = i % (lanes / 2) / block;
      return half * lanes + 2 * k * block + i % block;
    };
    exchange<block * blocks / 2>(rows, even, [even](int i) { return even(i) + block; });
  }
  if constexpr (blocks == 4)  // the numbers of the rows have these two bits exchanged
    SETTLE_UNROLL for (int r = 0; r < block; ++r) std::swap(rows[block + r], rows[2 * block + r]);
}

/// The lanes in reverse order; when `keep_first`, lane 0 stays and the others are reversed.
template <class V>
SETTLE_INLINE V reversed(V v, bool keep_first) {
  constexpr int lanes = packet_size<Lane<V>>;
  return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return keep_first ? __builtin_shufflevector(v, v, (lanes - i) % lanes...)
                      : __builtin_shufflevector(v, v, lanes - 1 - i...);
  }
  (std::make_integer_sequence<int, lanes>{});
}

}  // namespace detail

/// A tile of a plane: its element (y, x) is the plane's element origin + y * stride + x inside a window, and zero
/// outside. The origin may lie outside the plane, the window may not. What is `next` elements behind is fetched for a
/// transform to come.
template <class T>
struct TileWindow {
  T* plane = nullptr;
  Index origin = 0, stride = 0;
  int top = 0, bottom = 0, left = 0, right = 0;
  Index next = 0;

  T* at(int y, int x) const { return plane + origin + y * stride + x; }
};

/// Transforms of n x n tiles, n = 32, 48 or 64.
///
/// Frequencies come in packets: packet j (n/2 + 1) + kx holds in lane l the frequency (ky, kx), ky = j + l n / lanes.
/// This order keeps the negatives of one packet's frequencies in one packet too, with its lanes reversed.
template <int n, class T>
class TileTransform {
 public:
  static constexpr int lanes = packet_size<T>;
  static constexpr int groups = n / lanes;        ///< packets along one side
  static constexpr int half = n / 2 + 1;          ///< the kx that are visited
  static constexpr int packets = groups * half;   ///< packets of frequencies
  static constexpr int complex_size = 2 * lanes;  ///< elements of one packet: real parts, then imaginary parts

  /// The spectrum of the tiles a + ib. Packet p is written at out + p * packet_stride, its second column behind the
  /// first if there are two. What follows there is fetched for the next pair of tiles.
  static void forward(const TileWindow<const T>& a, const TileWindow<const T>& b, T* out, Index packet_stride,
                      bool two_columns) {
    const auto& twiddles = detail::Twiddles<T, n>::instance();
    ComplexPacket<T> rows[n * groups];  // [j][x], lanes ky
    alignas(64) T edges[2][2 * n * lanes];
    for (int g = 0; g < groups; ++g) {
      const Strip strip_a(a, g, edges[0]), strip_b(b, g, edges[1]);
      if (strip_a.rows == 0 && strip_b.rows == 0) {
        for (int j = 0; j < groups; ++j) std::fill_n(rows + j * n + g * lanes, lanes, ComplexPacket<T>{});
        continue;
      }
      ComplexPacket<T> column[n];
      detail::fft<n>(
          twiddles,
          [&](int y) {
            return ComplexPacket<T>{strip_a.row(y), strip_b.row(y)};
          },
          [&](int ky, ComplexPacket<T> z) { column[ky] = z; });
      for (int j = 0; j < groups; ++j) move_block(column + j, groups, rows + j * n + g * lanes, 1);
    }
    for (int j = 0; j < groups; ++j) {
      T* const at = out + j * half * packet_stride;
      T* const negative = out + (groups - j) % groups * half * packet_stride + complex_size;
      detail::fft<n>(
          twiddles, [&](int x) { return rows[j * n + x]; },
          [&](int kx, ComplexPacket<T> z) {
            if (kx < half) {
              T* const to = at + kx * packet_stride;
              write(to, z);
              fetch(to + 2 * complex_size, 2 * complex_size);
            }
            if (two_columns && (kx == 0 || kx >= n / 2))
              write(negative + (n - kx) % n * packet_stride, conjugate_of_negative(z, j));
          });
    }
  }

  /// Writes, or when `add` adds to, the windows a and b of the tiles with the spectrum read(packet, column), times n *
  /// n. For a single tile read gives the same for both columns, and b is zero.
  template <class Read>
  static void inverse(const Read& read, const TileWindow<T>& a, const TileWindow<T>& b, bool add = false) {
    const auto& twiddles = detail::Twiddles<T, n>::instance();
    const int group_begin = std::min(a.left, b.bottom > b.top ? b.left : n) / lanes;
    const int group_end = (std::max(a.right, b.bottom > b.top ? b.right : 0) + lanes - 1) / lanes;
    // The inverse is the forward transform with real and imaginary parts exchanged before and after.
    const auto exchanged = [](ComplexPacket<T> z) { return ComplexPacket<T>{z.im, z.re}; };
    ComplexPacket<T> columns[n * groups];  // [g][ky], lanes x
    for (int j = 0; j < groups; ++j) {
      const int negative = (groups - j) % groups;
      ComplexPacket<T> row[n];
      detail::fft<n>(
          twiddles,
          [&](int kx) {
            return exchanged(kx < half ? read(j * half + kx, 0)
                                       : conjugate_of_negative(read(negative * half + n - kx, 1), j));
          },
          [&](int x, ComplexPacket<T> z) { row[x] = z; });
      for (int g = group_begin; g < group_end; ++g) move_block(row + g * lanes, 1, columns + g * n + j, groups);
    }
    alignas(64) T edges[2][n * lanes];
    for (int g = group_begin; g < group_end; ++g) {
      const OutStrip strip_a(a, g, edges[0], add), strip_b(b, g, edges[1], add);
      detail::fft<n>(
          twiddles, [&](int ky) { return columns[g * n + ky]; },
          [&](int y, ComplexPacket<T> z) {
            strip_a.put(y, z.im);
            strip_b.put(y, z.re);
          });
      strip_a.finish();
      strip_b.finish();
    }
  }

  static SETTLE_INLINE ComplexPacket<T> read(const T* p) { return {load(p), load(p + lanes)}; }
  static SETTLE_INLINE void write(T* p, ComplexPacket<T> z) {
    store(p, z.re);
    store(p + lanes, z.im);
  }

 private:
  /// The columns that a window and a group of one packet's columns share, counted from the group's first.
  struct Overlap {
    Overlap(int left, int right, int group)
        : begin(std::clamp(left - group * lanes, 0, lanes)), end(std::clamp(right - group * lanes, 0, lanes)) {}
    bool whole() const { return begin == 0 && end == lanes; }
    int begin, end;
  };

  /// A group of columns of a tile, for reading row by row. A group that the window's sides cut is copied to `edge`.
  struct Strip {
    Strip(const TileWindow<const T>& tile, int group, T* edge) : top(tile.top), stride(tile.stride), next(tile.next) {
      const Overlap overlap(tile.left, tile.right, group);
      rows = overlap.begin < overlap.end ? static_cast<unsigned>(tile.bottom - tile.top) : 0;
      if (rows == 0) return;
      first = tile.at(top, group * lanes);
      if (overlap.whole()) return;
      // Copied by packets if the window is as wide as one: what a packet holds beyond the group lies between the rows.
      const int count = static_cast<int>(rows), gap = 2 * lanes;
      T* const to = overlap.begin > 0 ? edge : edge + lanes;
      std::fill_n(edge, count * gap, T(0));
      if (tile.right - tile.left >= lanes) {
        const int begin = overlap.begin > 0 ? overlap.begin : overlap.end - lanes;
        for (int r = 0; r < count; ++r) store(to + r * gap + begin, load(tile.at(top + r, group * lanes + begin)));
      } else {
        for (int r = 0; r < count; ++r)
          for (int x = overlap.begin; x < overlap.end; ++x) to[r * gap + x] = *tile.at(top + r, group * lanes + x);
      }
      first = to;
      stride = gap;
      next = 0;
    }
    SETTLE_INLINE Packet<T> row(int y) const {
      if (static_cast<unsigned>(y - top) >= rows) return Packet<T>{};
      const T* const at = first + (y - top) * stride;
      fetch(at + next, lanes);
      return load(at);
    }

    const T* first = nullptr;
    int top;
    unsigned rows = 0;
    Index stride, next;
  };

  /// A group of columns of a tile, for writing or adding to row by row.
  struct OutStrip {
    OutStrip(const TileWindow<T>& tile, int group, T* edge, bool adding)
        : window(tile),
          overlap(tile.left, tile.right, group),
          first_column(group * lanes),
          stride(tile.stride),
          next(tile.next),
          add(adding) {
      rows = overlap.begin < overlap.end ? static_cast<unsigned>(tile.bottom - tile.top) : 0;
      if (rows == 0) return;
      first = overlap.whole() ? tile.at(tile.top, first_column) : edge;
      if (!overlap.whole()) stride = lanes, next = 0;
    }
    SETTLE_INLINE void put(int y, Packet<T> v) const {
      if (static_cast<unsigned>(y - window.top) >= rows) return;
      T* const at = first + (y - window.top) * stride;
      store(at, add && overlap.whole() ? load(at) + v : v);
      fetch(at + next, lanes);
    }
    void finish() const {
      if (overlap.whole()) return;
      for (int r = 0; r < static_cast<int>(rows); ++r)
        for (int x = overlap.begin; x < overlap.end; ++x) {
          T& to = *window.at(window.top + r, first_column + x);
          to = add ? to + first[r * lanes + x] : first[r * lanes + x];
        }
    }

    const TileWindow<T>& window;
    Overlap overlap;
    int first_column;
    unsigned rows = 0;
    Index stride, next;
    bool add;
    T* first = nullptr;
  };

  /// From Z at packet row j the conjugate at the negated frequencies, or back.
  static SETTLE_INLINE ComplexPacket<T> conjugate_of_negative(ComplexPacket<T> z, int j) {
    return {detail::reversed(z.re, j == 0), -detail::reversed(z.im, j == 0)};
  }

  /// Reads `lanes` packets `from_stride` apart and writes them, lanes and positions exchanged, `to_stride` apart.
  static SETTLE_INLINE void move_block(const ComplexPacket<T>* from, int from_stride, ComplexPacket<T>* to,
                                       int to_stride) {
    Packet<T> block[lanes];
    SETTLE_UNROLL for (int l = 0; l < lanes; ++l) block[l] = from[l * from_stride].re;
    detail::transpose(block);
    SETTLE_UNROLL for (int l = 0; l < lanes; ++l) to[l * to_stride].re = block[l];
    SETTLE_UNROLL for (int l = 0; l < lanes; ++l) block[l] = from[l * from_stride].im;
    detail::transpose(block);
    SETTLE_UNROLL for (int l = 0; l < lanes; ++l) to[l * to_stride].im = block[l];
  }
};

}  // namespace settle::cpu
