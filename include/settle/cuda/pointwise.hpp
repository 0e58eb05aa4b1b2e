#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "settle/cpu/pointwise.hpp"
#include "settle/cuda/device.hpp"
#include "settle/expr/program.hpp"
#include "settle/kernels/map.hpp"

namespace settle::inline v0_2 {

namespace cuda {

/// The launches of one pointwise program, by the shapes and the results that are wanted.
template <class T>
class Maps {
 public:
  using Result = typename kernels::Map<T>::Result;

  explicit Maps(const expr::Program& program) : lowered_(expr::lower(program)) {}

  const kernels::Map<T>& find(const Shape& space, std::span<const Shape> inputs, std::span<const Result> results) {
    std::string key;
    const auto add = [&](const Shape& shape) {
      key += static_cast<char>(shape.rank());
      for (const Index extent : shape) key.append(reinterpret_cast<const char*>(&extent), sizeof(extent));
    };
    add(space);
    for (const Shape& shape : inputs) add(shape);
    for (const Result& result : results) key += static_cast<char>(result.put), add(result.shape);
    std::lock_guard lock(mutex_);
    auto& found = maps_[key];
    if (!found) found = std::make_unique<const kernels::Map<T>>(lowered_, space, inputs, results);
    return *found;
  }

 private:
  expr::Program lowered_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<const kernels::Map<T>>> maps_;
};

}  // namespace cuda

template <class T>
struct PointwiseKernel<T, Cuda> {
  cuda::Maps<T>* maps;
};

/// A pointwise function on the device: its programs, of any order, are printed and compiled when they are first used.
template <class T>
class PointwiseFunction<T, Cuda> {
 public:
  /// A gradient's pass is bound by its memory, not by its arithmetic: kept derivatives would be as much to read.
  static constexpr bool keeps_derivatives = false;

  /// The function of a captureless lambda of N symbolic numbers.
  template <class F, int N>
  static const PointwiseFunction& of() {
    static const PointwiseFunction function(expr::trace<F, N>());
    return function;
  }

  const expr::Program& program() const { return program_; }

  /// Inputs: the cotangents, then the inputs; results: the inputs' cotangents.
  const PointwiseFunction& gradient() const {
    std::call_once(gradient_made_, [&] { gradient_.reset(new PointwiseFunction(expr::gradient(program_))); });
    return *gradient_;
  }

  /// The function of the wanted results alone.
  const PointwiseFunction& only(const std::vector<bool>& wanted) const {
    std::lock_guard lock(parts_mutex_);
    auto& part = parts_[wanted];
    if (!part) part.reset(new PointwiseFunction(expr::only(program_, wanted)));
    return *part;
  }

  PointwiseKernel<T, Cuda> kernel() const { return {&maps_}; }

 private:
  explicit PointwiseFunction(expr::Program program) : program_(std::move(program)), maps_(program_) {}

  expr::Program program_;
  mutable cuda::Maps<T> maps_;
  mutable std::once_flag gradient_made_;
  mutable std::unique_ptr<const PointwiseFunction> gradient_;
  mutable std::mutex parts_mutex_;
  mutable std::map<std::vector<bool>, std::unique_ptr<const PointwiseFunction>> parts_;
};

/// Evaluates a kernel over `space`: inputs broadcast to it, and each wanted result is summed to its tensor's shape, in
/// a fixed order.
template <class T>
void evaluate(const PointwiseKernel<T, Cuda>& kernel, const Shape& space, std::span<const Tensor<T, Cuda>> inputs,
              std::span<const PointwiseResult<T, Cuda>> results) {
  using kernels::Put;
  std::vector<Shape> shapes;
  std::vector<const T*> from;
  for (const auto& x : inputs) shapes.push_back(x.shape()), from.push_back(x.data());
  std::vector<typename cuda::Maps<T>::Result> puts;
  std::vector<T*> to;
  for (const auto& [tensor, accumulate] : results) {
    puts.push_back(tensor ? typename cuda::Maps<T>::Result{accumulate ? Put::accumulate : Put::assign, tensor->shape()}
                          : typename cuda::Maps<T>::Result{Put::skip, {}});
    to.push_back(tensor ? tensor->mutable_data() : nullptr);
  }
  const kernels::Map<T>& map = kernel.maps->find(space, shapes, puts);
  const MemoryTag tag("workspace");
  Tensor<double, Cuda> scratch(Shape{map.scratch()});
  cuda::Context& context = cuda::Context::instance();
  map.run([&](const kernels::Kernel& k, const kernels::Grid& grid,
              void** arguments) { context.launch(k, grid, arguments); },
          from, to, scratch.mutable_data());
}

}  // namespace settle
