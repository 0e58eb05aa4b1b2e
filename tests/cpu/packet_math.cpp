#include "settle/cpu/packet_math.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace cpu = settle::cpu;

namespace {

#ifdef __OPTIMIZE__
constexpr int sweep = 60000;
#else
constexpr int sweep = 1500;
#endif

template <class T>
using Limits = std::numeric_limits<T>;

template <class T>
const std::string of_type = sizeof(T) == 4 ? " float: " : " double: ";

/// |got - want| in units of the last place that T has at `want`; infinity where one is NaN and the other is not.
template <class T>
double units_in_the_last_place(T got, long double want) {
  if (std::isnan(want) != std::isnan(got)) return Limits<double>::infinity();
  if (std::isnan(want)) return 0.0;
  if (got == static_cast<T>(want)) return 0.0;
  int exponent = 0;
  std::frexp(want, &exponent);
  const long double unit = std::ldexp(1.0L, std::max(exponent, Limits<T>::min_exponent) - Limits<T>::digits);
  return static_cast<double>(std::abs(static_cast<long double>(got) - want) / unit);
}

/// Zeros of both signs, denormal numbers, the ends of the range, infinities, NaN.
template <class T>
std::vector<T> special_values() {
  std::vector<T> values;
  for (const T x : {T(0), Limits<T>::denorm_min(), 5 * Limits<T>::denorm_min(), Limits<T>::min() / 3, Limits<T>::min(),
                    Limits<T>::epsilon() / 2, Limits<T>::epsilon(), T(0.5), T(1), T(2), T(3), T(1e4), Limits<T>::max(),
                    Limits<T>::infinity(), Limits<T>::quiet_NaN()})
    for (const T sign : {T(1), T(-1)}) values.push_back(sign * x);
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  for (const U payload : {U{1}, U{0xfff}})  // a NaN stays one whatever its other bits
    values.push_back(std::bit_cast<T>(std::bit_cast<U>(Limits<T>::quiet_NaN()) | payload));
  return values;
}

/// The special values, numbers of every exponent and both signs, and a fine and a random sweep of [lowest, highest].
template <class T>
std::vector<T> arguments(double lowest, double highest) {
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  std::vector<T> values = special_values<T>();
  const U infinity = std::bit_cast<U>(Limits<T>::infinity());
  for (int i = 0; i < sweep; ++i) {
    const T x = std::bit_cast<T>(static_cast<U>(infinity / sweep * static_cast<U>(i) + static_cast<U>(i) * 7 % 1000));
    values.push_back(x);
    values.push_back(-x);
  }
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> uniform(lowest, highest);
  for (int i = 0; i <= sweep; ++i) {
    values.push_back(static_cast<T>(lowest + (highest - lowest) * i / sweep));
    values.push_back(static_cast<T>(uniform(random)));
  }
  return values;
}

/// Runs f over all arguments in packets and compares with the reference in long double.
template <class T, class F, class Reference>
void compare(const std::string& name, const std::vector<T>& x, F f, Reference reference, double allowed = 4.0) {
  constexpr int width = cpu::packet_size<T>;
  double largest = 0.0;
  T where = 0;
  for (std::size_t i = 0; i < x.size(); i += width) {
    const int n = static_cast<int>(std::min<std::size_t>(width, x.size() - i));
    T arguments[width] = {}, y[width];
    std::copy_n(x.data() + i, n, arguments);
    cpu::store(y, f(cpu::load(arguments)));
    for (int lane = 0; lane < n; ++lane) {
      const T argument = x[i + static_cast<std::size_t>(lane)];
      const long double want = reference(static_cast<long double>(argument));
      const double error = units_in_the_last_place(y[lane], want);
      if (!(error <= largest)) largest = error, where = argument;
      if (const T rounded = static_cast<T>(want); rounded == 0 && y[lane] == 0)
        CHECK_MESSAGE(std::signbit(y[lane]) == std::signbit(rounded), name << ": sign of the zero at " << argument);
    }
  }
  MESSAGE(name << of_type<T> << largest << " ulp at " << where);
  CHECK_MESSAGE(largest <= allowed, name << " at " << where);
}

}  // namespace

