#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "settle/core/scoped_value.hpp"
#include "settle/cuda/device.hpp"
#include "settle/cuda/event.hpp"
#include "settle/cuda/staging.hpp"

namespace settle::inline v0_2::cuda {

/// Work that was asked for once and is repeated by a single launch: the same kernels with the same arguments on the
/// same memory. What it allocated stays set aside while the graph lives.
class Graph {
 public:
  /// Captures what `work` asks of the device on this thread; nothing is done. What it makes and keeps must be made
  /// before. Throws Error when it cannot be captured, as where it reads or writes the processor's memory.
  template <class Work>
  explicit Graph(const Work& work) {
    const MemoryOf<Cuda>::Reserve::Use use(*reserve_);
    Context& context = Context::instance();
    const Runtime& runtime = context.runtime();
    const cudaGraph_t graph = context.capture(work);
    const cudaError_t made = runtime.cudaGraphInstantiate(&graph_, graph, 0);
    runtime.cudaGraphDestroy(graph);
    check(runtime, made, "make a graph");
  }
  ~Graph() { Context::instance().runtime().cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Starts the work, in the order of all other work.
  void launch() {
    Context& context = Context::instance();
    check(context.runtime(), context.runtime().cudaGraphLaunch(graph_, context.stream()), "launch a graph");
  }

 private:
  std::unique_ptr<MemoryOf<Cuda>::Reserve> reserve_ = std::make_unique<MemoryOf<Cuda>::Reserve>();
  cudaGraphExec_t graph_ = nullptr;
};

/// While it lives, the solvers of this thread launch every kernel by itself: `cuda::NoGraphs eager;`. The same bits,
/// for comparison and for profilers.
class NoGraphs {
 public:
  NoGraphs() : scope_(current(), true) {}

  static bool asked() { return current(); }

 private:
  static bool& current() {
    thread_local bool asked = false;
    return asked;
  }

  ScopedValue<bool> scope_;
};

/// Work that is the same every time, as a graph if it can be captured. It must have been done before, so that what it
/// makes once and keeps is there.
class Repeated {
 public:
  explicit Repeated(std::function<void()> work) : work_(std::move(work)) {
    try {
      graph_.emplace(work_);
    } catch (const Error&) {  // the work itself says what is wrong, if it is not only the capture
    }
  }

  void operator()() { graph_ ? graph_->launch() : work_(); }

 private:
  std::function<void()> work_;
  std::optional<Graph> graph_;
};

/// Numbers on their way from the device, which are awaited only when they are read.
class Arriving {
 public:
  explicit Arriving(Index count) : numbers_(Shape{count}), to_(numbers_.mutable_data()) {}
  /// Waits, as the memory that the device writes may be given to another tensor.
  ~Arriving() {
    try {
      arrival_.wait();
    } catch (const Error&) {  // of the device: it writes no more
    }
  }
  Arriving(const Arriving&) = delete;
  Arriving& operator=(const Arriving&) = delete;

  /// Asks for as many numbers as were announced, as they are after the work that was asked for before.
  void start(const double* numbers) {
    Context& context = Context::instance();
    check(context.runtime(),
          context.runtime().cudaMemcpyAsync(to_, numbers, numbers_.bytes(), cudaMemcpyDeviceToHost, context.stream()),
          "download numbers");
    arrival_.record();
  }

  /// The numbers, once they are there; later work is not waited for.
  std::span<const double> wait() const {
    arrival_.wait();
    return {to_, static_cast<std::size_t>(numbers_.size())};
  }

 private:
  Tensor<double, PageLocked> numbers_;
  double* to_;
  Event arrival_;
};

}  // namespace settle::cuda
