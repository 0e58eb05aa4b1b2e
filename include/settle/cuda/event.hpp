#pragma once
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "settle/cuda/context.hpp"

namespace settle::inline v0_2::cuda {

/// A point in the stream's work. What the run-time library keeps for it is used again by a later one.
class Event {
 public:
  Event() : raw_(taken()) {}

  /// The point after all that this thread has asked for.
  void record() {
    Context& context = Context::instance();
    check(context.runtime(), context.runtime().cudaEventRecord(raw_.get(), context.stream()), "record an event");
  }
  /// Whether the work before it is done.
  bool passed() const {
    const Runtime& runtime = Context::instance().runtime();
    const cudaError_t answer = runtime.cudaEventQuery(raw_.get());
    if (answer == cudaErrorNotReady) return false;
    check(runtime, answer, "finish the work before an event");
    return true;
  }
  /// Waits until it is; later work is not waited for.
  void wait() const {
    const Runtime& runtime = Context::instance().runtime();
    check(runtime, runtime.cudaEventSynchronize(raw_.get()), "wait for an event");
  }

 private:
  using Raw = std::remove_pointer_t<cudaEvent_t>;

  struct Kept {
    std::mutex mutex;
    std::vector<Raw*> events;
  };
  static Kept& kept() {
    static Kept* kept = new Kept;  // never destroyed, as the context
    return *kept;
  }
  struct GiveBack {
    void operator()(Raw* event) const {
      std::lock_guard lock(kept().mutex);
      kept().events.push_back(event);
    }
  };

  static std::unique_ptr<Raw, GiveBack> taken() {
    {
      std::lock_guard lock(kept().mutex);
      if (auto& events = kept().events; !events.empty()) {
        Raw* const event = events.back();
        events.pop_back();
        return std::unique_ptr<Raw, GiveBack>(event);
      }
    }
    const Runtime& runtime = Context::instance().runtime();
    Raw* event = nullptr;
    check(runtime, runtime.cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    return std::unique_ptr<Raw, GiveBack>(event);
  }

  std::unique_ptr<Raw, GiveBack> raw_;
};

}  // namespace settle::cuda
