#pragma once
#include <cstdio>
#include <string>

#include "settle/core/shape.hpp"
#include "settle/cpu/packet.hpp"

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

namespace detail {

/// The bytes of a cache that the first processor uses, by the system's number: 0 is the first level's of data, 3 the
/// third level's. `otherwise` where the system does not tell.
inline Index cache_bytes([[maybe_unused]] int number, Index otherwise) {
  Index kilobytes = 0;
#ifdef __linux__
  const std::string path = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(number) + "/size";
  if (std::FILE* const file = std::fopen(path.c_str(), "r")) {
    long found = 0;
    if (std::fscanf(file, "%ldK", &found) == 1) kilobytes = found;
    std::fclose(file);
  }
#endif
  return kilobytes > 0 ? kilobytes * 1024 : otherwise;
}

}  // namespace detail

/// Whether the processor is taken to have two units that multiply all bytes of the widest packets at once, which makes
/// arithmetic cheap beside memory and moves between lanes: guessed from packets of 64 bytes and a first-level cache of
/// more than 32 KB.
inline bool wide_units() {
  static const bool wide = packet_bytes == 64 && detail::cache_bytes(0, 0) > 32 * 1024;
  return wide;
}

/// Pointwise work whose results take so many bytes each, or more, writes them past the caches, which they would leave
/// before they are read: a quarter of the third-level cache, unless a program sets it, which it may not while work is
/// running.
inline Index& streamed_bytes() {
  static Index bytes = detail::cache_bytes(3, 32 * 1024 * 1024) / 4;
  return bytes;
}

}  // namespace settle::cpu
