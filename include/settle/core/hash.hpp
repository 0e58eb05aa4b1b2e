#pragma once
#include <cstdint>
#include <string_view>

namespace settle::inline v0_2::detail {

/// A 64-bit hash of a text (FNV-1a). One changed byte always changes it.
constexpr std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

}  // namespace settle::detail
