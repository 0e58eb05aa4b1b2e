#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <utility>
#include <vector>

// What the stand-ins for CUDA's libraries share.
namespace emulated {

using Works = std::vector<std::function<void()>>;

/// What is asked of a stream is done at once, or, while it is captured, written down.
struct Stream {
  Works* captured = nullptr;
  int device = 0;
};

inline Works* captured_by(cudaStream_t stream) {
  return stream ? reinterpret_cast<Stream*>(stream)->captured : nullptr;
}

inline int device_of(cudaStream_t stream) { return stream ? reinterpret_cast<Stream*>(stream)->device : 0; }

inline void ask(cudaStream_t stream, std::function<void()> work) {
  if (Works* const works = captured_by(stream))
    works->push_back(std::move(work));
  else
    work();
}

}  // namespace emulated
