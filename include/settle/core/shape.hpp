#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <vector>

#include "settle/core/error.hpp"

namespace settle::inline v0_2 {

/// Extents and positions; signed, so that differences are safe.
using Index = std::int64_t;

/// The extents of a tensor's axes, outermost first: at most 6 of them, each >= 0; rank 0 is a scalar.
class Shape {
 public:
  static constexpr int max_rank = 6;
  /// The most elements of a tensor: their bytes, and sums of a few such numbers, are an Index.
  static constexpr Index max_size = Index{1} << 58;

  constexpr Shape() = default;
  Shape(std::initializer_list<Index> extents) {
    for (Index e : extents) append(e);
  }

  int rank() const { return rank_; }

  /// The extent of one axis; a negative axis counts from the end. Throws when out of range.
  Index operator[](int axis) const { return extents_[slot(axis)]; }
  Index& operator[](int axis) { return extents_[slot(axis)]; }

  /// Adds an innermost axis.
  void append(Index extent) {
    require(rank_ < max_rank, "shape", "a tensor has at most ", max_rank, " axes");
    require(extent >= 0, "shape", "an extent must not be negative, got ", extent);
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }

  /// The number of elements: the product of the extents (1 for a scalar). Throws Error where the extents that are not 0
  /// have a product above max_size, so that no part of the product overflows, and for an extent below 0.
  Index size() const {
    Index product = 1;
    bool fits = true, empty = false;
    for (const Index extent : *this) {
      fits &= extent >= 0 && !__builtin_mul_overflow(product, extent == 0 ? 1 : extent, &product) && product <= max_size;
      empty |= extent == 0;
    }
    if (!fits) [[unlikely]]
      fail("shape", *this, " is no tensor's shape: expected extents of at least 0 and at most ", max_size, " elements");
    return empty ? 0 : product;
  }

  /// The axis counted from the front, for an axis that may count from the end.
  int axis(int a) const { return static_cast<int>(slot(a)); }

  const Index* begin() const { return extents_.data(); }
  const Index* end() const { return extents_.data() + rank_; }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    out << '(';
    for (int i = 0; i < s.rank_; ++i) out << (i ? ", " : "") << s[i];
    return out << ')';
  }

 private:
  std::size_t slot(int axis) const {
    int a = axis < 0 ? axis + rank_ : axis;
    require(a >= 0 && a < rank_, "shape", "axis ", axis, " is out of range for rank ", rank_);
    return static_cast<std::size_t>(a);
  }

  std::array<Index, max_rank> extents_{};
  int rank_ = 0;
};

/// The sum of extents; throws Error where it is no Index.
inline Index sum_of_extents(std::initializer_list<Index> extents) {
  Index sum = 0;
  for (const Index extent : extents)
    require(!__builtin_add_overflow(sum, extent, &sum), "shape", "an extent overflows: ", extent, " is too much");
  return sum;
}

/// A short list of axes, written out or made at run time: `{0, -1}`, or a std::vector<int>.
class Axes {
 public:
  constexpr Axes() = default;
  Axes(std::initializer_list<int> axes) : Axes(std::span(axes.begin(), axes.size())) {}
  Axes(const std::vector<int>& axes) : Axes(std::span(axes)) {}

  const int* begin() const { return axes_.data(); }
  const int* end() const { return axes_.data() + count_; }

 private:
  explicit Axes(std::span<const int> axes) {
    require(axes.size() <= axes_.size(), "shape", "expected at most ", axes_.size(), " axes, got ", axes.size());
    for (const int axis : axes) axes_[count_++] = axis;
  }

  std::array<int, Shape::max_rank> axes_{};
  std::size_t count_ = 0;
};

/// All axes of a shape.
inline Axes all_axes(const Shape& shape) {
  std::vector<int> axes;
  for (int a = 0; a < shape.rank(); ++a) axes.push_back(a);
  return axes;
}

/// The shape that both broadcast to (NumPy's rule: aligned at the last axis, extent 1 repeats).
/// Throws Error when the extents disagree.
inline Shape broadcast(const Shape& a, const Shape& b) {
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Index ea = ia < 0 ? 1 : a[ia], eb = ib < 0 ? 1 : b[ib];
    require(ea == eb || ea == 1 || eb == 1, "broadcast", "shapes ", a, " and ", b, " disagree");
    out.append(ea == 1 ? eb : ea);
  }
  return out;
}

/// Whether `from` broadcasts to exactly `to`.
inline bool broadcasts_to(const Shape& from, const Shape& to) {
  if (from.rank() > to.rank()) return false;
  for (int i = 1; i <= from.rank(); ++i)
    if (from[-i] != to[-i] && from[-i] != 1) return false;
  return true;
}

/// The shape with the given axes set to 1.
template <class AxisList>
Shape reduced(Shape shape, const AxisList& axes) {
  for (int a : axes) shape[a] = 1;
  return shape;
}

}  // namespace settle
