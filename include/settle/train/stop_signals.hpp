#pragma once
#include <signal.h>

#include <atomic>

namespace settle::inline v0_2 {

/// While it lives, the first SIGINT or SIGTERM asks for a stop; a second one ends the program as usual. One inside
/// another changes nothing: a program that does more than train holds one for all of its time.
class StopSignals {
 public:
  StopSignals() : outermost_(living()++ == 0) {
    if (!outermost_) return;
    flag() = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { flag() = true; };
    action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &before_[0]);
    ::sigaction(SIGTERM, &action, &before_[1]);
  }
  ~StopSignals() {
    --living();
    if (!outermost_) return;
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Whether a stop was asked for since the outermost one was made.
  static bool asked() { return flag(); }

 private:
  static std::atomic<bool>& flag() {
    static std::atomic<bool> asked{false};
    static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only write what is lock-free");
    return asked;
  }
  static std::atomic<int>& living() {
    static std::atomic<int> count{0};
    return count;
  }

  bool outermost_;
  struct sigaction before_[2] = {};
};

}  // namespace settle