TEST_CASE_TEMPLATE("functions of packets are within 4 ulp of the exact result", T, float, double) {
  const double largest_exponent = std::log(static_cast<double>(Limits<T>::max()));
  compare("exp", arguments<T>(-1.2 * largest_exponent, 1.1 * largest_exponent), [](auto v) { return cpu::exp(v); },
          [](long double x) { return std::exp(x); });
  compare("exp near 0", arguments<T>(-3, 3), [](auto v) { return cpu::exp(v); },
          [](long double x) { return std::exp(x); });
  compare("exp of minus |x|", arguments<T>(-1.2 * largest_exponent, 1.2 * largest_exponent),
          [](auto v) { return cpu::exp_minus_abs(v); }, [](long double x) { return std::exp(-std::abs(x)); });
  std::vector<T> unit = arguments<T>(0, 1);
  std::erase_if(unit, [](T x) { return !(x >= 0 && x <= 1); });
  compare("log1p of [0, 1]", unit, [](auto v) { return cpu::log1p_of_unit(v); },
          [](long double x) { return std::log1p(x); });
  compare("expm1", arguments<T>(-4, 4), [](auto v) { return cpu::expm1(v); },
          [](long double x) { return std::expm1(x); });
  compare("expm1 far", arguments<T>(-45, largest_exponent + 1), [](auto v) { return cpu::expm1(v); },
          [](long double x) { return std::expm1(x); });
  compare("log", arguments<T>(0, 4), [](auto v) { return cpu::log(v); }, [](long double x) { return std::log(x); });
  compare("log1p", arguments<T>(-1, 4), [](auto v) { return cpu::log1p(v); },
          [](long double x) { return std::log1p(x); });
  compare("tanh", arguments<T>(-2, 2), [](auto v) { return cpu::tanh(v); }, [](long double x) { return std::tanh(x); });
  compare("tanh far", arguments<T>(-22, 22), [](auto v) { return cpu::tanh(v); },
          [](long double x) { return std::tanh(x); });
  const auto normal = [](long double x) { return std::erfc(-x * std::sqrt(0.5L)) / 2; };
  compare("normal_cdf", arguments<T>(-2, 2), [](auto v) { return cpu::normal_cdf(v); }, normal, 6);
  compare("normal_cdf far", arguments<T>(-39, 39), [](auto v) { return cpu::normal_cdf(v); }, normal, 6);
  compare("erf", arguments<T>(-2, 2), [](auto v) { return cpu::erf(v); }, [](long double x) { return std::erf(x); });
  compare("erf far", arguments<T>(-7, 7), [](auto v) { return cpu::erf(v); },
          [](long double x) { return std::erf(x); });
  compare("sqrt", arguments<T>(0, 4), [](auto v) { return cpu::sqrt(v); }, [](long double x) { return std::sqrt(x); },
          0.501);
  compare("rsqrt", arguments<T>(0, 4), [](auto v) { return cpu::rsqrt(v); },
          [](long double x) { return 1.0L / std::sqrt(x); });
  compare("sin", arguments<T>(-7, 7), [](auto v) { return cpu::sin(v); }, [](long double x) { return std::sin(x); });
  compare("sin far", arguments<T>(-11000, 11000), [](auto v) { return cpu::sin(v); },
          [](long double x) { return std::sin(x); });
  compare("cos", arguments<T>(-7, 7), [](auto v) { return cpu::cos(v); }, [](long double x) { return std::cos(x); });
  compare("cos far", arguments<T>(-11000, 11000), [](auto v) { return cpu::cos(v); },
          [](long double x) { return std::cos(x); });
}

TEST_CASE_TEMPLATE("sin and cos are as accurate beside multiples of pi/2", T, float, double) {
  std::vector<T> x;
  for (int n = 1; n < 6366; ++n) {
    const T zero = static_cast<T>(n * 1.57079632679489661923L);
    x.insert(x.end(), {std::nextafter(zero, T(0)), zero, std::nextafter(zero, T(2e4)), -zero});
  }
  compare("sin", x, [](auto v) { return cpu::sin(v); }, [](long double a) { return std::sin(a); });
  compare("cos", x, [](auto v) { return cpu::cos(v); }, [](long double a) { return std::cos(a); });
}

TEST_CASE_TEMPLATE("powers of packets are within 4 ulp of the exact result", T, float, double) {
  const double largest_exponent = std::log(static_cast<double>(Limits<T>::max()));
  double largest = 0.0;
  for (const double y : {0.0, 1.0, 2.0, 3.0, -1.0, -2.0, -3.0, 0.5, -0.5, 4.0, 1.5, -7.0, 0.1, -0.7, 33.3, -250.5, 1e-3,
                         1e5, -1e12, 4194305.0, 1e200, Limits<double>::infinity(), -Limits<double>::infinity(),
                         Limits<double>::quiet_NaN()}) {
    const T exponent = static_cast<T>(y);
    std::vector<T> x = special_values<T>();
    std::mt19937_64 random(7);
    std::uniform_real_distribution<double> uniform(-1.1 * largest_exponent, 1.1 * largest_exponent);
    for (int i = 0; i < sweep / 4; ++i) {
      x.push_back(static_cast<T>(std::exp(uniform(random) / (y == 0 || std::isnan(y) ? 1.0 : y))));  // any finite power
      x.push_back(static_cast<T>(std::exp(uniform(random))) * static_cast<T>(i % 4 ? 1 : -1));
    }
    constexpr int width = cpu::packet_size<T>;
    while (x.size() % width) x.push_back(1);
    for (std::size_t i = 0; i < x.size(); i += width) {
      const auto got = cpu::pow(cpu::load(x.data() + i), exponent);
      for (int lane = 0; lane < width; ++lane) {
        const T argument = x[i + static_cast<std::size_t>(lane)];
        const long double want = std::pow(static_cast<long double>(argument), static_cast<long double>(exponent));
        const double error = units_in_the_last_place<T>(got[lane], want);
        largest = std::max(largest, error);
        const bool near = error <= 4.0;
        if (!near) CHECK_MESSAGE(near, argument << " to the power " << exponent << ": " << got[lane]);
        if (got[lane] == 0)
          CHECK_MESSAGE(std::signbit(got[lane]) == std::signbit(want), argument << " to the power " << exponent);
      }
    }
  }
  MESSAGE("pow" << of_type<T> << largest << " ulp");
  CHECK(largest <= 4.0);
}

