#pragma once
#include <algorithm>
#include <array>

#include "settle/core/threads.hpp"

namespace settle::inline v0_2::cpu {

/// Windows that slide over planes (height, width).
struct PoolGeometry {
  Index planes = 0;
  std::array<Index, 2> in{}, out{}, size{}, stride{}, padding{};
};

/// Where the largest value of each window is, as a position in x (planes, height, width): the first of equal ones, and
/// a NaN before any number. Padding is never chosen.
template <class T>
void max_pool_positions(const PoolGeometry& g, const T* x, Index* positions) {
  const Index height = g.in[0], width = g.in[1], outputs = g.out[0] * g.out[1];
  ThreadPool::instance().parallel_for(g.planes, 4096 / std::max<Index>(outputs, 1) + 1, [&](Index begin, Index end) {
    for (Index plane = begin; plane < end; ++plane)
      for (Index p = 0; p < g.out[0]; ++p) {
        const Index top = p * g.stride[0] - g.padding[0];
        const Index first_row = std::max<Index>(top, 0), last_row = std::min(top + g.size[0], height);
        for (Index q = 0; q < g.out[1]; ++q) {
          const Index left = q * g.stride[1] - g.padding[1];
          const Index first_column = std::max<Index>(left, 0), last_column = std::min(left + g.size[1], width);
          Index best = (plane * height + first_row) * width + first_column;
          for (Index row = first_row; row < last_row; ++row)
            for (Index column = first_column; column < last_column; ++column) {
              const Index here = (plane * height + row) * width + column;
              if (!(x[here] <= x[best]) && x[best] == x[best]) best = here;
            }
          positions[plane * outputs + p * g.out[1] + q] = best;
        }
      }
  });
}

}  // namespace settle::cpu
