#pragma once

namespace settle::inline v0_2 {

/// While it lives, the calling thread's results that are smaller in magnitude than the smallest normal number (1.2e-38
/// in float32, 2.2e-308 in float64) are zeros of their sign. Some processors take a hundred times as long for a result
/// below it, and saturated gates make many: their derivatives are products of tiny numbers. Inputs are read as they
/// are. Where x86 computes with SSE; elsewhere it does nothing.
class FlushDenormals {
 public:
  FlushDenormals() : outer_((control() & flush) != 0) {
    if (!outer_) set(control() | flush);
  }
  ~FlushDenormals() {
    if (!outer_) set(control() & ~flush);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

#if defined(__SSE2_MATH__)
  static constexpr bool supported = true;

 private:
  static unsigned control() { return __builtin_ia32_stmxcsr(); }
  static void set(unsigned word) { __builtin_ia32_ldmxcsr(word); }
#else
  static constexpr bool supported = false;

 private:
  static unsigned control() { return 0; }
  static void set(unsigned) {}
#endif

  static constexpr unsigned flush = 1u << 15;  // the bit of x86's control and status register
  bool outer_;                                 // it was so before
};

}  // namespace settle
