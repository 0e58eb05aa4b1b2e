#pragma once
#include <algorithm>
#include <cmath>
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

/// Calls f(system, piece, begin, end) on the pieces of an array of `size` values that is split evenly among systems.
/// The pieces depend on a system's size alone.
template <class F>
void each_piece(Index size, Index systems, const F& f) {
  constexpr Index piece_length = 8192;
  const Index length = systems > 0 ? size / systems : 0;
  const Index pieces = (length + piece_length - 1) / piece_length;
  const Index grain = std::max<Index>(1, 4 * piece_length / std::max<Index>(1, std::min(length, piece_length)));
  ThreadPool::instance().parallel_for(systems * pieces, grain, [&](Index first, Index last) {
    for (Index piece = first; piece < last; ++piece) {
      const Index s = piece / pieces, start = piece % pieces * piece_length;
      f(s, piece, s * length + start, s * length + std::min(length, start + piece_length));
    }
  });
}

/// Adds to each system's number the sum of g(k) over its elements k, taken in double.
template <class G>
void add_sums(Index size, std::vector<double>& out, const G& g) {
  const auto systems = static_cast<Index>(out.size());
  if (size == 0) return;
  std::vector<double> partial(static_cast<std::size_t>(size / 8192 + systems + 1), 0.0);
  std::vector<Index> owner(partial.size(), -1);
  each_piece(size, systems, [&](Index s, Index piece, Index begin, Index end) {
    constexpr Index at_once = 32;  // as many as hide a sum's latency, in packets
    double sums[at_once] = {};
    Index k = begin;
    for (; k + at_once <= end; k += at_once)
      for (Index i = 0; i < at_once; ++i) sums[i] += g(k + i);
    for (; k < end; ++k) sums[0] += g(k);
    partial[static_cast<std::size_t>(piece)] = sum_pairwise<at_once>(sums);
    owner[static_cast<std::size_t>(piece)] = s;
  });
  for (std::size_t piece = 0; piece < partial.size(); ++piece)
    if (owner[piece] >= 0) out[static_cast<std::size_t>(owner[piece])] += partial[piece];
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
  const auto larger = [](T a, T b) { return b > a || b != b ? b : a; };
  std::vector<T> largest(static_cast<std::size_t>(size / 8192 + 1), T{0});
  detail::each_piece(size, 1, [&](Index, Index piece, Index begin, Index end) {
    constexpr Index at_once = 32;
    T best[at_once] = {};
    Index k = begin;
    for (; k + at_once <= end; k += at_once)
      for (Index i = 0; i < at_once; ++i) best[i] = larger(best[i], std::abs(x[k + i]));
    for (; k < end; ++k) best[0] = larger(best[0], std::abs(x[k]));
    largest[static_cast<std::size_t>(piece)] = std::accumulate(best, best + at_once, T{0}, larger);
  });
  return static_cast<double>(std::accumulate(largest.begin(), largest.end(), T{0}, larger));
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