TEST_CASE_TEMPLATE("functions of packets are exact where the result is a number", T, float, double) {
  const T infinity = Limits<T>::infinity();
  const auto at = [](auto f, T x) -> T { return f(cpu::splat(x))[0]; };
  CHECK(at([](auto v) { return cpu::exp(v); }, T(0)) == 1);
  CHECK(at([](auto v) { return cpu::exp(v); }, -infinity) == 0);
  CHECK(at([](auto v) { return cpu::exp(v); }, infinity) == infinity);
  CHECK(at([](auto v) { return cpu::expm1(v); }, -infinity) == -1);
  CHECK(at([](auto v) { return cpu::log(v); }, T(1)) == 0);
  CHECK(at([](auto v) { return cpu::log(v); }, T(-0.0)) == -infinity);
  CHECK(std::isnan(at([](auto v) { return cpu::log(v); }, Limits<T>::lowest())));
  CHECK(at([](auto v) { return cpu::log1p(v); }, T(-1)) == -infinity);
  CHECK(std::isnan(at([](auto v) { return cpu::log1p(v); }, T(-1.5))));
  CHECK(at([](auto v) { return cpu::tanh(v); }, infinity) == 1);
  CHECK(at([](auto v) { return cpu::erf(v); }, -infinity) == -1);
  CHECK(std::isnan(at([](auto v) { return cpu::sin(v); }, infinity)));
  CHECK(std::isnan(at([](auto v) { return cpu::cos(v); }, -infinity)));
  CHECK(std::isnan(at([](auto v) { return cpu::sqrt(v); }, T(-1))));
  for (int i = 0; i < 3000; ++i)
    if (const T root = static_cast<T>(i); at([](auto v) { return cpu::sqrt(v); }, root * root) != root) FAIL_CHECK(i);
}

TEST_CASE_TEMPLATE("abs, round, minimum and maximum agree with the standard library", T, float, double) {
  std::vector<T> x = arguments<T>(-20, 20);
  for (int i = -50; i <= 50; ++i) x.push_back(static_cast<T>(i) / 2);
  compare("abs", x, [](auto v) { return cpu::abs(v); }, [](long double a) { return std::abs(a); }, 0.0);
  compare("round", x, [](auto v) { return cpu::round(v); }, [](long double a) { return std::nearbyint(a); }, 0.0);
  for (const T a : special_values<T>())
    for (const T b : special_values<T>()) {
      const T lower = cpu::minimum(cpu::splat(a), cpu::splat(b))[0];
      const T upper = cpu::maximum(cpu::splat(a), cpu::splat(b))[0];
      if (std::isnan(a) || std::isnan(b)) {
        CHECK(std::isnan(lower));
        CHECK(std::isnan(upper));
      } else {
        CHECK(lower == std::min(a, b));
        CHECK(upper == std::max(a, b));
      }
    }
}

TEST_CASE_TEMPLATE("packets load, store, sum and select lane by lane", T, float, double) {
  constexpr int width = cpu::packet_size<T>;
  CHECK(width * static_cast<int>(sizeof(T)) == cpu::packet_bytes);
  std::vector<T> x(width + 1);
  for (int i = 0; i <= width; ++i) x[static_cast<std::size_t>(i)] = static_cast<T>(i + 1);
  const auto v = cpu::load(x.data() + 1);  // 2, 3, ...: not aligned
  CHECK(cpu::sum(v) == static_cast<T>(width * (width + 3) / 2));
  CHECK(std::signbit(cpu::splat(T(-0.0))[width - 1]));
  for (int n = 0; n <= width; ++n) {
    std::vector<T> written(width, T(-1));
    cpu::store_partial(written.data(), v, n);
    for (int i = 0; i < width; ++i)
      CHECK(written[static_cast<std::size_t>(i)] == (i < n ? static_cast<T>(i + 2) : T(-1)));
  }
  const auto chosen = cpu::select(v < T(3), v, -v);
  const auto holds = cpu::mask_to_number<T>(v < T(3));
  const auto nonzero = cpu::select_nonzero(v - T(2), v, -v);
  const auto combined = cpu::fma(v, v, v);
  for (int i = 0; i < width; ++i) {
    const T lane = static_cast<T>(i + 2);
    CHECK(chosen[i] == (i == 0 ? lane : -lane));
    CHECK(holds[i] == (i == 0 ? T(1) : T(0)));
    CHECK(nonzero[i] == (i == 0 ? -lane : lane));
    CHECK(combined[i] == lane * lane + lane);
  }
  CHECK(cpu::select_nonzero(cpu::splat(Limits<T>::quiet_NaN()), v, -v)[0] == T(2));
  CHECK(cpu::any(v > static_cast<T>(width)));
  CHECK_FALSE(cpu::any(v > static_cast<T>(width + 1)));
}
