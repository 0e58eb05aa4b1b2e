#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>

#include "settle/core/round_up.hpp"
#include "settle/core/shape.hpp"
#include "settle/cpu/transpose.hpp"

// Two-dimensional Fourier transforms of small square tiles, two real tiles at a time.
//
// A pair of real tiles a, b is transformed as the one complex tile a + ib. Multiplying its spectrum Z by the spectrum
// of a real kernel convolves both at once, so the two need never be separated. Only the frequencies with
// kx = 0 ... n/2 are visited: at each stand two columns, Z(f) and conj Z(-f), which multiply by the same frequency of
// the kernel. A single tile has one column, for then they are equal.

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

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

/// z times (re + i im), numbers or packets.
template <class T, class Factor>
SETTLE_INLINE ComplexPacket<T> rotated(ComplexPacket<T> z, Factor re, Factor im) {
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

/// The rows of the squares that transforms of T transpose.
template <class T>
inline constexpr int square_side = std::min(packet_size<T>, 8);

/// The squares that share packets: two where packets have twice as many lanes.
template <class T>
inline constexpr int joined_squares = packet_size<T> / square_side<T>;

/// One of the two that exchange_blocks makes of a and b.
template <class V>
SETTLE_INLINE V alternate_blocks(V a, V b, int which) {
  V rows[2] = {a, b};
  exchange_blocks<1>(rows);
  return rows[which];
}

/// exp(-2 pi i b k / n) at [b][k], for b < 8 and k < n / 8; and the same as the transposed squares' lanes need it, of
/// which the second of two has k + n / 16.
template <class T, int n>
struct Twiddles {
  static constexpr int lanes = packet_size<T>, squares = joined_squares<T>;
  T re[8][n / 8], im[8][n / 8];
  Packet<T> lane_re[8][n / 8 / squares], lane_im[8][n / 8 / squares];

  Twiddles() {
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < n / 8; ++k) {
        const double angle = -2 * std::numbers::pi * b * k / n;
        re[b][k] = static_cast<T>(std::cos(angle));
        im[b][k] = static_cast<T>(std::sin(angle));
      }
    constexpr int half = n / 8 / squares;
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < half; ++k)
        for (int l = 0; l < lanes; ++l) {
          const int square = l / block_lanes<T> % squares;
          lane_re[b][k][l] = re[b][k + square * half];
          lane_im[b][k][l] = im[b][k + square * half];
        }
  }

  static const Twiddles& instance() {
    static const Twiddles table;
    return table;
  }
};

/// The discrete Fourier transform of n = 32, 48 or 64 packets, lane by lane: with X_k the sum over j of read(a, b)
/// exp(-2 pi i j k / n), j = 8 a + b, write(c, z) for z[d] = X_k, k = c + (n / 8) d. Sums over a, then over b.
template <int n, class T, class Read, class Write>
SETTLE_INLINE void fft(const Twiddles<T, n>& twiddles, const Read& read, const Write& write) {
  constexpr int first = n / 8;
  ComplexPacket<T> half_way[n];  // [c][b]
  for (int b = 0; b < 8; ++b) {
    std::array<ComplexPacket<T>, first> z;
    SETTLE_UNROLL for (int a = 0; a < first; ++a) z[static_cast<std::size_t>(a)] = read(a, b);
    z = dft(z);
    half_way[b] = z[0];
    SETTLE_UNROLL for (int c = 1; c < first; ++c) half_way[8 * c + b] =
        rotated(z[static_cast<std::size_t>(c)], twiddles.re[b][c], twiddles.im[b][c]);
  }
  for (int c = 0; c < first; ++c) {
    std::array<ComplexPacket<T>, 8> z;
    SETTLE_UNROLL for (int b = 0; b < 8; ++b) z[static_cast<std::size_t>(b)] = half_way[8 * c + b];
    write(c, dft(z));
  }
}

