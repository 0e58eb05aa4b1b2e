#pragma once
#include <cstdio>

#include "settle/core/shape.hpp"

namespace settle::cpu {

namespace detail {

/// The bytes of the third-level cache that the first processor uses; 32 MB where the system does not tell.
inline Index third_level_cache() {
  Index kilobytes = 0;
#ifdef __linux__
  if (std::FILE* const file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    long found = 0;
    if (std::fscanf(file, "%ldK", &found) == 1) kilobytes = found;
    std::fclose(file);
  }
#endif
  return (kilobytes > 0 ? kilobytes : 32 * 1024) * 1024;
}

}  // namespace detail

/// Pointwise work whose results take so many bytes each, or more, writes them past the caches, which they would leave
/// before they are read: a quarter of the third-level cache, unless a program sets it, which it may not while work is
/// running.
inline Index& streamed_bytes() {
  static Index bytes = detail::third_level_cache() / 4;
  return bytes;
}

}  // namespace settle::cpu
