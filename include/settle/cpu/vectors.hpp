#pragma once
#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <vector>

#include "settle/core/round_up.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/threads.hpp"
#include "settle/cpu/packet_math.hpp"

// Arrays as vectors, split evenly among systems of equations: the few operations that the solvers do on them. Sums are
// taken in double and in an order that depends on a system's size alone, so that a system's result is the same bits
// among any others.
namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

namespace detail {

inline constexpr Index piece_length = 8192;

/// The pieces of each system in an array of `size` values that is split evenly among systems. They depend on a system's
/// size alone.
inline Index pieces_of_system(Index size, Index systems) {
  return systems > 0 ? divide_up(size / systems, piece_length) : 0;
}

/// Calls f(system, piece, begin, end) on the pieces of all systems, which are numbered one system after the other.
template <class F>
void each_piece(Index size, Index systems, const F& f) {
  const Index length = systems > 0 ? size / systems : 0, pieces = pieces_of_system(size, systems);
  const Index grain = std::max<Index>(1, 4 * piece_length / std::max<Index>(1, std::min(length, piece_length)));
  ThreadPool::instance().parallel_for(systems * pieces, grain, [&](Index first, Index last) {
    for (Index piece = first; piece < last; ++piece) {
      const Index s = piece / pieces, start = piece % pieces * piece_length;
      f(s, piece, s * length + start, s * length + std::min(length, start + piece_length));
    }
  });
}

/// As many numbers as hide the latency of what is done to each, in packets.
inline constexpr Index numbers_at_once = 32;

/// How far on in a piece memory is fetched: a processor by itself has too few lines of a single stream on their way.
inline constexpr Index numbers_ahead = 1024;

/// For each system the sum of a function over its elements, taken in double, piece by piece.
class PieceSums {
 public:
  PieceSums(Index size, Index systems)
      : pieces_(static_cast<std::size_t>(pieces_of_system(size, systems))),
        sums_(pieces_ * static_cast<std::size_t>(systems)) {}

  /// Takes in g(x[k]...) for the elements k of a piece.
  template <class G, class... X>
  void take(Index piece, Index begin, Index end, const G& g, const X*... x) {
    double sums[numbers_at_once] = {};
    Index k = begin;
    for (; k + numbers_at_once <= end; k += numbers_at_once) {
      (fetch(x + k + numbers_ahead, numbers_at_once), ...);
      for (Index i = 0; i < numbers_at_once; ++i) sums[i] += g(static_cast<double>(x[k + i])...);
    }
    for (; k < end; ++k) sums[0] += g(static_cast<double>(x[k])...);
    sums_[static_cast<std::size_t>(piece)] = sum_pairwise<numbers_at_once>(sums);
  }

  /// Adds each system's sum to its number.
  void add_to(std::vector<double>& out) const {
    for (std::size_t piece = 0; piece < sums_.size(); ++piece) out[piece / pieces_] += sums_[piece];
  }

 private:
  std::size_t pieces_;
  std::vector<double> sums_;
};

/// The largest magnitude of what it takes in; NaN if there is one.
template <class T>
class Largest {
 public:
  /// Takes in the elements of a piece of x.
  void take(Index begin, Index end, const T* x) {
    constexpr Index lanes = packet_size<T>;
    const auto look = [&](Packet<T>& best, Index k) { best = maximum(best, abs(load(x + k))); };
    if (end - begin < lanes) {
      for (; begin < end; ++begin) rest_ = larger(rest_, std::abs(x[begin]));
      return;
    }
    for (; begin + 2 * lanes <= end; begin += 2 * lanes) look(even_, begin), look(odd_, begin + lanes);
    if (begin + lanes <= end) look(even_, begin);
    look(odd_, end - lanes);  // with some that were looked at before
  }
  T value() const {
    T lanes[packet_size<T>], out = rest_;
    store(lanes, maximum(even_, odd_));
    for (const T lane : lanes) out = larger(out, lane);
    return out;
  }

