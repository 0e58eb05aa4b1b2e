#pragma once
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>

#include "settle/core/sanitizer.hpp"

namespace settle::inline v0_2 {

/// Every failure of the library: the text starts with the operation, as in
/// "[conv] expected an input (N, C, H, W) with C = 24 for the weight (25, 24, 5, 5), got (8, 25, 64, 64)".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error "[where] parts...".
template <class... Parts>
[[noreturn]] void fail(const char* where, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << where << "] ";
  (text << ... << parts);
  throw Error(text.str());
}

/// Throws Error "[where] parts..." unless the condition holds; the parts are formatted only then.
template <class... Parts>
void require(bool condition, const char* where, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(where, parts...);
}

/// What f() gives; where the system has not the `bytes` that it needs, Error "[where] ...".
template <class F>
decltype(auto) with_memory(const char* where, std::size_t bytes, const F& f) {
#ifdef SETTLE_ADDRESS_SANITIZER
  constexpr std::size_t most = std::size_t{1} << 39;  // it ends the program where more is asked for
#else
  constexpr std::size_t most = std::size_t{1} << 62;
#endif
  try {
    if (bytes <= most) return f();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  fail(where, "out of memory: asked for ", bytes, " bytes");
}

}  // namespace settle
