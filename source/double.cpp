// libsettle: what is heavy to compile, compiled once for all programs. Here that of double.
#define SETTLE_COMPILE_DOUBLE_HERE
#include "settle/compiled_once.hpp"
