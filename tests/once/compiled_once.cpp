#define SETTLE_COMPILE_HERE
#include "settle/compiled_once.hpp"
