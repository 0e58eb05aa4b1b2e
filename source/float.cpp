// libsettle: what is heavy to compile, compiled once for all programs. Here that of float.
#define SETTLE_COMPILE_FLOAT_HERE
#include "settle/compiled_once.hpp"