/// The lanes in reverse order; when `keep_first`, lane 0 stays, the others of its square are reversed, and so is the
/// other square if there is one.
template <class V>
SETTLE_INLINE V reversed(V v, bool keep_first) {
  constexpr int lanes = packet_size<Lane<V>>, side = square_side<Lane<V>>;
  return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return keep_first ? __builtin_shufflevector(v, v, (i < side ? (side - i) % side : lanes + side - 1 - i)...)
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
/// Frequencies come in packets: packet j (n/2 + 1) + kx holds in lane l the frequency (ky(j, l), kx). This order keeps
/// the negatives of one packet's frequencies in one packet too, with its lanes reversed.
template <int n, class T>
class TileTransform {
 public:
  static constexpr int lanes = packet_size<T>;
  static constexpr int groups = n / lanes;        ///< packets along one side
  static constexpr int half = n / 2 + 1;          ///< the kx that are visited
  static constexpr int packets = groups * half;   ///< packets of frequencies
  static constexpr int complex_size = 2 * lanes;  ///< elements of one packet: real parts, then imaginary parts

  /// The vertical frequency in lane l of packet j of a column.
  static constexpr int ky(int j, int l) { return j + groups * (l / side) + n / side * (l % side); }

  /// Whether the negatives of a packet's frequencies stand in the same column: inverse() does not read the second one.
  static constexpr bool self_conjugate(Index packet) { return packet % half % (n / 2) == 0; }

  /// The spectrum of the tiles a + ib. Packet p is written at out + p * packet_stride, its second column behind the
  /// first if there are two. What follows there is fetched for the next pair of tiles. Each packet that was read is
  /// shown: look(y, x, of a, of b), those outside a window as zeros or not at all.
  template <class Look>
  static void forward(const TileWindow<const T>& a, const TileWindow<const T>& b, T* out, Index packet_stride,
                      bool two_columns, const Look& look) {
    const auto& twiddles = detail::Twiddles<T, n>::instance();
    ComplexPacket<T> squares[n * groups];
    alignas(64) T edges[2][2 * n * lanes];
    for (int g = 0; g < groups; ++g) {
      const Strip strip_a(a, g, edges[0]), strip_b(b, g, edges[1]);
      if (strip_a.empty && strip_b.empty) {
        for (int j = 0; j < groups; ++j) std::fill_n(squares + j * n + g * lanes, lanes, ComplexPacket<T>{});
        continue;
      }
      detail::fft<n>(
          twiddles,
          [&](int i, int k) {
            const ComplexPacket<T> z{strip_a.row(8 * i + k), strip_b.row(8 * i + k)};
            look(8 * i + k, g * lanes, z.re, z.im);
            return z;
          },
          [&](int c, const Eight& z) { write_squares(z, squares, c, g); });
    }
    for (int j = 0; j < groups; ++j) {
      T* const at = out + j * half * packet_stride;
      T* const negative = out + (groups - j) % groups * half * packet_stride + complex_size;
      const auto put = [&](int kx, ComplexPacket<T> z) {
        if (kx < half) {
          T* const to = at + kx * packet_stride;
          write(to, z);
          fetch(to + 2 * complex_size, 2 * complex_size);
        }
        if (two_columns && (kx == 0 || kx >= n / 2))
          write(negative + (n - kx) % n * packet_stride, conjugate_of_negative(z, j));
      };
      detail::fft<n>(
          twiddles,
          [&](int i, int k) { return separated(squares + j * n + i / joined * joined * 8 + k, 8, i % joined); },
          [&](int c, const Eight& z) {
            SETTLE_UNROLL for (int d = 0; d < 8; ++d) put(c + first * d, z[static_cast<std::size_t>(d)]);
          });
    }
  }

  /// Makes a rounded spectrum exactly a real tile's: in the columns kx = 0 and n/2, where a frequency and its negative
  /// both stand, each value becomes the mean of itself and the conjugate at its negative. In the spectrum of a + ib the
  /// difference would count for b.
  static void make_real(T* spectrum, Index packet_stride) {
    for (int kx = 0; kx < half; kx += n / 2)
      for (int j = 0; j <= groups / 2; ++j) {
        T* const at = spectrum + (j * half + kx) * packet_stride;
        T* const negative = spectrum + ((groups - j) % groups * half + kx) * packet_stride;
        const ComplexPacket<T> sum = read(at) + conjugate_of_negative(read(negative), j);
        const ComplexPacket<T> mean{sum.re * T(0.5), sum.im * T(0.5)};
        write(at, mean);
        write(negative, conjugate_of_negative(mean, j));
      }
  }

  /// Writes, or when `add` adds to, the windows a and b of the tiles with the spectrum read(packet, column), times n *
  /// n. For a single tile read gives the same for both columns, and b is zero.
  template <class Read>
  static void inverse(const Read& read, const TileWindow<T>& a, const TileWindow<T>& b, bool add = false) {
    const auto& twiddles = detail::Twiddles<T, n>::instance();
    const int group_begin = std::min(a.left, b.bottom > b.top ? b.left : n) / lanes;
    const int group_end = divide_up(std::max(a.right, b.bottom > b.top ? b.right : 0), lanes);
    // The inverse is the forward transform with real and imaginary parts exchanged before and after.
    const auto exchanged = [](ComplexPacket<T> z) { return ComplexPacket<T>{z.im, z.re}; };
    ComplexPacket<T> rows[n * groups];  // [j][x], lanes ky
    for (int j = 0; j < groups; ++j) {
      const int negative = (groups - j) % groups;
      detail::fft<n>(
          twiddles,
          [&](int i, int k) {
            const int kx = 8 * i + k;
            return exchanged(kx < half ? read(j * half + kx, 0)
                                       : conjugate_of_negative(read(negative * half + n - kx, 1), j));
          },
          [&](int c, const Eight& z) {
            SETTLE_UNROLL for (int d = 0; d < 8; ++d) rows[j * n + c + first * d] = z[static_cast<std::size_t>(d)];
          });
    }
    alignas(64) T edges[2][(n + 1) * lanes];
    for (int g = group_begin; g < group_end; ++g) {
      const OutStrip strip_a(a, g, edges[0], add), strip_b(b, g, edges[1], add);
      // With ky = (n / 8) d + k and y = c + 8 e, sums over d, then over k.
      constexpr int apart = first / joined;
      ComplexPacket<T> half_way[n];  // [c][k]
      for (int k = 0; k < first; ++k) {
        const Eight z = detail::dft(read_squares(rows, k, g));
        half_way[k] = z[0];
        SETTLE_UNROLL for (int c = 1; c < 8; ++c) half_way[first * c + k] = detail::rotated(
            z[static_cast<std::size_t>(c)], twiddles.lane_re[c][k % apart], twiddles.lane_im[c][k % apart]);
      }
      for (int c = 0; c < 8; ++c) {
        std::array<ComplexPacket<T>, first> z;
        SETTLE_UNROLL for (int k = 0; k < first; ++k) z[static_cast<std::size_t>(k)] =
            separated(half_way + first * c + k % apart, apart, k / apart);
        z = detail::dft(z);
        SETTLE_UNROLL for (int e = 0; e < first; ++e) {
          strip_a.put(c + 8 * e, z[static_cast<std::size_t>(e)].im);
          strip_b.put(c + 8 * e, z[static_cast<std::size_t>(e)].re);
        }
      }
      strip_a.finish();
      strip_b.finish();
    }
  }

  static SETTLE_INLINE ComplexPacket<T> read(const T* p) { return {load(p), load(p + lanes)}; }
  static SETTLE_INLINE void write(T* p, ComplexPacket<T> z) {
    store(p, z.re);
    store(p + lanes, z.im);
  }

  /// A part of this transform's packet q, which is at p, as a packet of TileTransform<n, double>: that of number
  /// packets * part + q.
  static SETTLE_INLINE ComplexPacket<double> widened(const T* p, int part) {
    constexpr int wide = packet_size<double>, parts = lanes / wide, step = joined == 1 ? parts : 1;
    p += part * (step == 1 ? wide : 1);
    ComplexPacket<double> z;
    SETTLE_UNROLL for (int l = 0; l < wide; ++l) {
      z.re[l] = p[l * step];
      z.im[l] = p[lanes + l * step];
    }
    return z;
  }

 private:
  static constexpr int first = n / 8;                  ///< of n = 8 first, a transform's two factors
  static constexpr int side = detail::square_side<T>;  ///< of the squares that are transposed
  static constexpr int joined = detail::joined_squares<T>;
  using Eight = std::array<ComplexPacket<T>, 8>;

  /// The columns that a window and a group of one packet's columns share, counted from the group's first.
  struct Overlap {
    Overlap(int left, int right, int group)
        : begin(std::clamp(left - group * lanes, 0, lanes)), end(std::clamp(right - group * lanes, 0, lanes)) {}
    bool whole() const { return begin == 0 && end == lanes; }
    int begin, end;
  };

  /// A group of columns of a tile, for reading row by row. A group that the window's sides cut is copied to `edge`, of
  /// 2 n packets.
  struct Strip {
    Strip(const TileWindow<const T>& tile, int group, T* edge) : next(tile.next) {
      const Overlap overlap(tile.left, tile.right, group);
      const int count = overlap.begin < overlap.end ? tile.bottom - tile.top : 0;
      empty = count == 0;
      const T* from = nullptr;
      Index stride = tile.stride;
      if (!empty) {
        from = tile.at(tile.top, group * lanes);
        if (!overlap.whole()) from = copied(tile, overlap, from, count, edge), stride = 2 * lanes, next = 0;
      }
      static constexpr T zeros[lanes] = {};
      for (int y = 0; y < n; ++y)
        rows[y] = y >= tile.top && y < tile.top + count ? from + (y - tile.top) * stride : zeros;
    }
    SETTLE_INLINE Packet<T> row(int y) const {
      fetch(rows[y] + next, lanes);
      return load(rows[y]);
    }

    const T* rows[n];
    Index next;
    bool empty;

   private:
    /// The overlap with zeros around it, each row followed by a packet that is not to be read.
    static const T* copied(const TileWindow<const T>& tile, const Overlap& overlap, const T* from, int count, T* edge) {
      T* const to = overlap.begin > 0 ? edge : edge + lanes;
      std::fill_n(edge, count * 2 * lanes, T(0));
      if (tile.right - tile.left >= lanes) {  // by packets: what one holds beyond the group lies between the rows
        const int begin = overlap.begin > 0 ? overlap.begin : overlap.end - lanes;
        for (int r = 0; r < count; ++r) store(to + r * 2 * lanes + begin, load(from + r * tile.stride + begin));
      } else {
        for (int r = 0; r < count; ++r)
          copy_few<lanes / 2>(to + r * 2 * lanes + overlap.begin, from + r * tile.stride + overlap.begin,
                              overlap.end - overlap.begin);
      }
      return to;
    }
  };

  /// A group of columns of a tile, for writing or adding to row by row. A group that the window's sides cut is kept in
  /// an edge of n + 1 packets until it is finished; rows outside the window go to its last packet.
  struct OutStrip {
    OutStrip(const TileWindow<T>& tile, int group, T* edge_rows, bool adding)
        : overlap(tile.left, tile.right, group), next(tile.next), stride(tile.stride), add(adding), edge(edge_rows) {
      count = overlap.begin < overlap.end ? tile.bottom - tile.top : 0;
      if (count > 0) plane = tile.at(tile.top, group * lanes);
      const bool whole = overlap.whole();
      T* const nowhere = edge + n * lanes;
      for (int y = 0; y < n; ++y) {
        const int r = y - tile.top;
        rows[y] = r < 0 || r >= count ? nowhere : whole ? plane + r * stride : edge + r * lanes;
      }
      if (!whole) next = 0;
      if (!add) return;
      std::fill(whole ? nowhere : edge, nowhere + lanes, T(0));
      if (!whole)
        for (int r = 0; r < count; ++r) copy_few<lanes / 2>(at_edge(r), in_plane(r), overlap.end - overlap.begin);
    }
    SETTLE_INLINE void put(int y, Packet<T> v) const {
      T* const at = rows[y];
      store(at, add ? load(at) + v : v);
      fetch(at + next, lanes);
    }
    void finish() const {
      if (overlap.whole()) return;
      for (int r = 0; r < count; ++r) copy_few<lanes / 2>(in_plane(r), at_edge(r), overlap.end - overlap.begin);
    }

   private:
    T* in_plane(int r) const { return plane + r * stride + overlap.begin; }
    T* at_edge(int r) const { return edge + r * lanes + overlap.begin; }

    T* rows[n];
    Overlap overlap;
    Index next, stride;
    bool add;
    int count;
    T *edge, *plane = nullptr;
  };

  /// Copies fewer than 2 * most numbers, a power of two at a time.
  template <int most>
  static SETTLE_INLINE void copy_few(T* to, const T* from, int count) {
    if (count & most) std::memcpy(to, from, most * sizeof(T)), to += most, from += most;
    if constexpr (most > 1) copy_few<most / 2>(to, from, count);
  }

  /// From Z at packet row j the conjugate at the negated frequencies, or back.
  static SETTLE_INLINE ComplexPacket<T> conjugate_of_negative(ComplexPacket<T> z, int j) {
    return {detail::reversed(z.re, j == 0), -detail::reversed(z.im, j == 0)};
  }

  /// Where the square of a column's frequencies (n / 8) d + k, for some or all d, and of the rows or columns of group g
  /// is, or one of two that share packets.
  static constexpr int square(int k, int g) { return k % groups * n + g * lanes + k / groups * side; }

  /// Transposes eight packets in squares and writes them: z[d] holds the frequencies (n / 8) d + k.
  static SETTLE_INLINE void write_squares(const Eight& z, ComplexPacket<T>* squares, int k, int g) {
    const auto move = [&](auto part) __attribute__((always_inline)) {
      SETTLE_UNROLL for (int s = 0; s < 8 / side; ++s) {
        Packet<T> rows[side];
        SETTLE_UNROLL for (int i = 0; i < side; ++i) rows[i] = z[static_cast<std::size_t>(s + 8 / side * i)].*part;
        detail::transpose(rows);
        ComplexPacket<T>* const to = squares + square(k + first * s, g);
        SETTLE_UNROLL for (int i = 0; i < side; ++i) to[i].*part = rows[i];
      }
    };
    move(&ComplexPacket<T>::re), move(&ComplexPacket<T>::im);
  }

  /// Reads them back the other way: the squares' lanes are frequencies, the result's are not.
  static SETTLE_INLINE Eight read_squares(const ComplexPacket<T>* squares, int k, int g) {
    Eight z;
    const auto move = [&](auto part) __attribute__((always_inline)) {
      SETTLE_UNROLL for (int s = 0; s < 8 / side; ++s) {
        const ComplexPacket<T>* const from = squares + square(k + first * s, g);
        Packet<T> rows[side];
        SETTLE_UNROLL for (int i = 0; i < side; ++i) rows[i] = from[i].*part;
        detail::transpose(rows);
        SETTLE_UNROLL for (int i = 0; i < side; ++i) z[static_cast<std::size_t>(s + 8 / side * i)].*part = rows[i];
      }
    };
    move(&ComplexPacket<T>::re), move(&ComplexPacket<T>::im);
    return z;
  }

  /// The packet of one transposed square, or that of number `which` from two squares whose blocks alternate.
  static SETTLE_INLINE ComplexPacket<T> separated(const ComplexPacket<T>* at, int apart, int which) {
    if constexpr (joined == 1)
      return *at;
    else
      return {detail::alternate_blocks(at[0].re, at[apart].re, which),
              detail::alternate_blocks(at[0].im, at[apart].im, which)};
  }
};

}  // namespace settle::cpu
