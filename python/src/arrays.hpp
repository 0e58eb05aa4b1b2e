#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"

namespace nb = nanobind;

/// An array of Python's side in the processor's memory, NumPy's or PyTorch's.
template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

/// The same memory as a tensor; the array is held as long as a tensor shares it.
template <class T>
settle::Tensor<T> tensor_of(const Array<T>& array) {
  settle::Shape shape;
  for (std::size_t a = 0; a < array.ndim(); ++a) shape.append(static_cast<settle::Index>(array.shape(a)));
  const std::shared_ptr<const void> owner(new Array<T>(array), [](const void* held) {
    const nb::gil_scoped_acquire lock;  // the last tensor may go on any thread
    delete static_cast<const Array<T>*>(held);
  });
  return settle::Tensor<T>::view(array.data(), shape, owner);
}

/// A tensor as a DLPack capsule, which holds it: nothing is copied, and it is the receiver's to write.
template <class T>
nb::ndarray<T> array_of(settle::Tensor<T> tensor) {
  auto* const held = new settle::Tensor<T>(std::move(tensor));
  T* const data = held->mutable_data();  // of its own, if others share the values
  const nb::capsule owner(held, [](void* p) noexcept { delete static_cast<settle::Tensor<T>*>(p); });
  std::vector<std::size_t> shape;
  for (const settle::Index extent : held->shape()) shape.push_back(static_cast<std::size_t>(extent));
  return nb::ndarray<T>(data, shape.size(), shape.data(), owner, nullptr, nb::dtype<T>(), nb::device::cpu::value);
}
