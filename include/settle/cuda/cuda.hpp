#pragma once
#include "settle/core/macros_off.hpp"
// The CUDA device: with this header `Cuda` stands wherever `Cpu` does, as in Tensor<float, Cuda>.
#include "settle/cuda/backend.hpp"
#include "settle/cuda/device.hpp"
#include "settle/cuda/pointwise.hpp"
#include "settle/cuda/staging.hpp"
#include "settle/core/macros_on.hpp"
