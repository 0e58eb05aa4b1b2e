#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "settle/core/shape.hpp"

namespace settle::inline v0_2::distributed {

/// Calls add(a, b), which adds the terms of rank b to those of rank a, in the order of a binary tree over the ranks;
/// then rank 0 holds the sum of all. The order depends on the number of ranks alone, so that every rank, on whatever
/// engine, has the same bits, and an aligned subtree of 2^k ranks can be summed on its own first.
template <class Add>
void add_in_tree(Index ranks, const Add& add) {
  for (Index step = 1; step < ranks; step *= 2)
    for (Index r = 0; r + step < ranks; r += 2 * step) add(r, r + step);
}

}  // namespace settle::distributed
