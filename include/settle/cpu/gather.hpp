#pragma once
#include <algorithm>
#include <span>

#include "settle/core/threads.hpp"

// Arrays here are (outer, extent, inner): the axis in question, and all axes before and after it as one.
namespace settle::inline v0_2::cpu {

/// y (outer, indices, inner): y[o, k, :] = x[o, indices[k], :], for x (outer, extent, inner).
template <class T>
void gather(Index outer, Index extent, Index inner, std::span<const Index> indices, const T* x, T* y) {
  const Index count = static_cast<Index>(indices.size());
  ThreadPool::instance().parallel_for(
      outer * count, 16384 / std::max<Index>(inner, 1) + 1, [&](Index begin, Index end) {
        for (Index row = begin; row < end; ++row) {
          const Index from = row / count * extent + indices[static_cast<std::size_t>(row % count)];
          std::copy_n(x + from * inner, inner, y + row * inner);
        }
      });
}

/// The adjoint of gather: x[o, indices[k], :] += y[o, k, :] into zeros. Additions are made in the order of the indices.
template <class T>
void scatter_add(Index outer, Index extent, Index inner, std::span<const Index> indices, const T* y, T* x) {
  const Index count = static_cast<Index>(indices.size());
  std::fill_n(x, outer * extent * inner, T(0));
  ThreadPool::instance().parallel_for(
      outer, 16384 / std::max<Index>(count * inner, 1) + 1, [&](Index begin, Index end) {
        for (Index row = begin * count; row < end * count; ++row) {
          T* to = x + (row / count * extent + indices[static_cast<std::size_t>(row % count)]) * inner;
          const T* from = y + row * inner;
          for (Index i = 0; i < inner; ++i) to[i] += from[i];
        }
      });
}

}  // namespace settle::cpu
