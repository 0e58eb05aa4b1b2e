#pragma once
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "settle/core/error.hpp"
#include "settle/cpu/packet.hpp"
#include "settle/cpu/unroll.hpp"

// Compilers that do not say so are found out at run time, by require_arithmetic_as_written().
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__NO_SIGNED_ZEROS__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "settle needs arithmetic as it is written: compile without -ffast-math and its parts \
-funsafe-math-optimizations, -fassociative-math, -fno-signed-zeros, -ffinite-math-only"
#endif

// Mathematical functions of packets, within 4 units in the last place of the exact result over the whole range (6 for
// the normal distribution), for float and double, with and without fused multiply-add. Signed zeros, denormal numbers,
// infinities and NaN behave as in <cmath>. Each function reduces its argument to a short interval and evaluates a
// polynomial there. The polynomials are minimax fits in the relative error of the function (Remez exchange in 50
// digits; erfc_tail: Chebyshev interpolation), lowest power first.
namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

namespace detail {

template <class T>
struct Constants;

template <>
struct Constants<float> {
  using Unsigned = std::uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Unsigned exponent_bias = 127;
  static constexpr float exp_lowest = -105.0f, exp_highest = 89.0f;  ///< beyond: 0 and infinity
  static constexpr float expm1_lowest = -20.0f;                      ///< below: -1
  static constexpr float tanh_highest = 10.0f, erf_highest = 4.0f;   ///< above: 1
  static constexpr float normal_highest = 14.5f;                     ///< beyond: 0 or 1
  static constexpr float angle_highest = 1e4f;                       ///< above: reduced by the standard library
  static constexpr float ln2_high = 0.69314575f, ln2_low = 1.4286068e-6f;  ///< 15 bits, and the rest
  static constexpr std::array<float, 5> half_pi{1.5703125f, 4.837513e-4f, 7.5495336e-8f, 2.563283e-12f,
      6.123234e-17f};  ///< a sum: 11 bits each, and the rest
  static constexpr float two_thirds_low = -1.9868216e-8f;  ///< 2/3 - float(2/3)
  static constexpr int sqrt_steps = 2;

  /// (exp(r) - 1 - r) / r^2, |r| <= log(2)
  static constexpr std::array<float, 6> exp{0.50000036f, 0.16666614f, 0.04166126f, 0.008336117f, 0.0014104653f,
      1.961044e-4f};
  /// (exp(r) - 1 - r) / r^2, |r| <= log(2)/2
  static constexpr std::array<float, 5> expm1{0.49999997f, 0.16666543f, 0.041667204f, 0.008366582f, 0.0013882342f};
  /// (log(1 + f) - f + f^2 / 2) / f^3, 1 + f in [sqrt(1/2), sqrt(2)]
  static constexpr std::array<float, 8> log{0.3333333f, -0.2500082f, 0.20001225f, -0.16623357f, 0.14201774f,
      -0.1316019f, 0.12761486f, -0.07634375f};
  /// (log(1 + x) - x) / x^2, 0 <= x <= 1
  static constexpr std::array<float, 8> log1p{-0.49999648f, 0.333213231f, -0.248571671f, 0.191536673f, -0.137538269f,
      0.079204812f, -0.0300659559f, 0.00536486399f};
  /// (2 atanh(s) - 2s - 2s^3/3) / s^5 in z = s^2, s = f / (2 + f)
  static constexpr std::array<float, 3> atanh{0.40000153f, 0.28547037f, 0.23420973f};
  /// (sin(r) / r - 1) / z in z = r^2, |r| <= pi/4
  static constexpr std::array<float, 3> sin{-0.16666655f, 0.008332157f, -1.9514648e-4f};
  /// (cos(r) - 1 + z/2) / z^2 in z = r^2
  static constexpr std::array<float, 3> cos{0.041666646f, -0.0013887311f, 2.4432462e-5f};
  /// erf(x) / x - 1 in x^2, |x| <= 1
  static constexpr std::array<float, 7> erf{0.12837917f, -0.37612626f, 0.112835854f, -0.026853811f, 0.0051883273f,
      -8.010189e-4f, 7.853845e-5f};
  /// exp(x^2) erfc(x) in (x - 3) / (x + 3), x in [1, erf_highest]
  static constexpr std::array<float, 6> erfc{0.17900033f, -0.32625538f, 0.24538027f, -0.1512855f, 0.06825964f,
      -0.029874269f};
  /// (x + 3) exp(x^2) erfc(x) in (x - 3) / (x + 3), x in [1/2, normal_highest / sqrt(2)]
  static constexpr std::array<float, 10> erfc_tail{1.07400691f, -0.883394474f, 0.590228295f, -0.310466437f,
      0.119529481f, -0.0268361342f, -0.00122960865f, 0.00306809353f, -0.00047715546f, -0.000310694165f};
};

/// The same for double; log holds (2 atanh(s) - 2s) / s^3 in z = s^2 instead.
template <>
struct Constants<double> {
  using Unsigned = std::uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Unsigned exponent_bias = 1023;
  static constexpr double exp_lowest = -750.0, exp_highest = 710.0;
  static constexpr double expm1_lowest = -40.0;
  static constexpr double tanh_highest = 20.0, erf_highest = 6.0;
  static constexpr double normal_highest = 38.8;
  static constexpr double angle_highest = 1e4;
  static constexpr double ln2_high = 0.6931471805601177, ln2_low = -1.7239444525614835e-13;  ///< 41 bits, and the rest
  static constexpr std::array<double, 3> half_pi{1.5707963267941523, 7.443547480488527e-13,
      -1.9034889620193266e-25};  ///< 40 bits each, and the rest
  static constexpr double two_thirds_low = 3.700743415417188e-17;
  static constexpr int sqrt_steps = 3;

