// libsettle: what is heavy to compile, compiled once for all programs.
#define SETTLE_COMPILE_HERE
#include "settle/compiled_once.hpp"
