#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "settle/core/scoped_value.hpp"
#include "settle/cpu/backend.hpp"
#include "settle/distributed/sums.hpp"

// States as vectors: the few operations that the solvers do on them. A state is a list of tensors whose axis 0 is the
// batch, and it holds one system of equations per sample, or a single one when the step mixes samples. A sample's sums
// are the same bits in any batch.
namespace settle::inline v0_2::fixed_point::detail {

template <class T, class D = Cpu>
using Values = std::vector<Tensor<T, D>>;

/// A number for each system.
using Numbers = std::vector<double>;

/// While it lives, the vectors that are summed on this thread are a rank's parts of vectors over the ranks of a group,
/// as the samples of a batch that a step couples are: sums over a single system are over all ranks, the same bits on
/// each, so that all take the same decisions. With a group of one nothing changes.
class OverRanks {
 public:
  explicit OverRanks(const distributed::Group& group)
      : group_(group), scope_(current(), group_.size() > 1 ? &group_ : nullptr) {}

  /// Null where sums are of the rank's own.
  static const distributed::Group*& current() {
    thread_local const distributed::Group* group = nullptr;
    return group;
  }

 private:
  distributed::Group group_;
  ScopedValue<const distributed::Group*> scope_;
};

/// Replaces lists of sums, made on each rank, by those over the ranks, in one message.
inline void sum_over_ranks(std::initializer_list<Numbers*> lists) {
  const distributed::Group* const group = OverRanks::current();
  if (!group) return;
  Numbers message;
  for (const Numbers* list : lists) message.insert(message.end(), list->begin(), list->end());
  distributed::sum_over_ranks(std::span(message), *group);
  auto from = message.begin();
  for (Numbers* list : lists)
    for (double& v : *list) v = *from++;
}

/// a · b for each system, of what this rank has.
template <class T, class D>
Numbers own_dots(const Values<T, D>& a, const Values<T, D>& b, Index systems) {
  Numbers out(static_cast<std::size_t>(systems), 0.0);
  for (std::size_t p = 0; p < a.size(); ++p) Backend<D>::add_dots(a[p].size(), a[p].data(), b[p].data(), out);
  return out;
}

/// a · b for each system.
template <class T, class D>
Numbers dots(const Values<T, D>& a, const Values<T, D>& b, Index systems) {
  Numbers out = own_dots(a, b, systems);
  sum_over_ranks({&out});
  return out;
}

/// The same for each of several vectors a.
template <class T, class D>
std::vector<Numbers> dots_of_each(const std::vector<Values<T, D>>& several, const Values<T, D>& b, Index systems) {
  std::vector<Numbers> out;
  Numbers all;
  for (const auto& a : several) {
    out.push_back(own_dots(a, b, systems));
    all.insert(all.end(), out.back().begin(), out.back().end());
  }
  if (!OverRanks::current()) return out;
  sum_over_ranks({&all});
  auto from = all.begin();
  for (Numbers& list : out)
    for (double& v : list) v = *from++;
  return out;
}

inline Numbers square_roots(Numbers a) {
  for (double& v : a) v = std::sqrt(v);
  return a;
}

/// y <- c y + d x with numbers for each system. Where a number is 0 its vector is not read: NaN there does not spread.
template <class T, class D>
void mix(Values<T, D>& y, const Numbers& c, const Values<T, D>& x, const Numbers& d) {
  for (std::size_t p = 0; p < y.size(); ++p) {
    T* const to = y[p].mutable_data();
    Backend<D>::mix(y[p].size(), c, to, d, x[p].data());
  }
}

/// y <- y + d x.
template <class T, class D>
void add_scaled(Values<T, D>& y, const Values<T, D>& x, const Numbers& d) {
  mix(y, Numbers(d.size(), 1.0), x, d);
}

/// y <- c y.
template <class T, class D>
void scale(Values<T, D>& y, const Numbers& c) {
  mix(y, c, y, Numbers(c.size(), 0.0));
}

/// The largest |a_j| of each system; NaN if there is one.
template <class T, class D>
Numbers largest_magnitudes(const Values<T, D>& a, Index systems) {
  Numbers out(static_cast<std::size_t>(systems), 0.0);
  for (const auto& part : a) Backend<D>::raise_to_largest(part.size(), part.data(), out);
  if (const distributed::Group* const group = OverRanks::current(); group && !a.empty())
    distributed::largest_over_ranks(out, *group);
  return out;
}

/// For each system the power of two that brings its largest magnitude into [1, 2): scaling by it rounds nothing, so a
/// result computed from the scaled values is homogeneous to the last bit under powers of two. 1 for zero and non-finite
/// values.
template <class T, class D>
Numbers powers_of_two_to_unit(const Values<T, D>& a, Index systems) {
  constexpr int limit = std::numeric_limits<T>::max_exponent - 8;  // the power itself must be representable
  Numbers out = largest_magnitudes(a, systems);
  for (double& v : out)
    v = v > 0 && std::isfinite(v) ? std::ldexp(1.0, std::clamp(-std::ilogb(v), -limit, limit)) : 1.0;
  return out;
}

/// Whether a sum of squares of numbers of type T may have lost some to over- or underflow, as sums in double do for
/// doubles beyond 1e154 and below 1e-145, and for no float.
template <class T>
bool is_lost(double sum_of_squares) {
  constexpr bool fit = 2 * std::numeric_limits<T>::max_exponent < std::numeric_limits<double>::max_exponent;
  return !fit && !(sum_of_squares > 1e-290 && std::isfinite(sum_of_squares));
}

/// |a| for each system, where `squares` are the sums of its squares: their roots, but for systems whose sum is lost the
/// root of that of their values scaled by a power of two.
template <class T, class D>
Numbers norms_from(Numbers squares, const Values<T, D>& a) {
  if (std::none_of(squares.begin(), squares.end(), is_lost<T>)) return square_roots(std::move(squares));
  const auto systems = std::ssize(squares);
  Numbers units = powers_of_two_to_unit(a, systems);
  for (std::size_t s = 0; s < units.size(); ++s)
    if (!is_lost<T>(squares[s])) units[s] = 1;
  const bool any = std::any_of(units.begin(), units.end(), [](double unit) { return unit != 1; });
  if (!any) return square_roots(std::move(squares));  // what looked lost is 0 or not finite
  Values<T, D> scaled = a;
  scale(scaled, units);
  Numbers out = square_roots(dots(scaled, scaled, systems));
  for (std::size_t s = 0; s < units.size(); ++s) out[s] /= units[s];
  return out;
}

/// |a| for each system.
template <class T, class D>
Numbers norms(const Values<T, D>& a, Index systems) {
  return norms_from(dots(a, a, systems), a);
}

/// What a step from one state to the next did to each system: |to - from| and |to|.
struct Moved {
  Numbers distances, sizes;
};
template <class T, class D>
Moved moved(const Values<T, D>& to, const Values<T, D>& from, Index systems) {
  Numbers distances(static_cast<std::size_t>(systems), 0.0), sizes = distances;
  for (std::size_t p = 0; p < to.size(); ++p)
    Backend<D>::add_square_distances(to[p].size(), to[p].data(), from[p].data(), distances, sizes);
  sum_over_ranks({&distances, &sizes});
  Values<T, D> difference;
  if (std::any_of(distances.begin(), distances.end(), is_lost<T>)) {
    difference = to;
    add_scaled(difference, from, Numbers(distances.size(), -1.0));
  }
  return {norms_from(std::move(distances), difference), norms_from(std::move(sizes), to)};
}

/// |a| and |b| for each system.
template <class T, class D>
std::pair<Numbers, Numbers> norms_of_both(const Values<T, D>& a, const Values<T, D>& b, Index systems) {
  Numbers of_a = own_dots(a, a, systems), of_b = own_dots(b, b, systems);
  sum_over_ranks({&of_a, &of_b});
  return {norms_from(std::move(of_a), a), norms_from(std::move(of_b), b)};
}

/// A distance relative to a size, or as it is where the size is 0.
inline double relative(double distance, double size) { return size > 0 ? distance / size : distance; }

/// y <- y + d x, and |x| for each system.
template <class T, class D>
Numbers add_measured(Values<T, D>& y, const Values<T, D>& x, const Numbers& d) {
  Numbers sizes(d.size(), 0.0);
  for (std::size_t p = 0; p < y.size(); ++p) {
    T* const to = y[p].mutable_data();
    Backend<D>::add_scaled(y[p].size(), to, d, x[p].data(), sizes);
  }
  sum_over_ranks({&sizes});
  return norms_from(std::move(sizes), x);
}

/// A state in another device's memory.
template <class To, class T, class From>
Values<T, To> moved_to(const Values<T, From>& a) {
  Values<T, To> out;
  for (const auto& part : a) out.push_back(to<To>(part));
  return out;
}

/// Zeros of a state's shapes.
template <class T, class D>
Values<T, D> zeros_like(const Values<T, D>& a) {
  Values<T, D> out;
  for (const auto& part : a) out.emplace_back(part.shape(), T{0});
  return out;
}

/// Numbers of samples, in increasing order.
using Rows = std::vector<Index>;

/// The given samples of a tensor, along axis 0.
template <class T, class D>
Tensor<T, D> gather_rows(const Tensor<T, D>& from, const Rows& rows) {
  Shape shape = from.shape();
  const Index length = shape[0] > 0 ? from.size() / shape[0] : 0;
  shape[0] = std::ssize(rows);
  Tensor<T, D> out(shape);
  T* const to = out.mutable_data();
  for (std::size_t k = 0; k < rows.size(); ++k)
    D::copy(to + static_cast<Index>(k) * length, from.data() + rows[k] * length,
            static_cast<std::size_t>(length) * sizeof(T));
  return out;
}

/// Writes samples back to where gather_rows took them from.
template <class T, class D>
void scatter_rows(const Tensor<T, D>& from, const Rows& rows, Tensor<T, D>& to) {
  const Index length = to.shape()[0] > 0 ? to.size() / to.shape()[0] : 0;
  T* const into = to.mutable_data();
  for (std::size_t k = 0; k < rows.size(); ++k)
    D::copy(into + rows[k] * length, from.data() + static_cast<Index>(k) * length,
            static_cast<std::size_t>(length) * sizeof(T));
}

/// The same of every part of a state, or of every state of a history; nothing of nothing.
template <class Part>
std::vector<Part> gather_rows(const std::vector<Part>& from, const Rows& rows) {
  std::vector<Part> out;
  for (const auto& part : from) out.push_back(gather_rows(part, rows));
  return out;
}

template <class T, class D>
void scatter_rows(const Values<T, D>& from, const Rows& rows, Values<T, D>& to) {
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

/// Whether a mask leaves nobody out.
inline bool is_full(const Numbers& mask) { return std::find(mask.begin(), mask.end(), 0.0) == mask.end(); }

/// 1 where a mask is 0, and 0 elsewhere.
inline Numbers others(Numbers mask) {
  for (double& v : mask) v = v == 0 ? 1 : 0;
  return mask;
}

inline Numbers filled(std::size_t count, double value) { return Numbers(count, value); }

/// -a, 1 / a, a b, a / b with 0 / anything = 0.
inline Numbers negated(Numbers a) {
  for (double& v : a) v = -v;
  return a;
}
inline Numbers inverses(Numbers a) {
  for (double& v : a) v = 1 / v;
  return a;
}
inline Numbers products(Numbers a, const Numbers& b) {
  for (std::size_t s = 0; s < a.size(); ++s) a[s] *= b[s];
  return a;
}
inline Numbers quotients(const Numbers& a, const Numbers& b) {
  Numbers out(a.size());
  for (std::size_t s = 0; s < a.size(); ++s) out[s] = a[s] == 0 ? 0 : a[s] / b[s];
  return out;
}

template <class T, class D>
std::size_t bytes_of(const Values<T, D>& a) {
  std::size_t out = 0;
  for (const auto& part : a) out += part.bytes();
  return out;
}

}  // namespace settle::fixed_point::detail