  static constexpr std::array<double, 12> exp{0.4999999999999993, 0.1666666666666694, 0.04166666666670236,
      0.00833333333326945, 0.0013888888883543675, 1.9841269893078827e-4, 2.480159084683082e-5,
      2.7557300571165456e-6, 2.7556154301391024e-7, 2.50550414285539e-8, 2.106263257164439e-9,
      1.5935458938864427e-10};
  static constexpr std::array<double, 10> expm1{0.5000000000000006, 0.16666666666666588, 0.04166666666657609,
      0.008333333333390265, 0.0013888888931802156, 1.9841269717490347e-4, 2.4801504969387806e-5,
      2.7557408797391217e-6, 2.7626165536002387e-7, 2.5053426669985673e-8};
  static constexpr std::array<double, 7> log{0.6666666666666735, 0.3999999999940758, 0.2857142874412354,
      0.22222198380288485, 0.1818357506736311, 0.15313758422142443, 0.14799037812762153};
  static constexpr std::array<double, 8> atanh{0.39999999999999974, 0.28571428571445334, 0.22222222217482154,
      0.18181818876987504, 0.15384556415186965, 0.13336334976663666, 0.11674461669427788, 0.11991988576895188};
  static constexpr std::array<double, 6> sin{-0.1666666666666663, 0.008333333333322005, -1.9841269829495042e-4,
      2.7557313587456086e-6, -2.5050742281813527e-8, 1.5895903232838116e-10};
  static constexpr std::array<double, 6> cos{0.041666666666666595, -0.0013888888888872895, 2.480158728874888e-5,
      -2.7557314148832867e-7, 2.0875696602017624e-9, -1.1358312057426288e-11};
  static constexpr std::array<double, 12> erf{0.12837916709551256, -0.3761263890318352, 0.11283791670944185,
      -0.026866170643111528, 0.0052239776061190285, -8.548325929343462e-4, 1.2055293577820462e-4,
      -1.4924712320356328e-5, 1.6447131801846056e-6, -1.620631552876333e-7, 1.3710987977725008e-8,
      -7.779482354498324e-10};
  static constexpr std::array<double, 12> erfc{0.17900115118135154, -0.32623356004599957, 0.24560380166395085,
      -0.15011593631225575, 0.0716658507406838, -0.024392322426141023, 0.004270382521535417, 7.132712038246392e-4,
      -5.808863119271616e-4, 7.666993318258334e-5, 1.0316226376591404e-4, 1.5273106909892815e-5};
  static constexpr std::array<double, 22> erfc_tail{1.0740069070883397, -0.88339445316988365, 0.59022835710410157,
      -0.31046726190056465, 0.1195277612873078, -0.02682723462459058, -0.0012124166276459246, 0.0030340620031052438,
      -5.4830968660778172e-4, -2.767778631068678e-4, 1.0756145585142646e-4, 3.0398244490672703e-5,
      -1.7470479979972026e-5, -4.7494316055898461e-6, 2.765366245445834e-6, 9.9905538253548857e-7,
      -4.0848698776009359e-7, -2.3300749583432877e-7, 4.7532920608042922e-8, 4.8986069238570786e-8,
      -2.7649814012351523e-9, -6.5388118506628357e-9};
};

template <class V>
using ConstantsOf = Constants<Lane<V>>;

template <class T>
struct BitsOf {
  typedef typename Constants<T>::Unsigned Type __attribute__((vector_size(packet_bytes)));
};

/// The lanes of a packet read as unsigned integers.
template <class V>
using Bits = typename BitsOf<Lane<V>>::Type;

template <class V>
inline constexpr auto sign_bit = typename ConstantsOf<V>::Unsigned{1} << (8 * sizeof(Lane<V>) - 1);

/// 1.5 * 2^mantissa_bits: adding it rounds to an integer, which is then in the low bits of the sum.
template <class V>
inline constexpr Lane<V> rounder = static_cast<Lane<V>>(typename ConstantsOf<V>::Unsigned{3}
                                                        << (ConstantsOf<V>::mantissa_bits - 1));

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T nan = std::numeric_limits<T>::quiet_NaN();

/// Whether sums are made in the order that is written, and NaN and infinity told from numbers: flags may allow the
/// compiler of the calling file to do otherwise.
template <class T>
SETTLE_INLINE bool arithmetic_is_as_written() {
  constexpr T large = rounder<Packet<T>>;
  const volatile T number = T(1.25), zero = 0;
  const Packet<T> rounded = (splat<T>(number) * T(3) + large) - large, none = splat<T>(zero) / zero;
  return rounded[0] == T(4) && any(none != none) && any(T(1) / splat<T>(zero) > std::numeric_limits<T>::max());
}

template <IsPacket V>
SETTLE_INLINE Bits<V> to_bits(V x) {
  return reinterpret_cast<Bits<V>>(x);
}

template <IsPacket V>
SETTLE_INLINE V from_bits(Bits<V> bits) {
  return reinterpret_cast<V>(bits);
}

template <IsPacket V>
SETTLE_INLINE V copy_sign(V magnitude, V sign) {
  return from_bits<V>((to_bits(magnitude) & ~sign_bit<V>) | (to_bits(sign) & sign_bit<V>));
}

/// coefficients[first] + coefficients[first + step] x + coefficients[first + 2 step] x^2 + ...
template <const auto& coefficients, std::size_t first = 0, std::size_t step = 1, IsPacket V>
SETTLE_INLINE V polynomial(V x) {
  if constexpr (first + step >= coefficients.size())
    return splat(coefficients[first]);
  else
    return polynomial<coefficients, first + step, step>(x) * x + coefficients[first];
}

/// polynomial(x) by its even and its odd powers, for square = x^2: half as long a chain of operations.
template <const auto& coefficients, IsPacket V>
SETTLE_INLINE V polynomial_in_halves(V x, V square) {
  return polynomial<coefficients, 1, 2>(square) * x + polynomial<coefficients, 0, 2>(square);
}

/// max(x, lowest); NaN stays. GCC makes one instruction of it only where the bound is no constant to its eyes.
template <IsPacket V>
SETTLE_INLINE V at_least(V x, Lane<V> lowest) {
  const V bound = held(splat(lowest));
  x = held(x);
  return select(bound > x, bound, x);
}

/// min(max(x, lowest), highest); NaN stays.
template <IsPacket V>
SETTLE_INLINE V clamp(V x, Lane<V> lowest, Lane<V> highest) {
  x = at_least(x, lowest);
  return select(x > highest, splat(highest), x);
}

/// x - part[0] n - part[1] n - ..., for integers n that make all products but the last exact.
template <const auto& parts, std::size_t first = 0, IsPacket V>
SETTLE_INLINE V subtract_multiple(V x, V n) {
  if constexpr (first == parts.size())
    return x;
  else
    return subtract_multiple<parts, first + 1>(x - n * parts[first], n);
}

/// exp(x + tail) for exp_lowest <= x <= exp_highest and a tail, if any, of a few units in the last place of x. With
/// x = 2 n log(2) + r, the power 2^n is multiplied twice, since 2^(2n) may be too large or too small for a number.
template <IsPacket V, std::same_as<V>... Tail>
SETTLE_INLINE V exp_of_sum(V x, Tail... tail) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  constexpr T shift = rounder<V> + static_cast<T>(C::exponent_bias);
  const V shifted = x * T(0.72134752044448170368) + shift;
  const V n = shifted - shift;
  const V r = (((x - n * (2 * C::ln2_high)) - n * (2 * C::ln2_low)) + ... + tail);
  const V power = from_bits<V>(to_bits(shifted) << C::mantissa_bits);
  return ((polynomial<C::exp>(r) * r + T(1)) * r + T(1)) * power * power;
}

