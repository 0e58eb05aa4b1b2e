#pragma once
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>

#include "settle/core/shape.hpp"
#include "settle/train/figures.hpp"

namespace settle::inline v0_2 {

/// A duration as people write it: 42 s, 3:20 min, 2:05 h.
inline std::string duration_text(double seconds) {
  char out[32];
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  if (whole < 100)
    std::snprintf(out, sizeof out, "%lld s", whole);
  else if (whole < 6000)
    std::snprintf(out, sizeof out, "%lld:%02lld min", whole / 60, whole % 60);
  else
    std::snprintf(out, sizeof out, "%lld:%02lld h", whole / 3600, whole / 60 % 60);
  return out;
}

/// A number in at most five digits.
inline std::string figure_text(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.4g", value);
  return out;
}

/// The state of a training in one line: written over on a terminal, a line now and then elsewhere.
class Progress {
 public:
  /// Shows a line: how far the training is (0 to 1), the time it took so far, and figures. `last` ends the line.
  void show(double share, double seconds, Index step, const Figures& figures, bool last = false) {
    using Clock = std::chrono::steady_clock;
    const double since = shown_ ? std::chrono::duration<double>(Clock::now() - *shown_).count() : 1e9;
    if (!last && since < (terminal_ ? 0.1 : 10.0)) return;
    shown_ = Clock::now();
    char head[96];
    std::snprintf(head, sizeof head, "%3.0f %%  step %lld  %s", 100 * std::min(1.0, share),
                  static_cast<long long>(step), duration_text(seconds).c_str());
    std::string line = head;
    // The first steps are slower than the others; an estimate by them is worth little.
    if (!last && share > 0 && share < 1 && seconds > 1)
      line += ", " + duration_text(seconds * (1 - share) / share) + " left";
    for (const auto& [name, value] : figures) line += "  " + name + ' ' + figure_text(value);
    if (terminal_) {
      const std::size_t length = line.size();
      line.resize(std::max(length, longest_), ' ');
      longest_ = length;
      std::printf("\r%s%s", line.c_str(), last ? "\n" : "");
    } else {
      std::printf("%s\n", line.c_str());
    }
    std::fflush(stdout);
  }

 private:
  bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
  std::optional<std::chrono::steady_clock::time_point> shown_;
  std::size_t longest_ = 0;
};

}  // namespace settle
