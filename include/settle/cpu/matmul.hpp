#pragma once
#include <Eigen/Core>
#include <algorithm>

#include "settle/core/threads.hpp"
#include "settle/cpu/matmul_geometry.hpp"

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

namespace detail {

/// Rows [begin, end) of one product.
template <class T>
void matmul_rows(const MatmulGeometry& g, const T* a, const T* b, T* y, Index begin, Index end) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Operand = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
  const Index rows = end - begin;
  Eigen::Map<Matrix> out(y + begin * g.columns, rows, g.columns);
  const auto multiply = [&](const auto& left) {
    if (g.transpose_b)
      out.noalias() = left * Operand(b, g.columns, g.inner, Eigen::OuterStride<>(g.inner)).transpose();
    else
      out.noalias() = left * Operand(b, g.inner, g.columns, Eigen::OuterStride<>(g.columns));
  };
  if (g.transpose_a)
    multiply(Operand(a + begin, g.inner, rows, Eigen::OuterStride<>(g.rows)).transpose());
  else
    multiply(Operand(a + begin * g.inner, rows, g.inner, Eigen::OuterStride<>(g.inner)));
}

}  // namespace detail

// Split over the threads by matrices, or by rows where there are few.
template <class T>
void matmul(const MatmulGeometry& g, const T* a, const T* b, T* y) {
  if (g.batch * g.rows * g.columns == 0) return;
  if (g.inner == 0) {
    std::fill_n(y, g.batch * g.rows * g.columns, T(0));
    return;
  }
  constexpr Index least = 32768;  // multiply-adds that are worth a thread
  ThreadPool& pool = ThreadPool::instance();
  const Index work = g.rows * g.inner * g.columns;
  const auto one = [&](Index n, Index begin, Index end) {
    detail::matmul_rows(g, a + n * g.rows * g.inner, b + n * g.inner * g.columns, y + n * g.rows * g.columns, begin,
                        end);
  };
  if (g.batch >= pool.size()) {
    pool.parallel_for(g.batch, least / work + 1, [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n) one(n, 0, g.rows);
    });
  } else {
    for (Index n = 0; n < g.batch; ++n)
      pool.split(g.rows, pool.parts_for(g.rows, least / std::max<Index>(g.inner * g.columns, 1) + 1),
                 [&](int, Index begin, Index end) { one(n, begin, end); });
  }
}

}  // namespace settle::cpu
