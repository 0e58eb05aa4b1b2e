#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

namespace settle {

/// Values made on a thread of their own, ahead of whoever takes them: the next batch while this one is trained on.
///
///     Prefetch<PathfinderBatch> batches([&](Index k) { return pathfinder.batch(seed, first(k), n); });
///     const PathfinderBatch batch = batches.next();
template <class Value>
class Prefetch {
 public:
  /// make(k) gives the k-th value, k = 0, 1, 2, ...; it is called on the other thread, in this order, for at most
  /// `ahead` >= 1 values that nobody has taken yet.
  explicit Prefetch(std::function<Value(Index)> make, std::size_t ahead = 1) : make_(std::move(make)), ahead_(ahead) {
    require(ahead >= 1, "prefetch", "expected at least 1 value ahead, got ", ahead);
    thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }
  /// Waits until a value that is being made is done.
  ~Prefetch() = default;
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// The next value in order; waits until it is made. Rethrows what make threw for it, then and ever after.
  Value next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_; });
    if (ready_.empty()) std::rethrow_exception(error_);
    Value value = std::move(ready_.front());
    ready_.pop_front();
    changed_.notify_all();
    return value;
  }

 private:
  void work(const std::stop_token& stop) {
    try {
      for (Index k = 0; wait_for_room(stop); ++k) {
        Value value = make_(k);
        std::lock_guard lock(mutex_);
        ready_.push_back(std::move(value));
        changed_.notify_all();
      }
    } catch (...) {
      std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
  }

  /// Whether there is room for one more value; false when told to stop.
  bool wait_for_room(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    return changed_.wait(lock, stop, [&] { return ready_.size() < ahead_; }) && !stop.stop_requested();
  }

  std::function<Value(Index)> make_;
  std::size_t ahead_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Value> ready_;
  std::exception_ptr error_;
  std::jthread thread_;  ///< the last member: it stops before the others end
};

}  // namespace settle
