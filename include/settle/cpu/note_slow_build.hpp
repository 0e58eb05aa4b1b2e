#pragma once
#include <cstdio>

#include "settle/cpu/instruction_set.hpp"

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET::detail {

/// Says once, on the standard error stream, that the program was compiled for processors without the wide units that
/// this one has. SETTLE_NO_BUILD_NOTE leaves it out.
inline void note_slow_build() {
#if defined(__x86_64__) && !(defined(__AVX2__) && defined(__FMA__)) && !defined(SETTLE_NO_BUILD_NOTE)
  static const bool slow = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool said = slow && std::fputs(
      "settle: this program was compiled for any x86-64 processor; with -march=native (or -march=x86-64-v3) it takes "
      "about a quarter of the time on this one. Define SETTLE_NO_BUILD_NOTE to leave this note out.\n",
      stderr) >= 0;
  (void)said;
#endif
}

}  // namespace settle::cpu::detail
