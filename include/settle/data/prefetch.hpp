#pragma once
#include "settle/core/macros_off.hpp"
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/fork.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

/// Values made on threads of their own, ahead of whoever takes them: the next batch while this one is trained on.
///
///     Prefetch<PathfinderBatch> batches([&](Index k) { return pathfinder.batch(seed, first(k), n); });
///     const PathfinderBatch batch = batches.next();
template <class Value>
class Prefetch {
 public:
  /// make(k) gives the k-th value, k = 0, 1, 2, ...; it is called on the other threads, `workers` >= 1 at once, for at
  /// most `ahead` >= 1 values that nobody has taken yet. Values come out in order whoever made them first.
  explicit Prefetch(std::function<Value(Index)> make, std::size_t ahead = 1, int workers = 1) {
    require(ahead >= 1, "prefetch", "expected at least 1 value ahead, got ", ahead);
    require(workers >= 1, "prefetch", "expected at least 1 worker, got ", workers);
    work_ = std::make_unique<Work>(std::move(make), ahead, workers);
  }
  /// Waits until the values that are being made are done.
  ~Prefetch() {
    // Its threads are the parent's, and nobody to wait for.
    if (!work_->of_this_process()) Forks::abandon(work_.release());
  }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  /// The next value in order; waits until it is made. Rethrows what make threw for it, then and ever after. Throws Error
  /// in a child of fork(), where nobody makes values.
  Value next() {
    require(work_->of_this_process(), "prefetch", "the thread that makes the values is another process's: make a "
            "Prefetch after fork()");
    return work_->next();
  }

 private:
  class Work {
   public:
    Work(std::function<Value(Index)> make, std::size_t ahead, int workers) : make_(std::move(make)), ahead_(ahead) {
      for (int k = 0; k < workers; ++k)
        threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
    }
    ~Work() {
      for (std::jthread& thread : threads_) thread.request_stop();
    }
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

    bool of_this_process() const { return forks_ == Forks::count(); }

    Value next() {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !slots_.empty() && slots_.front().done; });
      Slot& first = slots_.front();
      if (first.error) std::rethrow_exception(first.error);
      Value value = std::move(*first.value);
      slots_.pop_front();
      ++taken_;
      changed_.notify_all();
      return value;
    }

   private:
    struct Slot {
      std::optional<Value> value;
      std::exception_ptr error;
      bool done = false;
    };

    void work(const std::stop_token& stop) {
      for (std::unique_lock lock(mutex_); wait_for_room(lock, stop);) {
        const Index k = taken_ + static_cast<Index>(slots_.size());
        slots_.emplace_back();
        lock.unlock();
        Slot made{.value = {}, .error = {}, .done = true};
        try {
          made.value = make_(k);
        } catch (...) {
          made.error = std::current_exception();
        }
        lock.lock();
        failed_ = failed_ || made.error;
        slots_[static_cast<std::size_t>(k - taken_)] = std::move(made);
        changed_.notify_all();
      }
    }

    /// Whether there is room for one more value; false when told to stop, and when making one has failed.
    bool wait_for_room(std::unique_lock<std::mutex>& lock, const std::stop_token& stop) {
      return changed_.wait(lock, stop, [&] { return slots_.size() < ahead_ || failed_; }) && !stop.stop_requested() &&
             !failed_;
    }

    const unsigned forks_ = Forks::count();
    std::function<Value(Index)> make_;
    std::size_t ahead_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Slot> slots_;  ///< made or being made, from value `taken_` on
    Index taken_ = 0;
    bool failed_ = false;
    std::vector<std::jthread> threads_;  ///< the last member: they stop before the others end
  };

  std::unique_ptr<Work> work_;
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