/// A number as n log(2) + r, |r| <= log(2)/2. In the low bits of `shifted` is n plus the integer that was asked for.
template <IsPacket V>
struct Reduced {
  V shifted, r;
};

template <IsPacket V>
SETTLE_INLINE Reduced<V> reduce(V x, Lane<V> more) {
  using C = ConstantsOf<V>;
  const Lane<V> shift = rounder<V> + more;
  const V shifted = x * Lane<V>(1.44269504088896340736) + shift;
  const V n = shifted - shift;
  return {shifted, (x - n * C::ln2_high) - n * C::ln2_low};
}

/// expm1(x) / 2 for expm1_lowest <= x <= exp_highest. With x = n log(2) + r, expm1(x) = 2^n expm1(r) + (2^n - 1); half
/// of it, because 2^n may be too large for a number.
template <IsPacket V>
SETTLE_INLINE V half_expm1(V x) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  const auto [shifted, r] = reduce(x, static_cast<T>(C::exponent_bias - 1));
  const V half_power = from_bits<V>(to_bits(shifted) << C::mantissa_bits);
  const V expm1_r = polynomial<C::expm1>(r) * (r * r) + r;
  return half_power * expm1_r + (half_power - T(0.5));
}

/// The integer k of x = 2^k m, sqrt(1/2) <= m < sqrt(2), plus exponent_bias.
template <IsPacket V>
SETTLE_INLINE Bits<V> biased_exponent(V x) {
  using C = ConstantsOf<V>;
  using U = typename C::Unsigned;
  constexpr U one = C::exponent_bias << C::mantissa_bits;
  constexpr U sqrt_half = std::bit_cast<U>(Lane<V>(0.70710678118654752440));
  return (to_bits(x) + (one - sqrt_half)) >> C::mantissa_bits;
}

