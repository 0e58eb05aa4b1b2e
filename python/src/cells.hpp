#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"

/// One step of a cell of the library, recorded, so that cotangents can be pulled back through it.
template <class T>
class CellStep {
 public:
  virtual ~CellStep() = default;
  /// The next state.
  virtual settle::Tensor<T> value() const = 0;
  /// The cotangents of the state, the input and each parameter for one of the next state, as often as wanted.
  virtual std::vector<settle::Tensor<T>> pull(const settle::Tensor<T>& cotangent) = 0;
};

template <class T>
using NamedValues = std::vector<std::pair<std::string, settle::Tensor<T>>>;

/// The hGRU cell's parameters at their initial values.
template <class T>
NamedValues<T> hgru_parameters(settle::Index channels, settle::Index kernel, std::uint64_t seed);

/// The hGRU cell's next state for parameters in that order.
template <class T>
std::unique_ptr<CellStep<T>> hgru_step(const std::vector<settle::Tensor<T>>& parameters,
                                       const settle::Tensor<T>& state, const settle::Tensor<T>& input);
