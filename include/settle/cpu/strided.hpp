#pragma once
#include <algorithm>
#include <array>

#include "settle/core/shape.hpp"
#include "settle/core/threads.hpp"

namespace settle::inline v0_2::cpu {

using Strides = std::array<Index, Shape::max_rank>;

/// The strides of a contiguous array.
inline Strides contiguous_strides(const Shape& shape) {
  Strides strides{};
  Index running = 1;
  for (int a = shape.rank() - 1; a >= 0; --a) {
    strides[static_cast<std::size_t>(a)] = running;
    running *= shape[a];
  }
  return strides;
}

/// The axes of a strided copy.
struct StridedCopy {
  std::size_t axes = 0;
  Strides extent{}, source{}, target{};
};

/// Axes that continue one another on both sides become one, and those of extent 1 none: the innermost is long.
inline StridedCopy merged_axes(const Shape& extents, const Strides& from_strides, const Strides& to_strides) {
  StridedCopy out;
  auto& [axes, extent, source, target] = out;
  for (int a = 0; a < extents.rank(); ++a) {
    const auto k = static_cast<std::size_t>(a);
    const Index e = extents[a];
    if (e == 1) continue;
    const bool continues = axes > 0 && source[axes - 1] == e * from_strides[k] && target[axes - 1] == e * to_strides[k];
    if (!continues) ++axes, extent[axes - 1] = 1;
    extent[axes - 1] *= e;
    source[axes - 1] = from_strides[k];
    target[axes - 1] = to_strides[k];
  }
  return out;
}

/// to[sum of i_a to_strides_a] = from[sum of i_a from_strides_a] for every position i of `extents`.
template <class T>
void copy_strided(const Shape& extents, const T* from, const Strides& from_strides, T* to, const Strides& to_strides) {
  if (extents.size() == 0) return;
  const StridedCopy copy = merged_axes(extents, from_strides, to_strides);
  const Strides &extent = copy.extent, &source = copy.source, &target = copy.target;
  const std::size_t axes = copy.axes;
  if (axes == 0) {
    *to = *from;
    return;
  }
  const std::size_t last = axes - 1;
  const Index inner = extent[last], step_from = source[last], step_to = target[last];
  ThreadPool::instance().parallel_for(extents.size() / inner, 16384 / inner + 1, [&](Index begin, Index end) {
    for (Index run = begin; run < end; ++run) {
      Index rest = run;
      const T* x = from;
      T* y = to;
      for (std::size_t a = last; a-- > 0; rest /= extent[a]) {
        x += rest % extent[a] * source[a];
        y += rest % extent[a] * target[a];
      }
      if (step_from == 1 && step_to == 1)
        std::copy_n(x, inner, y);
      else
        for (Index i = 0; i < inner; ++i) y[i * step_to] = x[i * step_from];
    }
  });
}

}  // namespace settle::cpu
