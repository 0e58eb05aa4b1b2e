#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "settle/core/shape.hpp"

namespace settle {

/// A fixed set of threads that split loops in equal, contiguous parts. The split depends on the counts alone, so
/// results are the same bits for the same number of threads. A loop inside a loop runs on its own thread.
class ThreadPool {
 public:
  /// A pool of `threads` >= 1 in all: the caller works too.
  explicit ThreadPool(int threads = default_threads()) { start(threads); }
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// The pool that the library's operations use.
  static ThreadPool& instance() {
    static ThreadPool pool;
    return pool;
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Changes the number of threads; not while work is running.
  void resize(int threads) {
    stop();
    start(threads);
  }

  /// Calls f(part) for part = 0 ... parts-1, each exactly once, part p on thread p mod size(); returns when all are
  /// done. The first exception is rethrown here.
  template <class F>
  void run(int parts, const F& f) {
    if (parts <= 1 || workers_.empty() || inside()) {
      for (int p = 0; p < parts; ++p) f(p);
      return;
    }
    std::lock_guard one_loop_at_a_time(loop_mutex_);
    {
      std::lock_guard lock(mutex_);
      job_ = {[](const void* g, int p) { (*static_cast<const F*>(g))(p); }, &f, parts};
      error_ = nullptr;
      pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(0);
    look_for([&] { return pending_.load(std::memory_order_acquire) == 0; });
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return pending_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(error_);
  }

  /// Splits [0, count) in `parts` contiguous ranges and calls f(part, begin, end) on each.
  template <class F>
  void split(Index count, int parts, const F& f) {
    run(parts, [&](int p) { f(p, count * p / parts, count * (p + 1) / parts); });
  }

  /// Splits [0, count) in contiguous ranges of at least `grain`, one per thread at most, and calls f(begin, end) on
  /// each.
  template <class F>
  void parallel_for(Index count, Index grain, const F& f) {
    if (count <= 0) return;
    split(count, parts_for(count, grain), [&](int, Index begin, Index end) { f(begin, end); });
  }

  /// The number of ranges that parallel_for makes.
  int parts_for(Index count, Index grain) const {
    return static_cast<int>(std::clamp<Index>(count / std::max<Index>(grain, 1), 1, inside() ? 1 : size()));
  }

  /// The hardware's number of threads, at least 1.
  static int default_threads() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

 private:
  struct Job {
    void (*call)(const void*, int) = nullptr;
    const void* function = nullptr;
    int parts = 0;
  };

  static bool& inside() {
    thread_local bool value = false;
    return value;
  }

  void start(int threads) {
    require(threads >= 1, "threads", "expected at least 1 thread, got ", threads);
    stopping_ = false;
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t, seen = generation_.load()] { loop(t, seen); });
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  void loop(int thread, std::uint64_t seen) {
    for (;;) {
      look_for([&] { return generation_.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_.load(std::memory_order_relaxed) != seen; });
        if (stopping_) return;
        seen = generation_.load(std::memory_order_relaxed);
      }
      work(thread);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex_);  // the caller may be about to sleep
        done_.notify_one();
      }
    }
  }

  void work(int thread) {
    inside() = true;
    try {
      for (int p = thread; p < job_.parts; p += size()) job_.call(job_.function, p);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside() = false;
  }

  /// Waits for something that should happen soon: recurrent loops hand out work every few microseconds, and to be woken
  /// from sleep takes as long. Gives up after a while.
  template <class Happened>
  static void look_for(const Happened& happened) {
    for (int spin = 0; spin < 4000 && !happened(); ++spin) pause();
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  std::vector<std::thread> workers_;
  std::mutex loop_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<std::uint64_t> generation_{0};
  Job job_;
  std::atomic<int> pending_{0};
  bool stopping_ = false;
  std::exception_ptr error_;
};

}  // namespace settle
