#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "settle/cuda/device.hpp"

namespace settle::cuda {

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
  NoGraphs() : before_(std::exchange(current(), true)) {}
  ~NoGraphs() { current() = before_; }
  NoGraphs(const NoGraphs&) = delete;
  NoGraphs& operator=(const NoGraphs&) = delete;

  static bool asked() { return current(); }

 private:
  static bool& current() {
    thread_local bool asked = false;
    return asked;
  }

  bool before_;
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
  explicit Arriving(Index count) : place_(find(static_cast<std::size_t>(count))) {}
  ~Arriving() {
    std::lock_guard lock(mutex());
    free().push_back(std::move(place_));
  }
  Arriving(const Arriving&) = delete;
  Arriving& operator=(const Arriving&) = delete;

  /// Asks for as many numbers as were announced, as they are after the work that was asked for before.
  void start(const double* numbers) {
    Context& context = Context::instance();
    const Runtime& runtime = context.runtime();
    check(runtime,
          runtime.cudaMemcpyAsync(place_->numbers, numbers, place_->count * sizeof(double), cudaMemcpyDeviceToHost,
                                  context.stream()),
          "download numbers");
    check(runtime, runtime.cudaEventRecord(place_->arrival, context.stream()), "record an event");
  }

  /// The numbers, once they are there; later work is not waited for.
  std::span<const double> wait() const {
    const Runtime& runtime = Context::instance().runtime();
    check(runtime, runtime.cudaEventSynchronize(place_->arrival), "wait for numbers");
    return {place_->numbers, place_->count};
  }

 private:
  /// Memory of the processor that the device writes, which is slow to make: kept for the next of its size.
  struct Place {
    std::size_t count = 0;
    double* numbers = nullptr;
    cudaEvent_t arrival = nullptr;
  };

  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::vector<std::unique_ptr<Place>>& free() {
    static auto& places = *new std::vector<std::unique_ptr<Place>>;  // never destroyed, as the context
    return places;
  }

  static std::unique_ptr<Place> find(std::size_t count) {
    std::lock_guard lock(mutex());
    for (auto& place : free())
      if (place->count == count) {
        std::swap(place, free().back());
        auto found = std::move(free().back());
        free().pop_back();
        return found;
      }
    const Runtime& runtime = Context::instance().runtime();
    auto made = std::make_unique<Place>();
    made->count = count;
    void* memory = nullptr;
    check(runtime, runtime.cudaHostAlloc(&memory, count * sizeof(double), cudaHostAllocDefault),
          "allocate memory for the device to write");
    made->numbers = static_cast<double*>(memory);
    check(runtime, runtime.cudaEventCreateWithFlags(&made->arrival, cudaEventDisableTiming), "make an event");
    return made;
  }

  std::unique_ptr<Place> place_;
};

}  // namespace settle::cuda