/// The integers of biased_exponent as numbers, without the bias.
template <IsPacket V>
SETTLE_INLINE V exponent_number(Bits<V> biased) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  constexpr T two_to_mantissa = static_cast<T>(typename C::Unsigned{1} << C::mantissa_bits);
  return from_bits<V>(biased | std::bit_cast<typename C::Unsigned>(two_to_mantissa)) -
         (two_to_mantissa + static_cast<T>(C::exponent_bias));
}

/// k log(2) + log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)].
template <IsPacket V>
SETTLE_INLINE V log_of_parts(V k, V f) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  V rest;  // log(1 + f) - f
  if constexpr (std::same_as<T, float>) {
    rest = (f * f) * (polynomial<C::log>(f) * f - T(0.5));
  } else {
    const V s = f / (f + T(2));
    const V z = s * s;
    rest = s * (polynomial<C::log>(z) * z - f);
  }
  return k * C::ln2_high + (f + (rest + k * C::ln2_low));
}

/// x > 0 as 2^k m, sqrt(1/2) <= m < sqrt(2).
template <IsPacket V>
struct Parts {
  V k, m;
};

template <IsPacket V>
SETTLE_INLINE Parts<V> split_exponent(V x) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  constexpr T scale = static_cast<T>(typename C::Unsigned{1} << C::mantissa_bits);
  const auto denormal = x < std::numeric_limits<T>::min();
  x = select(denormal, x * scale, x);
  const Bits<V> biased = biased_exponent(x);
  const V m = from_bits<V>(to_bits(x) - ((biased - C::exponent_bias) << C::mantissa_bits));
  return {exponent_number<V>(biased) - select(denormal, splat(static_cast<T>(C::mantissa_bits)), V{}), m};
}

