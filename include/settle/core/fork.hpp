#pragma once
#include <atomic>
#include <mutex>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define SETTLE_HAS_FORK 1
#endif

// A child of fork() has the thread that called it and no other, and mutexes as they stood.
namespace settle::inline v0_2 {

/// How many fork() calls lie between the first process and this one, as far as they were made since this was first
/// asked for: another number than before tells that threads are gone.
class Forks {
 public:
  static unsigned count() { return instance().count_.load(std::memory_order_relaxed); }

  /// Leaves what has threads of the parent as it is, for good: nobody can end them, and its destructor would wait.
  static void abandon(void* object) {
    const std::lock_guard lock(instance().list_);
    instance().abandoned_.push_back(object);
  }

 private:
  friend class ForkSafeMutex;

  Forks() {
#ifdef SETTLE_HAS_FORK
    ::pthread_atfork([] { instance().lock(); }, [] { instance().unlock(); },
                     [] { instance().unlock(), ++instance().count_; });
#endif
  }
  static Forks& instance() {
    static Forks* forks = new Forks;  // never destroyed: a fork may come at any time
    return *forks;
  }
  void lock() {
    list_.lock();
    for (std::mutex* mutex : mutexes_) mutex->lock();
  }
  void unlock() {
    for (std::mutex* mutex : mutexes_) mutex->unlock();
    list_.unlock();
  }

  std::atomic<unsigned> count_{0};
  std::mutex list_;
  std::vector<std::mutex*> mutexes_;  ///< in the order in which they are locked
  std::vector<void*> abandoned_;
};

/// A mutex of something that lives as long as the process: no child finds it locked by a thread that it does not have.
/// One that is locked while another is held must be made after it.
class ForkSafeMutex {
 public:
  ForkSafeMutex() {
    Forks& forks = Forks::instance();
    const std::lock_guard lock(forks.list_);
    forks.mutexes_.push_back(&mutex_);
  }
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace settle
