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

/// The largest |a_j|; NaN if there is one.
template <class T>
double largest_magnitude(const Values<T>& a) {
  double best = 0;
  for (const auto& part : a)
    for (const T v : part.values()) {
      const double size = std::abs(static_cast<double>(v));
      if (size != size) return size;
      best = std::max(best, size);
    }
  return best;
}

/// y <- c y + d x with numbers for each system. Where a number is 0 its vector is not read: NaN there does not spread.
template <class T>
void mix(Values<T>& y, const Numbers& c, const Values<T>& x, const Numbers& d) {
  const auto systems = static_cast<Index>(c.size());
  for (std::size_t p = 0; p < y.size(); ++p) {
    T* to = y[p].mutable_data();
    const T* from = x[p].data();
    each_piece(y[p].size(), systems, [&](Index s, Index, Index begin, Index end) {
      const auto keep = static_cast<T>(c[static_cast<std::size_t>(s)]),
                 add = static_cast<T>(d[static_cast<std::size_t>(s)]);
      if (add == T{0} && keep == T{0}) {
        std::fill(to + begin, to + end, T{0});
      } else if (add == T{0}) {
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

/// The power of two that brings the largest magnitude of all into [1, 2): scaling by it rounds nothing, so a result
/// computed from the scaled values is homogeneous to the last bit under powers of two. 1 for zero and non-finite
/// values.
template <class T>
double power_of_two_to_unit(const Values<T>& a) {
  constexpr int limit = std::numeric_limits<T>::max_exponent - 8;  // the power itself must be representable
  const double v = largest_magnitude(a);
  return v > 0 && std::isfinite(v) ? std::ldexp(1.0, std::clamp(-std::ilogb(v), -limit, limit)) : 1.0;
}

/// Numbers of samples, in increasing order.
using Rows = std::vector<Index>;

/// The given samples of a tensor, along axis 0.
template <class T>
Tensor<T> gather_rows(const Tensor<T>& from, const Rows& rows) {
  Shape shape = from.shape();
  const Index length = shape[0] > 0 ? from.size() / shape[0] : 0;
  shape[0] = std::ssize(rows);
  Tensor<T> out(shape);
  T* to = out.mutable_data();
  for (std::size_t k = 0; k < rows.size(); ++k)
    std::copy_n(from.data() + rows[k] * length, length, to + static_cast<Index>(k) * length);
  return out;
}

/// Writes samples back to where gather_rows took them from.
template <class T>
void scatter_rows(const Tensor<T>& from, const Rows& rows, Tensor<T>& to) {
  const Index length = to.shape()[0] > 0 ? to.size() / to.shape()[0] : 0;
  T* into = to.mutable_data();
  for (std::size_t k = 0; k < rows.size(); ++k)
    std::copy_n(from.data() + static_cast<Index>(k) * length, length, into + rows[k] * length);
}

/// The same of every part of a state, or of every state of a history; nothing of nothing.
template <class Part>
std::vector<Part> gather_rows(const std::vector<Part>& from, const Rows& rows) {
  std::vector<Part> out;
  for (const auto& part : from) out.push_back(gather_rows(part, rows));
  return out;
}

template <class T>
void scatter_rows(const Values<T>& from, const Rows& rows, Values<T>& to) {
  for (std::size_t p = 0; p < from.size(); ++p) scatter_rows(from[p], rows, to[p]);
}

/// Elements of a list of one entry per system.
template <class List>
List select(const List& from, const Rows& rows) {
  List out;
  for (Index r : rows) out.push_back(from[static_cast<std::size_t>(r)]);
  return out;
}

inline Rows all_rows(Index count) {
  Rows out;
  for (Index r = 0; r < count; ++r) out.push_back(r);
  return out;
}

inline Numbers filled(std::size_t count, double value) { return Numbers(count, value); }

/// -a, a / b with 0 / anything = 0.
inline Numbers negated(Numbers a) {
  for (double& v : a) v = -v;
  return a;
}
inline Numbers quotients(const Numbers& a, const Numbers& b) {
  Numbers out(a.size());
  for (std::size_t s = 0; s < a.size(); ++s) out[s] = a[s] == 0 ? 0 : a[s] / b[s];
  return out;
}

template <class T>
std::size_t bytes_of(const Values<T>& a) {
  std::size_t out = 0;
  for (const auto& part : a) out += static_cast<std::size_t>(part.size()) * sizeof(T);
  return out;
}

}  // namespace settle::fixed_point::detail
