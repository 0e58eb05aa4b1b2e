#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace settle {

/// Every failure of the library: the text starts with the operation, as in
/// "[conv] expected weight (O, I, kh, kw) with I = 25, got (25, 24, 5, 5)".
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

}  // namespace settle
