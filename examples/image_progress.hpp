#pragma once
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "settle/core/shape.hpp"

/// "42 of 200 images" on the standard error stream, over and over on a terminal, every ten seconds elsewhere.
inline void show_progress(settle::Index done, settle::Index of) {
  using Clock = std::chrono::steady_clock;
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  static Clock::time_point shown = Clock::now();
  if (done < of && Clock::now() - shown < std::chrono::milliseconds(terminal ? 100 : 10000)) return;
  shown = Clock::now();
  std::fprintf(stderr, terminal ? "\r%lld of %lld images%s" : "%lld of %lld images%s", static_cast<long long>(done),
               static_cast<long long>(of), done == of || !terminal ? "\n" : "");
}
