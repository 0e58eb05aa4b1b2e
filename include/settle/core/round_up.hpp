#pragma once
#include <concepts>
#include <type_traits>

namespace settle {

/// The smallest multiple of `unit` > 0 that is not below `size` >= 0.
template <std::integral T>
constexpr T round_up(T size, std::type_identity_t<T> unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace settle
