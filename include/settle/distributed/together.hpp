#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "settle/core/scoped_value.hpp"
#include "settle/core/shape.hpp"
#include "settle/distributed/sums.hpp"

namespace settle::inline v0_2::distributed {

/// The part of a batch that one rank has: the samples first ... first + count - 1 of `all`.
struct Share {
  Index first = 0, count = 1, all = 1;

  /// What this rank's mean counts in the mean of all.
  double weight() const { return static_cast<double>(count) / static_cast<double>(all); }
  /// The mean's part in that of the whole batch, which is the sum of the ranks' parts: what is to be differentiated on
  /// each rank. Nothing is recorded where the rank has the whole batch.
  template <class Mean>
  Mean of(const Mean& mean) const {
    return count == all ? mean : Mean(weight() * mean);
  }
};

/// A batch in equal parts, in the order of the ranks, those of the first ones one sample larger where it must be: as
/// Loader cuts it. Throws Error for a negative batch.
inline Share share_of(Index batch, const Group& group) {
  require(batch >= 0, "distributed", "expected a batch of at least 0, got ", batch);
  const Index ranks = group.size(), rank = group.rank(), whole = batch / ranks, more = batch % ranks;
  return {rank * whole + std::min(rank, more), whole + (rank < more ? 1 : 0), batch};
}

/// A batch that the ranks of a group have in parts.
struct JoinedBatch {
  Group group;
  Share share;
};

/// While it lives, this thread's batches are parts of one batch of all ranks, and what depends on the whole batch is the
/// whole batch's: batch norm's statistics; the norms and stop rules of a step that couples samples, so that all ranks
/// take the same steps; norms that are over the whole batch anyway; random vectors, which go by a sample's place; and
/// denominators that depend on the data. Without it, and with a group of one, each rank's batch is a batch of its own,
/// as a replica of PyTorch's DataParallel has.
///
/// Losses and penalties are means over the samples, this rank's over its own: the whole batch's is the ranks' mean by
/// their numbers of samples, the sum of share.of(loss). One that is a sum, or a mean of another kind, is returned so
/// that this holds. So on each rank
///
///     const Share mine = share_of(images, ranks);
///     const Together together(ranks, mine);
///     const V objective = mine.of(penalised(focal_loss(...), penalty));   // of the rank's own samples
///     gradients = all_reduce(grad(objective, parameters), ranks);
///
/// Operations remember the scope that they were recorded in: the backward pass may be outside of it. All ranks must do
/// the same in the same order while it lives.
class Together {
 public:
  explicit Together(JoinedBatch batch)
      : batch_(std::move(batch)), scope_(current_batch(), batch_.group.size() > 1 ? &batch_ : nullptr) {}
  Together(const Group& group, const Share& share) : Together(JoinedBatch{group, share}) {}
  /// The ranks have equal parts.
  explicit Together(const Group& group) : Together(group, {group.rank(), 1, group.size()}) {}
  Together(const Together&) = delete;
  Together& operator=(const Together&) = delete;

  /// The batch of the innermost scope on this thread; null without one.
  static const JoinedBatch* current() { return current_batch(); }
  /// The same as a value: a group of one without a scope.
  static JoinedBatch now() { return current() ? *current() : JoinedBatch{}; }

 private:
  static const JoinedBatch*& current_batch() {
    thread_local const JoinedBatch* batch = nullptr;
    return batch;
  }

  JoinedBatch batch_;
  ScopedValue<const JoinedBatch*> scope_;
};

/// The largest over the whole batch of a number that is this rank's largest; the number itself without a Together.
inline double largest_over_batch(double largest) {
  if (const JoinedBatch* const batch = Together::current()) largest_over_ranks(std::span(&largest, 1), batch->group);
  return largest;
}

/// The mean over the whole batch of a number that is this rank's mean over its samples: the same bits on all ranks, and
/// the number itself without a Together.
inline double mean_over_batch(double mean) {
  const JoinedBatch* const batch = Together::current();
  if (!batch) return mean;
  double sum = batch->share.weight() * mean;
  sum_over_ranks(std::span(&sum, 1), batch->group);
  return sum;
}

}  // namespace settle::distributed
