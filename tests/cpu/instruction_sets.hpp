#pragma once
#include "settle/core/tensor.hpp"

/// What is compiled several times in one program, for different processors.
struct InstructionSetPart {
  const char* name;
  settle::Tensor<float> (*forward)(const settle::Tensor<float>& x, const settle::Tensor<float>& w);
  settle::Tensor<float> (*input_grad)(const settle::Tensor<float>& x, const settle::Tensor<float>& w);
  settle::Tensor<float> (*second_derivative)(const settle::Tensor<float>& x);
};
InstructionSetPart compiled_for_any_processor();
InstructionSetPart compiled_for_avx2();
