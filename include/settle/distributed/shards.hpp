#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
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
#include "settle/distributed/threads.hpp"

namespace settle::inline v0_2::distributed {

namespace detail {

/// What the threads of a process share: where they meet, and what goes to the other processes and comes from them.
struct ShardHub {
  ShardHub(int threads, Group p) : place(threads), processes(std::move(p)) {}
  MeetingPlace place;
  Group processes;
  std::vector<std::byte> sent, received;
  bool told = false;  ///< the other processes of an alarm here: the first thread's own
};

/// A rank that is one of several threads of one of several processes. The first thread, which is the process's main one,
/// speaks with the other processes for all of them.
class ShardEngine : public Engine {
 public:
  ShardEngine(std::shared_ptr<ShardHub> hub, int thread) : hub_(std::move(hub)), thread_(thread) {}

  const char* name() const override { return "shards"; }
  int rank() const override { return hub_->processes.rank() * threads() + thread_; }
  int size() const override { return hub_->processes.size() * threads(); }

  bool gather(ConstBytes mine, Bytes all, Deadline deadline) override {
    const std::size_t bytes = mine.size();
    return put_down(mine, deadline,
                    [&](const std::vector<ConstBytes>& given) {
                      hub_->sent.resize(bytes * given.size());
                      for (std::size_t t = 0; t < given.size(); ++t)
                        std::copy(given[t].begin(), given[t].end(), hub_->sent.data() + t * bytes);
                    }) &&
           speak(deadline,
                 [&] {
                   hub_->received.resize(all.size());
                   hub_->processes.gather(hub_->sent, hub_->received);
                 }) &&
           take_up(deadline, [&] { std::copy(hub_->received.begin(), hub_->received.end(), all.begin()); });
  }

  bool exchange(ConstBytes from, Bytes to, Deadline deadline) override {
    const auto n = static_cast<std::size_t>(threads()), processes = static_cast<std::size_t>(hub_->processes.size());
    const std::size_t part = from.size() / (n * processes), block = n * n * part;
    // For each process what each thread here has for each thread there.
    return put_down(from, deadline,
                    [&](const std::vector<ConstBytes>& given) {
                      hub_->sent.resize(processes * block);
                      for (std::size_t p = 0; p < processes; ++p)
                        for (std::size_t t = 0; t < n; ++t)
                          std::copy_n(given[t].data() + p * n * part, n * part,
                                      hub_->sent.data() + p * block + t * n * part);
                    }) &&
           speak(deadline,
                 [&] {
                   hub_->received.resize(hub_->sent.size());
                   hub_->processes.exchange(hub_->sent, hub_->received);
                 }) &&
           take_up(deadline, [&] {
             const auto me = static_cast<std::size_t>(thread_);
             for (std::size_t r = 0; r < n * processes; ++r)
               std::copy_n(hub_->received.data() + r * n * part + me * part, part, to.data() + r * part);
           });
  }

  bool broadcast(Bytes what, int root, Deadline deadline) override {
    const int process = root / threads(), thread = root % threads();
    const bool here = process == hub_->processes.rank();
    return put_down(what, deadline,
                    [&](const std::vector<ConstBytes>& given) {
                      const ConstBytes source = given[static_cast<std::size_t>(here ? thread : 0)];
                      hub_->received.assign(source.begin(), source.end());
                    }) &&
           speak(deadline, [&] { hub_->processes.broadcast(hub_->received, process); }) && take_up(deadline, [&] {
             if (rank() != root) std::copy(hub_->received.begin(), hub_->received.end(), what.begin());
           });
  }

  void raise_alarm(const std::string& why) noexcept override {
    try {
      hub_->place.raise_alarm(why);
      tell_others();
    } catch (...) {  // no memory for the text: the others see the deadline
    }
  }
  std::optional<std::string> alarm() override {
    if (thread_ == 0) tell_others();
    return hub_->place.alarm();
  }
  std::string missing() const override {
    const std::string threads = hub_->place.missing();
    return hub_->processes.size() == 1 ? threads : "threads of process " + std::to_string(hub_->processes.rank());
  }

 private:
  int threads() const { return hub_->place.size(); }

  /// Of what all threads give, the first one makes a message.
  template <class Read>
  bool put_down(ConstBytes mine, Deadline deadline, const Read& read) {
    return hub_->place.meet(thread_, mine, deadline, [&](const std::vector<ConstBytes>& given) {
      if (thread_ == 0) read(given);
    });
  }
  template <class Speak>
  bool speak(Deadline deadline, const Speak& speak) {
    if (thread_ != 0) return true;
    hub_->processes.patience(std::max(deadline - std::chrono::steady_clock::now(), Deadline::duration(0)));
    try {
      speak();
    } catch (const Error& error) {  // known to all processes
      hub_->told = true;
      hub_->place.raise_alarm(error.what());
      throw;
    }
    return true;
  }
  template <class Take>
  bool take_up(Deadline deadline, const Take& take) {
    return hub_->place.meet(thread_, {}, deadline, [&](const std::vector<ConstBytes>&) { take(); });
  }
  void tell_others() {
    if (thread_ != 0 || hub_->told) return;
    const auto why = hub_->place.alarm();
    if (!why) return;
    hub_->told = true;
    hub_->processes.abandon(*why);
  }

  std::shared_ptr<ShardHub> hub_;
  int thread_;
};

}  // namespace detail

/// Runs f(ranks) on `shards` ranks, an equal number of them as threads of each process, this thread among them. What is
/// summed over ranks depends on their number alone: a training on 4 shards has the same bits on 1, 2 and 4 processes,
/// where each has as many threads in its pool. With one shard a process, f is given the processes' own group. An
/// exception on one rank is told to all; this process's first is rethrown here when its ranks have ended. Throws Error
/// unless the number of shards is a multiple of that of the processes.
template <class F>
void on_shards(const Group& processes, int shards, const F& f) {
  require(shards >= 1 && shards % processes.size() == 0, "distributed", "expected a number of shards that ",
          processes.size(), " processes can hold in equal parts, got ", shards);
  const int threads = shards / processes.size();
  std::exception_ptr first;
  std::mutex mutex;
  const auto run = [&](const Group& ranks) {
    try {
      f(ranks);
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      ranks.abandon(error.what());
    }
  };
  if (threads == 1) {
    run(processes);
  } else {
    const auto hub = std::make_shared<detail::ShardHub>(threads, processes);
    const auto group_of = [&](int t) { return Group(std::make_shared<detail::ShardEngine>(hub, t)); };
    std::vector<std::jthread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back([&, t] { run(group_of(t)); });
    run(group_of(0));
    others.clear();
    detail::ShardEngine(hub, 0).alarm();  // if it came after the first thread's end
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace settle::distributed
