#pragma once
#include <filesystem>
#include <vector>

#include "settle/core/tensor.hpp"

/// The files that NumPy wrote.
inline const std::filesystem::path fixtures = std::filesystem::path(SETTLE_DATA_DIR) / "fixtures" / "numpy";

template <class T>
std::vector<T> list(const settle::Tensor<T>& tensor) {
  return {tensor.values().begin(), tensor.values().end()};
}
