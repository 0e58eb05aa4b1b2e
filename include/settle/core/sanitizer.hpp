#pragma once

// Whether the address sanitizer watches this program.
#if defined(__SANITIZE_ADDRESS__)
#define SETTLE_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SETTLE_ADDRESS_SANITIZER 1
#endif
#endif
