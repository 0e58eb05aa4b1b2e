#pragma once
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "settle/core/error.hpp"
#include "settle/cuda/cache.hpp"
#include "settle/cuda/probe.hpp"
#include "settle/cuda/program.hpp"
#include "settle/kernels/registry.hpp"

namespace settle::inline v0_2::cuda {

/// The folder to take the CUDA libraries from in place of the usual ones: $SETTLE_CUDA_LIBRARIES, or none.
inline std::filesystem::path libraries_folder() {
  const char* folder = std::getenv("SETTLE_CUDA_LIBRARIES");
  return folder ? folder : "";
}

/// The device that tensors of this process live on: the current one when it is first used. All work is in one stream,
/// in the order in which it is asked for, so memory that is given back may be reused at once. While a thread captures,
/// what it asks for goes to another stream, where it is written down.
class Context {
 public:
  /// The process-wide instance, made on first use. Its device becomes the calling thread's current one: a thread begins
  /// with device 0, from which another device's stream takes no launches. Throws Error with the probe's sentence where
  /// there is no device.
  static Context& instance() {
    static Context* context = new Context;  // never destroyed: tensors may outlive any static's order
    [[maybe_unused]] thread_local const bool current = context->make_current();
    return *context;
  }

  const Runtime& runtime() const { return runtime_; }
  /// Where work goes, by default the calling thread's: to be done, or to be captured.
  cudaStream_t stream(bool captured = capturing()) const { return captured ? captured_ : stream_; }
  /// Whether the calling thread captures.
  static bool capturing() { return capturing_flag(); }

  /// What `work` asks of the device on this thread, written down in place of being done. One thread captures at a time,
  /// others go on. Throws Error when the work is more than launches and copies within the device.
  template <class Work>
  cudaGraph_t capture(const Work& work) {
    std::lock_guard lock(capture_mutex_);
    check(runtime_.cudaStreamBeginCapture(captured_, cudaStreamCaptureModeRelaxed), "start a capture");
    capturing_flag() = true;
    cudaGraph_t graph = nullptr;
    const auto end = [&] {
      capturing_flag() = false;
      return runtime_.cudaStreamEndCapture(captured_, &graph);
    };
    try {
      work();
    } catch (...) {
      if (end() == cudaSuccess) runtime_.cudaGraphDestroy(graph);
      throw;
    }
    check(end(), "end a capture");
    return graph;
  }
  /// As compile() takes it: "sm_90".
  const std::string& architecture() const { return architecture_; }

  /// Memory for what is asked of the stream from now on. Throws Error when there is not enough.
  void* allocate(std::size_t bytes) {
    void* data = nullptr;
    check(runtime_.cudaMallocAsync(&data, bytes, stream_), "allocate memory");
    return data;
  }
  /// Gives memory back once the stream has come so far.
  void release(void* data) { check(runtime_.cudaFreeAsync(data, stream_), "release memory"); }
  /// Makes what was released free for any use: until then the driver may keep it for requests of the same size. Waits
  /// for all that was asked for before.
  void trim() {
    check(runtime_.cudaStreamSynchronize(stream_), "finish the work asked for");
    check(runtime_.cudaMemPoolTrimTo(pool_, 0), "trim the device's memory");
  }

  void copy(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes, cudaMemcpyDeviceToDevice); }
  /// The processor's memory may be changed as soon as this returns. Waits for all that was asked for before: a device
  /// that reads pageable memory by itself may do so as late as it reads page-locked memory.
  void upload(void* to, const void* from, std::size_t bytes) {
    start_upload(to, from, bytes);
    synchronise();
  }
  /// Returns before the copy is made, which is of what page-locked memory holds when the stream comes to it.
  void start_upload(void* to, const void* from, std::size_t bytes) {
    require_done("upload memory");
    copy(to, from, bytes, cudaMemcpyHostToDevice);
  }
  /// Waits for all that was asked for before.
  void download(void* to, const void* from, std::size_t bytes) {
    require_done("download memory");
    copy(to, from, bytes, cudaMemcpyDeviceToHost);
    synchronise();
  }
  void zero(void* data, std::size_t bytes) {
    check(runtime_.cudaMemsetAsync(data, 0, bytes, stream()), "clear memory");
  }
  void synchronise() {
    require_done("finish the work asked for");
    check(runtime_.cudaStreamSynchronize(stream_), "finish the work asked for");
  }

  /// Starts a kernel, which is compiled with its program, or taken from the disk, when it is first used. The arguments
  /// are the addresses of their values.
  void launch(const kernels::Kernel& kernel, const kernels::Grid& grid, void** arguments) {
    std::lock_guard lock(mutex_);
    program(kernel).launch(kernel, grid, arguments, stream());
  }

 private:
  Context() {
    const Probe found = probe(runtime_);
    require(found.status == Status::ready, "cuda", found.sentence);
    architecture_ = cuda::architecture(runtime_);
    for (cudaStream_t* stream : {&stream_, &captured_})
      check(runtime_.cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "make a stream");
    check(runtime_.cudaGetDevice(&device_), "find the current device");
    check(runtime_.cudaDeviceGetDefaultMemPool(&pool_, device_), "find the device's memory pool");
    std::uint64_t all = std::numeric_limits<std::uint64_t>::max();
    check(runtime_.cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &all), "keep the device's memory");
  }

  bool make_current() const {
    check(runtime_.cudaSetDevice(device_), "make the device the thread's current one");
    return true;
  }

  void check(cudaError_t error, const char* what) const { cuda::check(runtime_, error, what); }

  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    check(runtime_.cudaMemcpyAsync(to, from, bytes, kind, stream()), "copy memory");
  }

  static bool& capturing_flag() {
    thread_local bool capturing = false;
    return capturing;
  }
  static void require_done(const char* what) {
    require(!capturing(), "cuda", "could not ", what, " while work is captured: it is not done yet");
  }

  Program& program(const kernels::Kernel& kernel) {
    const std::string& name = kernel.program.empty() ? kernel.name : kernel.program;
    std::unique_ptr<Program>& found = programs_[name];
    if (!found)
      found = std::make_unique<Program>(
          runtime_, compiled_code(nvrtc_, cache_, kernels::source(kernels::compiled_with(kernel)), architecture_));
    return *found;
  }

  Runtime runtime_{libraries_folder()};
  Nvrtc nvrtc_{libraries_folder()};
  CodeCache cache_;
  std::string architecture_;
  int device_ = 0;
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t stream_ = nullptr, captured_ = nullptr;
  std::mutex mutex_, capture_mutex_;
  std::unordered_map<std::string, std::unique_ptr<Program>> programs_;  ///< by the program's name, or the kernel's
};

}  // namespace settle::cuda
