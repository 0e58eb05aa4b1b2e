#pragma once
#include <algorithm>
#include <vector>

#include "settle/core/threads.hpp"

namespace settle::inline v0_2::cpu {

/// A sparse matrix by rows: row i has weight[k] in column[k] for start[i] <= k < start[i + 1].
struct SparseMatrix {
  Index rows = 0, columns = 0;
  std::vector<Index> start{0};
  std::vector<Index> column;
  std::vector<double> weight;

  /// Makes room for so many rows of at most so many entries; throws Error "[where] ..." where there is none.
  void reserve(const char* where, Index most_rows, Index most_entries) {
    require(most_entries <= Shape::max_size / std::max<Index>(most_rows, 1), where, "a matrix of ", most_rows,
            " rows of ", most_entries, " entries is too large");
    const auto r = static_cast<std::size_t>(most_rows), entries = r * static_cast<std::size_t>(most_entries);
    with_memory(where, (r + 2 * entries) * sizeof(Index), [&] {
      start.reserve(r + 1), column.reserve(entries), weight.reserve(entries);
    });
  }
  /// Adds an entry to the row that comes next.
  void add(Index c, double w) {
    column.push_back(c);
    weight.push_back(w);
  }
  /// Ends the row.
  void end_row() {
    ++rows;
    start.push_back(static_cast<Index>(column.size()));
  }
};

inline SparseMatrix transposed(const SparseMatrix& m) {
  SparseMatrix out;
  out.rows = m.columns, out.columns = m.rows;
  out.start.assign(static_cast<std::size_t>(m.columns + 1), 0);
  out.column.resize(m.column.size()), out.weight.resize(m.weight.size());
  for (Index c : m.column) ++out.start[static_cast<std::size_t>(c + 1)];
  for (std::size_t c = 1; c < out.start.size(); ++c) out.start[c] += out.start[c - 1];
  std::vector<Index> next(out.start.begin(), out.start.end() - 1);
  for (Index r = 0; r < m.rows; ++r)
    for (auto k = static_cast<std::size_t>(m.start[static_cast<std::size_t>(r)]);
         k < static_cast<std::size_t>(m.start[static_cast<std::size_t>(r + 1)]); ++k) {
      const auto to = static_cast<std::size_t>(next[static_cast<std::size_t>(m.column[k])]++);
      out.column[to] = r, out.weight[to] = m.weight[k];
    }
  return out;
}

/// y[o, i, :] = sum over j of m[i, j] x[o, j, :], for x (outer, columns, inner) and y (outer, rows, inner).
template <class T>
void multiply_along(const SparseMatrix& m, Index outer, Index inner, const T* x, T* y) {
  ThreadPool::instance().parallel_for(
      outer * m.rows, 8192 / std::max<Index>(inner, 1) + 1, [&](Index begin, Index end) {
        for (Index row = begin; row < end; ++row) {
          const Index i = row % m.rows;
          const T* from = x + row / m.rows * m.columns * inner;
          T* to = y + row * inner;
          std::fill_n(to, inner, T(0));
          for (Index k = m.start[static_cast<std::size_t>(i)]; k < m.start[static_cast<std::size_t>(i + 1)]; ++k) {
            const T w = static_cast<T>(m.weight[static_cast<std::size_t>(k)]);
            const T* values = from + m.column[static_cast<std::size_t>(k)] * inner;
            for (Index j = 0; j < inner; ++j) to[j] += w * values[j];
          }
        }
      });
}

}  // namespace settle::cpu
