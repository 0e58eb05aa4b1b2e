#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

// Numbers of 8 and 16 bits that files hold, and the processor does not compute with.
namespace settle::inline v0_2::detail {

/// The value of an IEEE half-precision number, given as its bits.
inline float from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const float fraction = static_cast<float>(bits & 1023);
  float value;
  if (exponent == 31)
    value = fraction > 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  else if (exponent == 0)
    value = std::ldexp(fraction, -24);
  else
    value = std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -value : value;
}

/// The finite value of an 8-bit float, given as its bits: a sign, an exponent of that bias, and so many bits of
/// fraction.
inline float from_small_float(std::uint8_t bits, int fraction_bits, int bias) {
  const int one = 1 << fraction_bits, exponent = (bits & 127) >> fraction_bits, fraction = bits & (one - 1);
  const float value = std::ldexp(static_cast<float>(exponent > 0 ? one + fraction : fraction),
                                 std::max(exponent, 1) - bias - fraction_bits);
  return bits >> 7 ? -value : value;
}

/// The value of a bfloat16 number, given as its bits: the upper half of a float.
inline float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

}  // namespace settle::detail
