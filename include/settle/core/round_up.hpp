#pragma once
#include <concepts>
#include <type_traits>

namespace settle::inline v0_2 {

/// The number of `unit`s > 0 that hold `size` >= 0.
template <std::integral T>
constexpr T divide_up(T size, std::type_identity_t<T> unit) {
  return (size + unit - 1) / unit;
}

/// The smallest multiple of `unit` > 0 that is not below `size` >= 0.
template <std::integral T>
constexpr T round_up(T size, std::type_identity_t<T> unit) {
  return divide_up(size, unit) * unit;
}

}  // namespace settle