/// An unevaluated sum: twice the digits of one packet.
template <IsPacket V>
struct Sum {
  V high, low;
};

/// a + b exactly.
template <IsPacket V>
SETTLE_INLINE Sum<V> exact_sum(V a, V b) {
  const V sum = a + b;
  const V from_b = sum - a;
  return {sum, (a - (sum - from_b)) + (b - from_b)};
}

/// The upper half of the digits of x, so that products of halves are exact.
template <IsPacket V>
SETTLE_INLINE V upper_half(V x) {
  constexpr auto lower = (typename ConstantsOf<V>::Unsigned{1} << (ConstantsOf<V>::mantissa_bits / 2 + 1)) - 1;
  return from_bits<V>(to_bits(x) & ~lower);
}

/// a * b exactly, unless the low part is denormal.
template <IsPacket V>
SETTLE_INLINE Sum<V> exact_product(V a, V b) {
  const V product = a * b;
  const V a1 = upper_half(a), a2 = a - a1;
  const V b1 = upper_half(b), b2 = b - b1;
  return {product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2};
}

template <IsPacket V>
SETTLE_INLINE Sum<V> product(Sum<V> a, Sum<V> b) {
  const Sum<V> high = exact_product(a.high, b.high);
  return {high.high, high.low + (a.high * b.low + a.low * b.high)};
}

/// log(x) for finite x > 0 with some ten bits more than one packet holds: with s = f / (2 + f), log(1 + f) =
/// 2 atanh(s) = 2s + s^3 (2/3 + ...).
template <IsPacket V>
SETTLE_INLINE Sum<V> precise_log(V x) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  const auto [k, m] = split_exponent(x);
  const V f = m - T(1);
  const Sum<V> denominator = exact_sum(splat(T(2)), f);
  const V quotient = f / denominator.high;
  const Sum<V> back = exact_product(quotient, denominator.high);
  const Sum<V> s{quotient, (((f - back.high) - back.low) - quotient * denominator.low) / denominator.high};
  const Sum<V> z = product(s, s);
  const Sum<V> series = exact_sum(splat(T(2) / T(3)), polynomial<C::atanh>(z.high) * z.high + C::two_thirds_low);
  const Sum<V> cubic = product(product(s, z), series);
  const Sum<V> most = exact_sum(k * C::ln2_high, s.high + s.high);
  const Sum<V> all = exact_sum(most.high, cubic.high);
  return {all.high, all.low + (most.low + (k * C::ln2_low + (s.low + s.low + cubic.low)))};
}

