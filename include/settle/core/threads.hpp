#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/denormals.hpp"
#include "settle/core/fork.hpp"
#include "settle/core/processors.hpp"
#include "settle/core/round_up.hpp"
#include "settle/core/scoped_value.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

/// A fixed set of threads that work on loops cut in contiguous parts. The parts depend on the counts alone, so results
/// are the same bits for the same number of threads, whichever thread takes a part: each takes those of its own share,
/// which is always the same, then what others have not begun. So what is a thread's own, such as a preferred algorithm,
/// must be set inside a part. A loop inside a part of a loop runs on the part's thread, and so does a loop that is
/// started while the threads work on another: a part may wait for any thread. Parts flush denormal results to zero, on
/// whichever thread. In a child of fork() the pool starts anew with its first loop.
class ThreadPool {
 public:
  static constexpr int max_threads = 4096;

  /// A pool of `threads` in all: the caller works too. Throws Error for less than 1 or more than max_threads.
  explicit ThreadPool(int threads = default_threads()) : team_(new Team(threads)) {}
  ~ThreadPool() { dismiss(team_); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// The pool that the library's operations use.
  static ThreadPool& instance() {
    static ThreadPool* pool = new ThreadPool;  // never destroyed: whatever outlives main may need it
    return *pool;
  }

  int size() const { return team_.load(std::memory_order_acquire)->size(); }

  /// Changes the number of threads; not while work is running. Errors as for a new pool.
  void resize(int threads) { dismiss(team_.exchange(new Team(threads))); }

  /// Calls f(part) for part = 0 ... parts-1, each once; returns when all are done. An exception is rethrown here, the
  /// first if there are several; whether parts after it are called is left open. Throws Error for more than 65535
  /// parts.
  template <class F>
  void run(int parts, const F& f) {
    require(parts <= 0xffff, "threads", "expected at most 65535 parts, got ", parts);
    const FlushDenormals flush;
    const auto alone = [&] {
      const ScopedValue<int> only(current(), 0);
      for (int p = 0; p < parts; ++p) f(p);
    };
    if (parts <= 1 || inside()) return alone();
    Team& team = this_process_team();
    if (team.size() == 1) return alone();
    if (team.run(parts, f)) return;
    const ScopedValue<bool> in_loop(inside(), true);  // as among other threads
    alone();
  }

  /// Splits [0, count) in `parts` contiguous ranges and calls f(part, begin, end) on each.
  template <class F>
  void split(Index count, int parts, const F& f) {
    run(parts, [&](int p) { f(p, count * p / parts, count * (p + 1) / parts); });
  }

  /// Splits [0, count) in contiguous ranges of at least `grain` and calls f(begin, end) on each.
  template <class F>
  void parallel_for(Index count, Index grain, const F& f) {
    if (count <= 0) return;
    split(count, small_parts_for(count, grain), [&](int, Index begin, Index end) { f(begin, end); });
  }

  /// The number of the thread among those that may work on the innermost loop around, 0 where there is none. Memory
  /// that each part uses anew can be a thread's.
  static int thread() { return current(); }

  /// The number of threads that may work on a loop of so many parts, which thread() is below.
  int threads_for(int parts) const { return parts <= 1 || inside() ? 1 : size(); }

  /// The number of parts for a loop that needs memory for each: at least `grain` long, no more than threads.
  int parts_for(Index count, Index grain) const {
    return static_cast<int>(std::clamp<Index>(count / std::max<Index>(grain, 1), 1, inside() ? 1 : size()));
  }

  /// The number of parts for other loops: several for each thread if they are long, so that one that is held up can be
  /// helped.
  int small_parts_for(Index count, Index grain) const {
    const Index least = parts_for(count, grain);
    if (least == 1) return 1;
    const Index most = count / (8 * std::max<Index>(grain, 1) * least);
    return static_cast<int>(least * std::clamp<Index>(most, 1, 8));
  }

  /// The number in the environment's SETTLE_THREADS; without it the processors that the process may use. Throws Error
  /// for another text than a number from 1 to 4096.
  static int default_threads() {
    const char* const asked = std::getenv("SETTLE_THREADS");
    if (!asked) return std::min(usable_processors(), max_threads);
    char* end = nullptr;
    const long threads = std::strtol(asked, &end, 10);
    require(end != asked && *end == 0 && threads >= 1 && threads <= max_threads, "threads",
            "expected a number from 1 to ", max_threads, " in SETTLE_THREADS, got '", asked, "'");
    return static_cast<int>(threads);
  }

 private:
  /// The parts of a thread's share that nobody has begun: the loop's number, the first part and the end in one word.
  class alignas(64) Share {
   public:
    void offer(std::uint32_t loop, int begin, int end) {
      parts_.store(word(loop, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)),
                   std::memory_order_release);
    }
    /// Takes the first part, or the last for another thread; -1 when there is none of this loop.
    int take(std::uint32_t loop, bool last) {
      for (std::uint64_t now = parts_.load(std::memory_order_acquire);;) {
        const auto begin = static_cast<std::uint32_t>(now >> 16 & 0xffff),
                   end = static_cast<std::uint32_t>(now & 0xffff);
        if (now >> 32 != loop || begin >= end) return -1;
        const std::uint64_t rest = last ? word(loop, begin, end - 1) : word(loop, begin + 1, end);
        if (parts_.compare_exchange_weak(now, rest, std::memory_order_acq_rel, std::memory_order_acquire))
          return static_cast<int>(last ? end - 1 : begin);
      }
    }

   private:
    static std::uint64_t word(std::uint32_t loop, std::uint32_t begin, std::uint32_t end) {
      return std::uint64_t{loop} << 32 | begin << 16 | end;
    }
    std::atomic<std::uint64_t> parts_{0};
  };

