#pragma once
#include <cuda_runtime_api.h>

#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

// What the stand-ins for CUDA's libraries share.
namespace emulated {

using Works = std::vector<std::function<void()>>;

/// What is asked of a stream is done at once, or, while it is captured, written down. What waits for other devices is
/// done meanwhile, before what is asked for next.
struct Stream {
  Works* captured = nullptr;
  int device = 0;
  std::function<bool()> pending = {};  ///< whether that is done
};

inline Works* captured_by(cudaStream_t stream) {
  return stream ? reinterpret_cast<Stream*>(stream)->captured : nullptr;
}

inline int device_of(cudaStream_t stream) { return stream ? reinterpret_cast<Stream*>(stream)->device : 0; }

/// Whether all that was asked of the stream is done.
inline bool is_idle(cudaStream_t stream) {
  auto* const s = reinterpret_cast<Stream*>(stream);
  if (!s || !s->pending) return true;
  if (!s->pending()) return false;
  s->pending = {};
  return true;
}
inline void finish(cudaStream_t stream) {
  while (!is_idle(stream)) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

inline void ask(cudaStream_t stream, std::function<void()> work) {
  if (Works* const works = captured_by(stream)) return works->push_back(std::move(work));
  finish(stream);
  work();
}

}  // namespace emulated
