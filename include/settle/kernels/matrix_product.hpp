#pragma once
#include "settle/core/shape.hpp"

namespace settle::inline v0_2::kernels {

/// A batch of products c (rows, columns) = a (rows, inner) b (inner, columns) of matrices that are stored row by row.
struct MatrixProduct {
  Index batch = 1, rows = 0, inner = 0, columns = 0;
  bool transpose_a = false;                  ///< a is stored as (inner, rows)
  bool transpose_b = false;                  ///< b is stored as (columns, inner)
  Index row_a = 0, row_b = 0, row_c = 0;     ///< from one stored row to the next
  Index next_a = 0, next_b = 0, next_c = 0;  ///< from one matrix of the batch to the next; 0: the same for all
  bool add = false;                          ///< c += a b
};

}  // namespace settle::kernels