/// sin(x) for shift = 0, cos(x) for shift = 1: sin(x + shift pi/2).
template <unsigned shift, IsPacket V>
SETTLE_INLINE V sine(V x) {
  using C = ConstantsOf<V>;
  using T = Lane<V>;
  const V a = from_bits<V>(to_bits(x) & ~sign_bit<V>);
  const V shifted = a * T(0.63661977236758134308) + rounder<V>;
  const V r = subtract_multiple<C::half_pi>(a, shifted - rounder<V>);
  const V z = r * r;
  const V sine = polynomial<C::sin>(z) * z * r + r;
  const V cosine = polynomial<C::cos>(z) * (z * z) + (T(1) - z * T(0.5));
  const Bits<V> quadrant = to_bits(shifted) + shift;
  Bits<V> sign = quadrant << (8 * sizeof(T) - 2);
  if constexpr (shift == 0) sign ^= to_bits(x);
  V result = from_bits<V>(to_bits(select((quadrant & 1) != 0, cosine, sine)) ^ (sign & sign_bit<V>));
  if (any(a > C::angle_highest)) [[unlikely]]
    for (int lane = 0; lane < packet_size<T>; ++lane)
      if (a[lane] > C::angle_highest) result[lane] = shift == 0 ? std::sin(x[lane]) : std::cos(x[lane]);
  return result;
}

}  // namespace detail

/// Throws Error where the calling file is compiled with flags by which these functions would give wrong numbers.
SETTLE_INLINE void require_arithmetic_as_written() {
  require(detail::arithmetic_is_as_written<float>() && detail::arithmetic_is_as_written<double>(), "settle",
          "this program was compiled with flags that let sums be reordered or NaN and infinity be ignored, such as "
          "-ffast-math, -funsafe-math-optimizations or -ffinite-math-only: compile it without them");
}

/// |x|
template <IsPacket V>
SETTLE_INLINE V abs(V x) {
  return detail::from_bits<V>(detail::to_bits(x) & ~detail::sign_bit<V>);
}

/// The smaller of a and b; NaN if either is. Of two zeros, b.
template <IsPacket V>
SETTLE_INLINE V minimum(V a, V b) {
  return select((a < b) | (a != a), a, b);
}

/// The larger of a and b; NaN if either is. Of two zeros, b.
template <IsPacket V>
SETTLE_INLINE V maximum(V a, V b) {
  return select((a > b) | (a != a), a, b);
}

/// The nearest integer; a tie goes to the even one.
template <IsPacket V>
SETTLE_INLINE V round(V x) {
  using T = Lane<V>;
  constexpr T all_integers = 1 / std::numeric_limits<T>::epsilon();  // from here on every number is an integer
  const V a = abs(x);
  return detail::copy_sign(select(a < all_integers, (a + all_integers) - all_integers, a), x);
}

/// e^x
template <IsPacket V>
SETTLE_INLINE V exp(V x) {
  using C = detail::ConstantsOf<V>;
  return detail::exp_of_sum(detail::clamp(x, C::exp_lowest, C::exp_highest));
}

/// e^-|x|. With -|x| = n log(2) + r, n + 64 is added to the exponent of e^r: n alone may be too low for one.
template <IsPacket V>
SETTLE_INLINE V exp_minus_abs(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  const V a = detail::at_least(detail::from_bits<V>(detail::to_bits(x) | detail::sign_bit<V>), C::exp_lowest);
  const auto [shifted, r] = detail::reduce(a, T(64));
  const V exp_r = detail::polynomial<C::expm1>(r) * (r * r) + (r + T(1));
  const V scaled = detail::from_bits<V>(detail::to_bits(exp_r) + (detail::to_bits(shifted) << C::mantissa_bits));
  return scaled * T(0x1p-64) + (r - r);  // of NaN, the sum of integers may be a number: r - r is NaN
}

/// e^x - 1
template <IsPacket V>
SETTLE_INLINE V expm1(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  const V half = detail::half_expm1(detail::clamp(x, C::expm1_lowest, C::exp_highest));
  return select(abs(x) < std::numeric_limits<T>::epsilon() / 2, x, half + half);
}

/// The natural logarithm; -infinity at 0, NaN below.
template <IsPacket V>
SETTLE_INLINE V log(V x) {
  using T = Lane<V>;
  const auto [k, m] = detail::split_exponent(x);
  const V result = detail::log_of_parts(k, m - T(1));
  const V outside = select(x == T(0), splat(-detail::infinity<T>), splat(detail::nan<T>));
  return select(x == detail::infinity<T>, x, select(x > T(0), result, outside));
}

