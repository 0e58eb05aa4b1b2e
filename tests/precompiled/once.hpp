#include "settle/compiled_once.hpp"
#include "settle/io/safetensors.hpp"
