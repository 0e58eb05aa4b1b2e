#pragma once

// The one place of the version: meson.build reads the three numbers here.
#define SETTLE_VERSION_MAJOR 0
#define SETTLE_VERSION_MINOR 2
#define SETTLE_VERSION_PATCH 0

#define SETTLE_DETAIL_TEXT(x) #x
#define SETTLE_DETAIL_VERSION_TEXT(major, minor, patch) \
  SETTLE_DETAIL_TEXT(major) "." SETTLE_DETAIL_TEXT(minor) "." SETTLE_DETAIL_TEXT(patch)

namespace settle::inline v0_2 {

/// The library's version, as in "1.2.3".
inline constexpr const char version[] =
    SETTLE_DETAIL_VERSION_TEXT(SETTLE_VERSION_MAJOR, SETTLE_VERSION_MINOR, SETTLE_VERSION_PATCH);

}  // namespace settle

#undef SETTLE_DETAIL_VERSION_TEXT
#undef SETTLE_DETAIL_TEXT
