#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "settle/core/random.hpp"
#include "settle/data/data_set.hpp"
#include "settle/data/prefetch.hpp"

namespace settle::inline v0_2 {

/// Changes a sample, image and masks together, by numbers drawn from the sample's own stream.
using Transform = std::function<void(Sample&, Random&)>;

/// The numbers 0 ... count - 1 in the order of an epoch, each order equally likely (Fisher and Yates' shuffle by the
/// stream of (seed, epoch)).
inline std::vector<Index> permutation(Index count, std::uint64_t seed, Index epoch) {
  require(count >= 0, "permutation", "expected a count of at least 0, got ", count);
  std::vector<Index> out(static_cast<std::size_t>(count));
  std::iota(out.begin(), out.end(), Index{0});
  Random random(seed, static_cast<std::uint64_t>(epoch));
  for (Index k = count - 1; k > 0; --k)
    std::swap(out[static_cast<std::size_t>(k)], out[static_cast<std::size_t>(random.below(k + 1))]);
  return out;
}

/// How a data set is gone through.
struct LoaderOptions {
  Index batch = 8;  ///< samples in a batch, of all shards together
  std::uint64_t seed = 1;
  bool shuffle = true;  ///< another order in each epoch; else the data set's
  bool endless = true;  ///< batches go on across the ends of epochs; else one epoch, whose last batch may be short
  Index shard = 0;      ///< this one's number, of
  Index shards = 1;     ///< so many that share each batch: in equal parts, the first ones one sample larger
  std::vector<Transform> transforms = {};
  int workers = 1;        ///< threads that read and transform
  std::size_t ahead = 2;  ///< batches that may wait, or be made, before they are asked for
};

/// A data set in batches, which are made ahead on threads of their own. Batch k is a function of the options and k
/// alone: it holds the positions k · batch, ... of the sequence of epochs, each sample changed by the stream of (seed,
/// epoch, sample). So the order is the same for any number of workers, and a loader that starts at batch k goes on as
/// if it had made all before. No sample is left out or repeated within an epoch.
///
/// `Value` is what `finish` makes of a batch, on the worker's thread: it may copy it to where the device reads.
template <class Value = Batch>
class Loader {
 public:
  Loader(DataSet data, LoaderOptions options, std::function<Value(Batch)> finish, Index first = 0)
      : data_(std::move(data)), options_(std::move(options)), finish_(std::move(finish)), next_(first) {
    const LoaderOptions& o = options_;
    require(data_.size() >= 1, "loader", "expected at least 1 sample, got a data set of ", data_.size());
    require(o.batch >= 1, "loader", "expected batches of at least 1, got ", o.batch);
    require(o.shards >= 1 && o.shard >= 0 && o.shard < o.shards, "loader", "expected a shard below ", o.shards,
            ", got ", o.shard);
    require(o.workers >= 1, "loader", "expected at least 1 worker, got ", o.workers);
    require(first >= 0, "loader", "expected a first batch of at least 0, got ", first);
    made_.emplace([this, first](Index k) { return finish_(make(first + k)); },
                  std::max(o.ahead, static_cast<std::size_t>(o.workers)), o.workers);
  }
  Loader(DataSet data, LoaderOptions options, Index first = 0) requires std::same_as<Value, Batch>
      : Loader(
            std::move(data), std::move(options), [](Batch batch) { return batch; }, first) {}
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The number of batches in all, where they end.
  Index batches() const { return (data_.size() + options_.batch - 1) / options_.batch; }
  bool done() const { return !options_.endless && next_ >= batches(); }

  /// The next batch; waits until it is made. Throws Error where there is none, and DataError with what went wrong where
  /// a sample could not be had.
  Value next() {
    require(!done(), "loader", "there are only ", batches(), " batches");
    ++next_;
    return made_->next();
  }

 private:
  Batch make(Index k) const {
    const Index size = data_.size(), begin = k * options_.batch;
    const Index count = options_.endless ? options_.batch : std::min(options_.batch, size - begin);
    if (count <= 0) return {};  // past the end: nobody will ask for it
    const Index whole = count / options_.shards, more = count % options_.shards;
    const Index from = options_.shard * whole + std::min(options_.shard, more);
    const Index own = whole + (options_.shard < more ? 1 : 0);
    if (own == 0) return {};
    std::vector<Sample> samples;
    for (Index position = begin + from; position < begin + from + own; ++position) {
      const Index epoch = position / size, number = position % size;
      samples.push_back(sample(options_.shuffle ? (*order(epoch))[static_cast<std::size_t>(number)] : number, epoch));
    }
    return stack(samples);
  }

  /// The order of an epoch; those of the last epochs are kept.
  std::shared_ptr<const std::vector<Index>> order(Index epoch) const {
    const std::lock_guard lock(order_mutex_);
    auto& kept = orders_[epoch];
    if (!kept) kept = std::make_shared<const std::vector<Index>>(permutation(data_.size(), options_.seed, epoch));
    const auto found = kept;
    while (orders_.size() > 2) orders_.erase(orders_.begin());
    return found;
  }

  Sample sample(Index number, Index epoch) const {
    try {
      Sample out = data_.sample(number);
      // Streams of 2^64: epochs in the seed's upper half are far from those that shuffle.
      Random random(options_.seed ^ (std::uint64_t{0x9E3779B97F4A7C15} * (static_cast<std::uint64_t>(epoch) + 1)),
                    static_cast<std::uint64_t>(number));
      for (const Transform& transform : options_.transforms) transform(out, random);
      return out;
    } catch (const DataError&) {
      throw;
    } catch (const Error& error) {
      throw DataError(error.what());
    }
  }

  DataSet data_;
  LoaderOptions options_;
  std::function<Value(Batch)> finish_;
  Index next_;
  mutable std::mutex order_mutex_;
  mutable std::map<Index, std::shared_ptr<const std::vector<Index>>> orders_;
  std::optional<Prefetch<Value>> made_;  ///< the last member: it stops before what it reads ends
};

}  // namespace settle