/// log(1 + x); -infinity at -1, NaN below.
template <IsPacket V>
SETTLE_INLINE V log1p(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  // 1 + x = 2^k (1 + f): the rounding of 1 + x may only change the choice of k. 4 * 2^-k is a number for all k.
  const auto biased = detail::biased_exponent(x + T(1));
  const V scale = detail::from_bits<V>(((2 * C::exponent_bias + 2) - biased) << C::mantissa_bits);
  const V f = (x * T(0.25)) * scale + (scale * T(0.25) - T(1));
  const V result = detail::log_of_parts(detail::exponent_number<V>(biased), f);
  const V outside = select(x == T(-1), splat(-detail::infinity<T>), splat(detail::nan<T>));
  const V inside = select(x > T(-1), result, outside);
  return select((abs(x) < std::numeric_limits<T>::epsilon() / 2) | (x == detail::infinity<T>), x, inside);
}

/// log(1 + x) for 0 <= x <= 1; any number elsewhere.
template <IsPacket V>
SETTLE_INLINE V log1p_of_unit(V x) {
  using C = detail::ConstantsOf<V>;
  if constexpr (std::same_as<Lane<V>, float>) {
    const V square = x * x;
    return detail::polynomial_in_halves<C::log1p>(x, square) * square + x;
  } else {
    return log1p(x);
  }
}

/// The square root; NaN below 0. Newton's iteration for 1/sqrt(x), then one step with the exact residual, because
/// compilers that honour errno call the standard function lane by lane. Within 0.501 units in the last place.
template <IsPacket V>
SETTLE_INLINE V sqrt(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  constexpr typename C::Unsigned guess =
      std::same_as<T, float> ? 0x5f3759df : static_cast<typename C::Unsigned>(0x5fe6eb50c7b537a9);
  constexpr T root_of_scale = static_cast<T>(typename C::Unsigned{1} << (2 * (C::mantissa_bits / 2 + 1)));
  constexpr T scale = root_of_scale * root_of_scale;
  const auto tiny = x < std::numeric_limits<T>::min() * scale;  // the residual would be denormal
  const V a = select(tiny, x * scale, x);
  V inverse = detail::from_bits<V>(guess - (detail::to_bits(a) >> 1));
  for (int step = 0; step < C::sqrt_steps; ++step)
    inverse *= T(1.5) - (a * T(0.5)) * inverse * inverse;
  const V root = a * inverse;
  const V root1 = detail::upper_half(root), root2 = root - root1;
  const V residual = ((a - root1 * root1) - (root1 + root1) * root2) - root2 * root2;
  const V result = (residual * (inverse * T(0.5)) + root) * select(tiny, splat(1 / root_of_scale), splat(T(1)));
  return select(x < T(0), splat(detail::nan<T>), select((x > T(0)) & (x < detail::infinity<T>), result, x));
}

/// 1 / sqrt(x)
template <IsPacket V>
SETTLE_INLINE V rsqrt(V x) {
  return Lane<V>(1) / sqrt(x);
}

