#pragma once
#include "settle/core/shape.hpp"
#include "settle/cpu/instruction_set.hpp"

namespace settle::inline v0_2::cpu {

/// A batch of matrix products y (rows, columns) = a (rows, inner) b (inner, columns).
struct MatmulGeometry {
  Index batch = 1, rows = 0, inner = 0, columns = 0;
  bool transpose_a = false;  ///< a is stored as (inner, rows)
  bool transpose_b = false;  ///< b is stored as (columns, inner)
};

inline namespace SETTLE_INSTRUCTION_SET {

/// The products of all matrices of the batch. Defined in cpu/matmul.hpp, which includes Eigen: only those who multiply
/// matrices shall compile it.
template <class T>
void matmul(const MatmulGeometry& g, const T* a, const T* b, T* y);

}  // namespace SETTLE_INSTRUCTION_SET
}  // namespace settle::cpu
