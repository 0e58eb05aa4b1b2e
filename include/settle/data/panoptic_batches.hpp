#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "settle/data/loader.hpp"
#include "settle/data/panoptic_transforms.hpp"

namespace settle::inline v0_2 {

/// How a panoptic data set is gone through.
struct PanopticBatchOptions {
  Index batch = 2;            ///< images
  std::uint64_t seed = 1;
  bool shuffle = true;        ///< another order in each epoch; else the data set's
  bool group_aspects = true;  ///< images broader than high come together, and the others
  PanopticAugmentation augmentation = {};
};

/// The samples of a batch, changed at random.
struct PanopticBatch {
  Index number = 0;
  std::vector<PanopticSample> samples;
};

/// A panoptic data set in batches without end. Batch k is a function of the options and k alone. In an epoch each image
/// comes once; its order is a random one, from which images of like shape are collected until they are a batch. What is
/// left at the end of an epoch makes batches of mixed shapes, the last of which may be short.
class PanopticBatches {
 public:
  /// Throws Error for an empty data set and batches below 1.
  PanopticBatches(PanopticData data, PanopticBatchOptions options)
      : data_(std::move(data)), options_(std::move(options)) {
    require(data_.size() >= 1, "panoptic_batches", "expected at least 1 image, got a data set of ", data_.size());
    require(options_.batch >= 1, "panoptic_batches", "expected batches of at least 1, got ", options_.batch);
    const Index b = options_.batch;
    if (in_order()) {
      per_epoch_ = (data_.size() + b - 1) / b;
      return;
    }
    std::array<Index, 2> count{};
    for (Index i = 0; i < data_.size(); ++i) {
      const Extent extent = options_.group_aspects ? data_.extent(i) : Extent{};
      broad_.push_back(extent[1] > extent[0]);
      ++count[broad_.back() ? 1 : 0];
    }
    per_epoch_ = count[0] / b + count[1] / b + (count[0] % b + count[1] % b + b - 1) / b;
  }

  const PanopticData& data() const { return data_; }
  Index batches_per_epoch() const { return per_epoch_; }

  /// Batch k, k >= 0. Several threads may call it. Throws DataError where a sample cannot be had.
  PanopticBatch batch(Index k) const {
    require(k >= 0, "panoptic_batches", "expected a batch's number of at least 0, got ", k);
    const Index epoch = k / per_epoch_;
    PanopticBatch out{k, {}};
    for (const Index i : samples_of(epoch, k % per_epoch_)) {
      // As Loader's streams: epochs are far from those that shuffle.
      Random random(options_.seed ^ (std::uint64_t{0x9E3779B97F4A7C15} * (static_cast<std::uint64_t>(epoch) + 1)),
                    static_cast<std::uint64_t>(i));
      out.samples.push_back(augmented(data_.sample(i), options_.augmentation, random));
    }
    return out;
  }

 private:
  using Lists = std::vector<std::vector<Index>>;

  /// Whether no list is needed: a data set may be too large for one, as drawn scenes are.
  bool in_order() const { return !options_.shuffle && !options_.group_aspects; }

  std::vector<Index> samples_of(Index epoch, Index batch) const {
    if (!in_order()) return (*numbers(epoch))[static_cast<std::size_t>(batch)];
    const Index first = batch * options_.batch;
    std::vector<Index> out(static_cast<std::size_t>(std::min(options_.batch, data_.size() - first)));
    std::iota(out.begin(), out.end(), first);
    return out;
  }

  /// The images of each batch of an epoch; those of the last epochs are kept.
  std::shared_ptr<const Lists> numbers(Index epoch) const {
    const std::lock_guard lock(*mutex_);
    auto& kept = (*epochs_)[epoch];
    if (!kept) kept = std::make_shared<const Lists>(grouped(epoch));
    const auto found = kept;
    while (epochs_->size() > 2) epochs_->erase(epochs_->begin());
    return found;
  }

  Lists grouped(Index epoch) const {
    std::vector<Index> order(static_cast<std::size_t>(data_.size()));
    std::iota(order.begin(), order.end(), Index{0});
    if (options_.shuffle) order = permutation(data_.size(), options_.seed, epoch);
    Lists out;
    std::array<std::vector<Index>, 2> waiting;
    for (const Index i : order) {
      auto& group = waiting[broad_[static_cast<std::size_t>(i)] ? 1 : 0];
      group.push_back(i);
      if (std::ssize(group) == options_.batch) out.push_back(std::exchange(group, {}));
    }
    std::vector<Index> rest;
    for (const auto& group : waiting)
      for (const Index i : group) {
        rest.push_back(i);
        if (std::ssize(rest) == options_.batch) out.push_back(std::exchange(rest, {}));
      }
    if (!rest.empty()) out.push_back(rest);
    return out;
  }

  PanopticData data_;
  PanopticBatchOptions options_;
  std::vector<bool> broad_;
  Index per_epoch_ = 0;
  std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();
  std::shared_ptr<std::map<Index, std::shared_ptr<const Lists>>> epochs_ =
      std::make_shared<std::map<Index, std::shared_ptr<const Lists>>>();
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
