#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/core/threads.hpp"

// States as vectors: the few operations that the solvers do on them. A state is a list of tensors whose axis 0 is the
// batch, and it holds one system of equations per sample, or a single one when the step mixes samples. Sums are taken
// in double and in an order that depends on a sample's size alone, so that a sample's result is the same bits in any
// batch.
namespace settle::fixed_point::detail {

template <class T, class D = Cpu>
using Values = std::vector<Tensor<T, D>>;

/// A number for each system.
using Numbers = std::vector<double>;

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
void add_sums(Index size, Numbers& out, const G& g) {
  const auto systems = static_cast<Index>(out.size());
  if (size == 0) return;
  std::vector<double> partial(static_cast<std::size_t>(size / 8192 + systems + 1), 0.0);
  std::vector<Index> owner(partial.size(), -1);
  each_piece(size, systems, [&](Index s, Index piece, Index begin, Index end) {
    double sums[4] = {};
    Index k = begin;
    for (; k + 4 <= end; k += 4)
      for (Index i = 0; i < 4; ++i) sums[i] += g(k + i);
    for (; k < end; ++k) sums[0] += g(k);
    partial[static_cast<std::size_t>(piece)] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    owner[static_cast<std::size_t>(piece)] = s;
  });
  for (std::size_t piece = 0; piece < partial.size(); ++piece)
    if (owner[piece] >= 0) out[static_cast<std::size_t>(owner[piece])] += partial[piece];
}

/// a · b for each system.
template <class T>
Numbers dots(const Values<T>& a, const Values<T>& b, Index systems) {
  Numbers out(static_cast<std::size_t>(systems), 0.0);
  for (std::size_t p = 0; p < a.size(); ++p) {
    const T *x = a[p].data(), *y = b[p].data();
    add_sums(a[p].size(), out, [&](Index k) { return static_cast<double>(x[k]) * static_cast<double>(y[k]); });
  }
  return out;
}

/// |a| for each system.
template <class T>
Numbers norms(const Values<T>& a, Index systems) {
  Numbers out = dots(a, a, systems);
  for (double& v : out) v = std::sqrt(v);
  return out;
}

/// |a - b| for each system.
template <class T>
Numbers distances(const Values<T>& a, const Values<T>& b, Index systems) {
  Numbers out(static_cast<std::size_t>(systems), 0.0);
  for (std::size_t p = 0; p < a.size(); ++p) {
    const T *x = a[p].data(), *y = b[p].data();
    add_sums(a[p].size(), out, [&](Index k) {
      const double d = static_cast<double>(x[k]) - static_cast<double>(y[k]);
      return d * d;
    });
  }
  for (double& v : out) v = std::sqrt(v);
  return out;
}

/// The largest |a_j| for each system; NaN where there is one.
template <class T>
Numbers largest_magnitudes(const Values<T>& a, Index systems) {
  Numbers out(static_cast<std::size_t>(systems), 0.0);
  for (const auto& part : a) {
    const T* x = part.data();
    const Index length = systems > 0 ? part.size() / systems : 0;
    for (Index k = 0; k < systems * length; ++k)
      if (double& best = out[static_cast<std::size_t>(k / length)]; !(std::abs(static_cast<double>(x[k])) <= best))
        best = std::abs(static_cast<double>(x[k]));
  }
  return out;
}

/// y <- c y + d x with numbers for each system. Where d is 0, x is not read: NaN there does not spread.
template <class T>
void mix(Values<T>& y, const Numbers& c, const Values<T>& x, const Numbers& d) {
  const auto systems = static_cast<Index>(c.size());
  for (std::size_t p = 0; p < y.size(); ++p) {
    T* to = y[p].mutable_data();
    const T* from = x[p].data();
    each_piece(y[p].size(), systems, [&](Index s, Index, Index begin, Index end) {
      const auto keep = static_cast<T>(c[static_cast<std::size_t>(s)]),
                 add = static_cast<T>(d[static_cast<std::size_t>(s)]);
      if (add == T{0}) {
        if (keep != T{1})
          for (Index k = begin; k < end; ++k) to[k] *= keep;
      } else if (keep == T{0}) {
        for (Index k = begin; k < end; ++k) to[k] = add * from[k];
      } else {
        for (Index k = begin; k < end; ++k) to[k] = keep * to[k] + add * from[k];
      }
    });
  }
}

/// y <- y + d x.
template <class T>
void add_scaled(Values<T>& y, const Values<T>& x, const Numbers& d) {
  mix(y, Numbers(d.size(), 1.0), x, d);
}

/// y <- c y.
template <class T>
void scale(Values<T>& y, const Numbers& c) {
  mix(y, c, y, Numbers(c.size(), 0.0));
}

/// Zeros of a state's shapes.
template <class T>
Values<T> zeros_like(const Values<T>& a) {
  Values<T> out;
  for (const auto& part : a) out.emplace_back(part.shape(), T{0});
  return out;
}

/// For each system the power of two that brings its largest magnitude into [1, 2): scaling by it rounds nothing, so a
/// result computed from the scaled values is homogeneous to the last bit under powers of two. 1 for zero and
/// non-finite.
template <class T>
Numbers powers_of_two_to_unit(const Values<T>& a, Index systems) {
  constexpr int limit = std::numeric_limits<T>::max_exponent - 8;  // the power itself must be representable
  Numbers out = largest_magnitudes(a, systems);
  for (double& v : out)
    v = v > 0 && std::isfinite(v) ? std::ldexp(1.0, std::clamp(-std::ilogb(v), -limit, limit)) : 1.0;
  return out;
}

}  // namespace settle::fixed_point::detail
