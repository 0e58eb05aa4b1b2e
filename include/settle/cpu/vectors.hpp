#pragma once
#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <vector>

#include "settle/core/shape.hpp"
#include "settle/core/threads.hpp"
#include "settle/cpu/packet.hpp"

// Arrays as vectors, split evenly among systems of equations: the few operations that the solvers do on them. Sums are
// taken in double and in an order that depends on a system's size alone, so that a system's result is the same bits
// among any others.
namespace settle::cpu {

namespace detail {

inline constexpr Index piece_length = 8192;

/// The pieces of each system in an array of `size` values that is split evenly among systems. They depend on a system's
/// size alone.
inline Index pieces_of_system(Index size, Index systems) {
  return systems > 0 ? (size / systems + piece_length - 1) / piece_length : 0;
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
inline constexpr Index at_once = 32;

/// Calls take(value, k) for the elements k of a piece, with each of the values in turn.
template <class T, class F>
void take_in_turn(Index begin, Index end, T (&values)[at_once], const F& take) {
  Index k = begin;
  for (; k + at_once <= end; k += at_once)
    for (Index i = 0; i < at_once; ++i) take(values[i], k + i);
  for (; k < end; ++k) take(values[0], k);
}

/// Adds to each system's number the sum of g(k) over its elements k, taken in double.
template <class G>
void add_sums(Index size, std::vector<double>& out, const G& g) {
  const auto systems = static_cast<Index>(out.size());
  const auto pieces = static_cast<std::size_t>(pieces_of_system(size, systems));
  std::vector<double> partial(out.size() * pieces);
  each_piece(size, systems, [&](Index, Index piece, Index begin, Index end) {
    double sums[at_once] = {};
    take_in_turn(begin, end, sums, [&](double& sum, Index k) { sum += g(k); });
    partial[static_cast<std::size_t>(piece)] = sum_pairwise<at_once>(sums);
  });
  for (std::size_t piece = 0; piece < partial.size(); ++piece) out[piece / pieces] += partial[piece];
}

}  // namespace detail

/// Adds x · y to each system's number.
template <class T>
void add_dots(Index size, const T* x, const T* y, std::vector<double>& out) {
  detail::add_sums(size, out, [&](Index k) { return static_cast<double>(x[k]) * static_cast<double>(y[k]); });
}

/// Adds |x - y|² to each system's number.
template <class T>
void add_square_distances(Index size, const T* x, const T* y, std::vector<double>& out) {
  detail::add_sums(size, out, [&](Index k) {
    const double d = static_cast<double>(x[k]) - static_cast<double>(y[k]);
    return d * d;
  });
}

/// The largest |x_k|; NaN if there is one.
template <class T>
double largest_magnitude(Index size, const T* x) {
  std::vector<T> largest(static_cast<std::size_t>(detail::pieces_of_system(size, 1)));
  detail::each_piece(size, 1, [&](Index, Index piece, Index begin, Index end) {
    T best[detail::at_once] = {};
    detail::take_in_turn(begin, end, best, [&](T& value, Index k) { value = larger(value, std::abs(x[k])); });
    largest[static_cast<std::size_t>(piece)] = std::accumulate(std::begin(best), std::end(best), T{0}, larger<T>);
  });
  return static_cast<double>(std::accumulate(largest.begin(), largest.end(), T{0}, larger<T>));
}

/// y <- c y + d x with numbers for each system. Where a number is 0 its vector is not read: NaN there does not spread.
template <class T>
void mix(Index size, const std::vector<double>& c, T* y, const std::vector<double>& d, const T* x) {
  detail::each_piece(size, static_cast<Index>(c.size()), [&](Index s, Index, Index begin, Index end) {
    const auto keep = static_cast<T>(c[static_cast<std::size_t>(s)]),
               add = static_cast<T>(d[static_cast<std::size_t>(s)]);
    if (add == T{0} && keep == T{0}) {
      std::fill(y + begin, y + end, T{0});
    } else if (add == T{0}) {
      if (keep != T{1})
        for (Index k = begin; k < end; ++k) y[k] *= keep;
    } else if (keep == T{0}) {
      for (Index k = begin; k < end; ++k) y[k] = add * x[k];
    } else {
      for (Index k = begin; k < end; ++k) y[k] = keep * y[k] + add * x[k];
    }
  });
}

}  // namespace settle::cpu