/// x to the power of `exponent`, as std::pow. The exponents 0, 1, 2, 3, -1, -2, -3, 1/2 and -1/2 take a short way.
template <IsPacket V>
SETTLE_INLINE V pow(V x, std::type_identity_t<Lane<V>> exponent) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  if (exponent == 0) return splat(T(1));
  if (exponent == 1) return x;
  if (exponent == 2) return x * x;
  if (exponent == 3) return x * x * x;
  if (exponent == -1) return T(1) / x;
  if (exponent == -2 || exponent == -3) {
    const V inverse = T(1) / x;
    return exponent == -2 ? inverse * inverse : inverse * inverse * inverse;
  }
  const V a = abs(x);
  if (exponent == T(0.5) || exponent == T(-0.5)) {
    const V root = sqrt(select((x == T(0)) | (x == -detail::infinity<T>), a, x));  // std::pow(-0, 0.5) is +0
    return exponent > 0 ? root : T(1) / root;
  }
  const bool integer = std::trunc(exponent) == exponent;
  const bool odd = std::abs(std::fmod(exponent, T(2))) == 1;
  // From `certain` on every result but that of 1 is 0 or infinity; beyond, products overflow.
  constexpr T certain = static_cast<T>(std::uint64_t{1} << (C::mantissa_bits + 11));
  const T y = exponent > certain ? certain : exponent < -certain ? -certain : exponent;
  const detail::Sum<V> logarithm = detail::precise_log(a);
  detail::Sum<V> power = detail::exact_product(logarithm.high, splat(y));
  power.low += logarithm.low * y;
  const auto reached = (power.high > C::exp_lowest) & (power.high < C::exp_highest);
  V result = detail::exp_of_sum(detail::clamp(power.high, C::exp_lowest, C::exp_highest),
                                select(reached, power.low, V{}));
  result = select(a == T(0), splat(y > 0 ? T(0) : detail::infinity<T>), result);
  result = select(a == detail::infinity<T>, splat(y > 0 ? detail::infinity<T> : T(0)), result);
  if (odd) result = detail::copy_sign(result, x);
  if (!integer) result = select((x < T(0)) & (a > T(0)) & (a < detail::infinity<T>), splat(detail::nan<T>), result);
  result = select(x != x, x, result);
  if (exponent != exponent) result = splat(exponent);
  return select(x == T(1), splat(T(1)), result);
}

/// (e^x - e^-x) / (e^x + e^-x)
template <IsPacket V>
SETTLE_INLINE V tanh(V x) {
  using T = Lane<V>;
  const V a = detail::clamp(abs(x), T(0), detail::ConstantsOf<V>::tanh_highest);
  const V half = detail::half_expm1(a + a);
  return detail::copy_sign(half / (half + T(1)), x);
}

/// 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x: a polynomial up to 1, then 1 - e^(-x^2) * polynomial.
template <IsPacket V>
SETTLE_INLINE V erf(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  const V a = detail::clamp(abs(x), T(0), C::erf_highest);
  const V z = a * a;
  const V inner = a + a * detail::polynomial<C::erf>(z);
  const V rest = detail::exp_of_sum(-z) * detail::polynomial<C::erfc>((a - T(3)) / (a + T(3)));
  return detail::copy_sign(select(a < T(1), inner, T(1) - rest), x);
}

/// The normal distribution function, erfc(-x / sqrt(2)) / 2, its digits kept in both tails: near 0 by erf's polynomial,
/// beyond sqrt(1/2) as e^(-x^2 / 2) times a polynomial.
template <IsPacket V>
SETTLE_INLINE V normal_cdf(V x) {
  using C = detail::ConstantsOf<V>;
  using T = Lane<V>;
  constexpr T half = T(0.5), root_half = T(0.70710678118654752440);
  const V a = detail::clamp(abs(x), T(0), C::normal_highest);
  const V y = a * root_half;
  const V centre = (y + y * detail::polynomial<C::erf>(y * y)) * half;
  const detail::Sum<V> square = detail::exact_product(a, a);
  const V density = detail::exp_of_sum(square.high * -half, square.low * -half);
  const V tail = density * half * detail::polynomial<C::erfc_tail>((y - T(3)) / (y + T(3))) / (y + T(3));
  const auto central = y < half;
  const V above = select(central, half + centre, T(1) - tail), below = select(central, half - centre, tail);
  return select(x < T(0), below, above);
}

/// sin(x), x in radians. Within 1e4 in packets; larger arguments are correct too, one lane at a time.
template <IsPacket V>
SETTLE_INLINE V sin(V x) {
  return detail::sine<0>(x);
}

/// cos(x), x in radians, ranges as sin.
template <IsPacket V>
SETTLE_INLINE V cos(V x) {
  return detail::sine<1>(x);
}

}  // namespace settle::cpu
