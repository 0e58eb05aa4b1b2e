#pragma once
#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/distributed/group.hpp"

namespace settle::inline v0_2::distributed {

namespace detail {

/// Where the threads of a group meet: each puts down where its bytes are, reads the others', and goes when all have
/// read.
class MeetingPlace {
 public:
  explicit MeetingPlace(int size) : given_(static_cast<std::size_t>(size)), rank_turns_(given_.size(), 0) {}

  int size() const { return static_cast<int>(given_.size()); }

  /// Calls read(what each gave) when all have come. Returns whether they came before the deadline and an alarm. Who has
  /// begun to read is waited for, as what it reads is another's: reading ends by itself.
  template <class Read>
  bool meet(int rank, ConstBytes mine, Deadline deadline, const Read& read) {
    std::unique_lock lock(mutex_);
    given_[static_cast<std::size_t>(rank)] = mine;
    come(rank, lock);
    const std::uint64_t met = rank_turns_[static_cast<std::size_t>(rank)];
    if (!changed_.wait_until(lock, deadline, [&] { return turn_ >= met || broken_; }) || turn_ < met) {
      broken_ = true;
      return false;
    }
    lock.unlock();
    read(given_);
    lock.lock();
    come(rank, lock);
    changed_.wait(lock, [&] { return turn_ >= met + 1; });
    return true;
  }

  void raise_alarm(const std::string& why) {
    {
      const std::lock_guard lock(mutex_);
      if (!alarm_) alarm_ = why;
      broken_ = true;
    }
    changed_.notify_all();
  }
  std::optional<std::string> alarm() const {
    const std::lock_guard lock(mutex_);
    return alarm_;
  }
  /// The ranks that the others wait for.
  std::string missing() const {
    const std::lock_guard lock(mutex_);
    std::string out;
    for (std::size_t r = 0; r < rank_turns_.size(); ++r)
      if (rank_turns_[r] == turn_) out += (out.empty() ? "rank " : ", rank ") + std::to_string(r);
    return out;
  }

 private:
  /// One more of those that turn_ waits for.
  void come(int rank, std::unique_lock<std::mutex>& lock) {
    ++rank_turns_[static_cast<std::size_t>(rank)];
    if (++came_ < size() || broken_) return;
    came_ = 0;
    ++turn_;
    lock.unlock();
    changed_.notify_all();
    lock.lock();
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ConstBytes> given_;
  std::vector<std::uint64_t> rank_turns_;  ///< how often each came
  std::uint64_t turn_ = 0;                 ///< how often all came
  int came_ = 0;                           ///< how many came since
  bool broken_ = false;  ///< a rank has gone without having met the others: nobody may read what it gave
  std::optional<std::string> alarm_;
};

class ThreadsEngine : public Engine {
 public:
  ThreadsEngine(std::shared_ptr<MeetingPlace> place, int rank) : place_(std::move(place)), rank_(rank) {}

  const char* name() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return place_->size(); }

  bool gather(ConstBytes mine, Bytes all, Deadline deadline) override {
    return place_->meet(rank_, mine, deadline, [&](const std::vector<ConstBytes>& given) {
      for (std::size_t r = 0; r < given.size(); ++r)
        std::copy(given[r].begin(), given[r].end(), all.data() + r * mine.size());
    });
  }
  bool exchange(ConstBytes from, Bytes to, Deadline deadline) override {
    const std::size_t part = from.size() / static_cast<std::size_t>(size());
    return place_->meet(rank_, from, deadline, [&](const std::vector<ConstBytes>& given) {
      for (std::size_t r = 0; r < given.size(); ++r)
        std::copy_n(given[r].data() + static_cast<std::size_t>(rank_) * part, part, to.data() + r * part);
    });
  }
  bool broadcast(Bytes what, int root, Deadline deadline) override {
    return place_->meet(rank_, what, deadline, [&](const std::vector<ConstBytes>& given) {
      const ConstBytes source = given[static_cast<std::size_t>(root)];
      if (rank_ != root) std::copy(source.begin(), source.end(), what.begin());
    });
  }
  void raise_alarm(const std::string& why) noexcept override {
    try {
      place_->raise_alarm(why);
    } catch (...) {  // no memory for the text: the others see the deadline
    }
  }
  std::optional<std::string> alarm() override { return place_->alarm(); }
  std::string missing() const override { return place_->missing(); }

 private:
  std::shared_ptr<MeetingPlace> place_;
  int rank_;
};

}  // namespace detail

/// Runs f(group) on `size` threads that are the ranks of one group. An exception on one rank is told to the others,
/// which then throw too; the first is rethrown here when all have ended.
template <class F>
void on_threads(int size, const F& f) {
  require(size >= 1, "distributed", "expected at least one rank, got ", size);
  const auto place = std::make_shared<detail::MeetingPlace>(size);
  std::exception_ptr first;
  std::mutex mutex;
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size; ++r)
      threads.emplace_back([&, r] {
        const Group group(std::make_shared<detail::ThreadsEngine>(place, r));
        try {
          f(group);
        } catch (const std::exception& error) {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
          group.abandon(error.what());
        }
      });
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace settle::distributed