  static bool& inside() {
    thread_local bool value = false;
    return value;
  }
  static int& current() {
    thread_local int number = 0;
    return number;
  }

  /// The threads of a pool, and the loop that they work on.
  class Team {
   public:
    explicit Team(int threads) {
      require(threads >= 1 && threads <= max_threads, "threads", "expected 1 to ", max_threads, " threads, got ",
              threads);
      shares_ = std::make_unique<Share[]>(static_cast<std::size_t>(threads));
      try {
        for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { wait_and_work(t); });
      } catch (const std::system_error& error) {
        stop();
        fail("threads", "the system gives ", workers_.size(), " threads, not ", threads - 1, ": ", error.what());
      }
      size_ = threads;
    }
    ~Team() { stop(); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }
    bool of_this_process() const { return forks_ == Forks::count(); }

    /// Calls f(part) for all parts; or returns false, and does nothing, while the threads work on another loop.
    template <class F>
    bool run(int parts, const F& f) {
      const std::unique_lock one_loop_at_a_time(loop_mutex_, std::try_to_lock);
      if (!one_loop_at_a_time) return false;
      const std::uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
      call_.store([](const void* g, int p) { (*static_cast<const F*>(g))(p); }, std::memory_order_relaxed);
      function_.store(&f, std::memory_order_relaxed);
      pending_.store(parts, std::memory_order_relaxed);
      const auto share_begin = [&](int t) { return divide_up(parts * t, size()); };
      for (int t = 0; t < size(); ++t) share(t).offer(loop, share_begin(t), share_begin(t + 1));
      {
        std::lock_guard lock(mutex_);
        loop_.store(loop, std::memory_order_release);
      }
      wake_.notify_all();
      work(0, loop);
      const auto done = [&] { return pending_.load(std::memory_order_acquire) == 0; };
      if (!look_for(done)) {
        std::unique_lock lock(mutex_);
        done_.wait(lock, done);
      }
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      return true;
    }

   private:
    Share& share(int thread) { return shares_[static_cast<std::size_t>(thread)]; }

    void stop() {
      {
        std::lock_guard lock(mutex_);
        stopping_ = true;
      }
      wake_.notify_all();
      for (auto& worker : workers_) worker.join();
    }

    void wait_and_work(int thread) {
      const FlushDenormals flush;
      for (std::uint32_t seen = 0;;) {
        const auto called = [&] { return stopping_.load() || loop_.load(std::memory_order_acquire) != seen; };
        if (!look_for(called)) {
          std::unique_lock lock(mutex_);
          wake_.wait(lock, called);
        }
        if (stopping_) return;
        seen = loop_.load(std::memory_order_acquire);
        work(thread, seen);
      }
    }

    /// Does parts of a loop until none is left to begin. The loop may be over already: then there is none of its parts.
    /// Whoever gets one knows that the loop is not over, and that the function that it read before is the loop's: the
    /// next one's is stored when all of this one's parts are done.
    void work(int thread, std::uint32_t loop) {
      const Call call = call_.load(std::memory_order_relaxed);
      const void* const function = function_.load(std::memory_order_relaxed);
      const ScopedValue<bool> in_loop(inside(), true);
      const ScopedValue<int> as_one_of_them(current(), thread);
      for (int t = thread; t < thread + size(); ++t) {
        Share& from = share(t % size());
        for (int part; (part = from.take(loop, t != thread)) >= 0;) {
          try {
            call(function, part);
          } catch (...) {
            std::lock_guard lock(mutex_);
            if (!error_) error_ = std::current_exception();
          }
          if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1 && thread != 0) {
            std::lock_guard lock(mutex_);  // the caller may be about to sleep
            done_.notify_one();
          }
        }
      }
    }

    /// Waits for something that should happen soon: recurrent loops hand out work every few microseconds, and to be woken
    /// from sleep takes up to a millisecond on a virtual machine. False: gave up after about as long, to sleep.
    template <class Happened>
    static bool look_for(const Happened& happened) {
      using Clock = std::chrono::steady_clock;
      for (int spin = 0; spin < 4000; ++spin) {
        if (happened()) return true;
        pause();
      }
      for (const auto end = Clock::now() + std::chrono::milliseconds(1); Clock::now() < end;) {
        if (happened()) return true;
        std::this_thread::yield();
      }
      return happened();
    }

    static void pause() {
  #if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
  #endif
    }

    using Call = void (*)(const void*, int);

    const unsigned forks_ = Forks::count();
    int size_ = 0;
    std::vector<std::thread> workers_;
    std::unique_ptr<Share[]> shares_;
    std::mutex loop_mutex_, mutex_;
    std::condition_variable wake_, done_;
    alignas(64) std::atomic<std::uint32_t> loop_{0};  ///< the number of the last loop
    std::atomic<Call> call_{nullptr};
    std::atomic<const void*> function_{nullptr};
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<int> pending_{0};  ///< parts that are not done
    std::exception_ptr error_;
  };

  /// The team; in a child of fork() a new one of as many threads, for those of the old one are its parent's.
  Team& this_process_team() {
    Team* team = team_.load(std::memory_order_acquire);
    if (team->of_this_process()) [[likely]]
      return *team;
    auto fresh = std::make_unique<Team>(team->size());
    if (team_.compare_exchange_strong(team, fresh.get())) {
      dismiss(team);
      team = fresh.release();
    }
    return *team;
  }
  /// Ends a team's threads, if they are this process's.
  static void dismiss(Team* team) {
    if (team->of_this_process())
      delete team;
    else
      Forks::abandon(team);
  }

  std::atomic<Team*> team_;
};

}  // namespace settle