 private:
  Packet<T> even_{}, odd_{};
  T rest_ = 0;
};

inline constexpr auto squared = [](double v) { return v * v; };

/// y[k] <- f(y[k], x[k]) for the elements k of a piece.
template <class T, class F>
void update_piece(Index begin, Index end, T* y, const T* x, const F& f) {
  constexpr Index lanes = packet_size<T>;
  for (; begin + lanes <= end; begin += lanes) {
    fetch(y + begin + numbers_ahead, lanes), fetch(x + begin + numbers_ahead, lanes);
    store(y + begin, f(load(y + begin), load(x + begin)));
  }
  for (; begin < end; ++begin) y[begin] = f(y[begin], x[begin]);
}

/// y[k] <- c y[k] + d x[k] for the elements k of a piece; where a number is 0 its vector is not used.
template <class T>
void mix_piece(Index begin, Index end, T c, T* y, T d, const T* x) {
  if (d == T{0} && c == T{0}) {
    std::fill(y + begin, y + end, T{0});
  } else if (d == T{0}) {
    if (c != T{1}) update_piece(begin, end, y, y, [c](auto a, auto) { return a * c; });
  } else if (c == T{0}) {
    update_piece(begin, end, y, x, [d](auto, auto b) { return b * d; });
  } else {
    update_piece(begin, end, y, x, [c, d](auto a, auto b) { return a * c + b * d; });
  }
}

}  // namespace detail

/// Adds x · y to each system's number.
template <class T>
void add_dots(Index size, const T* x, const T* y, std::vector<double>& out) {
  detail::PieceSums sums(size, std::ssize(out));
  detail::each_piece(size, std::ssize(out), [&](Index, Index piece, Index begin, Index end) {
    sums.take(piece, begin, end, [](double a, double b) { return a * b; }, x, y);
  });
  sums.add_to(out);
}

/// Adds |x - y|² and |x|² to each system's numbers, in one pass.
template <class T>
void add_square_distances(Index size, const T* x, const T* y, std::vector<double>& distances,
                          std::vector<double>& sizes) {
  detail::PieceSums of_distances(size, std::ssize(distances)), of_sizes = of_distances;
  detail::each_piece(size, std::ssize(distances), [&](Index, Index piece, Index begin, Index end) {
    of_distances.take(piece, begin, end, [](double a, double b) { return detail::squared(a - b); }, x, y);
    of_sizes.take(piece, begin, end, detail::squared, x);
  });
  of_distances.add_to(distances);
  of_sizes.add_to(sizes);
}

/// Raises each system's number to its largest |x_k|, or makes it NaN if there is one.
template <class T>
void raise_to_largest(Index size, const T* x, std::vector<double>& out) {
  const auto systems = std::ssize(out), pieces = detail::pieces_of_system(size, systems);
  std::vector<T> largest(static_cast<std::size_t>(systems * pieces));
  detail::each_piece(size, systems, [&](Index, Index piece, Index begin, Index end) {
    detail::Largest<T> found;
    found.take(begin, end, x);
    largest[static_cast<std::size_t>(piece)] = found.value();
  });
  for (std::size_t k = 0; k < largest.size(); ++k) {
    double& of_system = out[k / static_cast<std::size_t>(pieces)];
    of_system = larger(of_system, static_cast<double>(largest[k]));
  }
}

/// y <- c y + d x with numbers for each system. Where a number is 0 its vector is not read: NaN there does not spread.
template <class T>
void mix(Index size, const std::vector<double>& c, T* y, const std::vector<double>& d, const T* x) {
  detail::each_piece(size, std::ssize(c), [&](Index system, Index, Index begin, Index end) {
    const auto s = static_cast<std::size_t>(system);
    detail::mix_piece(begin, end, static_cast<T>(c[s]), y, static_cast<T>(d[s]), x);
  });
}

/// y <- y + d x as mix, and adds |x|² to each system's number, in one pass.
template <class T>
void add_scaled(Index size, T* y, const std::vector<double>& d, const T* x, std::vector<double>& sizes) {
  detail::PieceSums sums(size, std::ssize(d));
  detail::each_piece(size, std::ssize(d), [&](Index system, Index piece, Index begin, Index end) {
    detail::mix_piece(begin, end, T{1}, y, static_cast<T>(d[static_cast<std::size_t>(system)]), x);
    sums.take(piece, begin, end, detail::squared, x);
  });
  sums.add_to(sizes);
}

}  // namespace settle::cpu
