#pragma once
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <nvrtc.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

// The CUDA libraries are opened while the program runs, never linked: a program built with CUDA support starts on a
// machine that has none. The functions have the types of the headers that the program was compiled with, so only
// libraries of the same major version are opened.
namespace settle::inline v0_2::cuda {

/// A shared library opened at run time.
class Library {
 public:
  /// Opens `name` from a folder, or, with no folder, from where the system's loader finds it or the toolkit is usually
  /// installed. Does not throw: `reason()` says why it is not there.
  explicit Library(const std::string& name, const std::filesystem::path& folder = {}) : name_(name) {
    for (const std::string& candidate : candidates(name, folder)) {
      handle_ = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_) return;
      if (reason_.empty()) reason_ = ::dlerror();
    }
  }
  // Never closed: the libraries have threads and exit handlers of their own.
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Whether the library is open and has every function that was asked of it.
  bool usable() const { return handle_ && missing_.empty(); }
  /// Why it is not usable; empty when it is.
  std::string reason() const {
    if (usable()) return "";
    return handle_ ? name_ + " has no function " + missing_ : reason_;
  }

  /// The function of that name, or null.
  template <class Function>
  Function* find(const char* function) {
    void* const found = handle_ ? ::dlsym(handle_, function) : nullptr;
    if (handle_ && !found && missing_.empty()) missing_ = function;
    return reinterpret_cast<Function*>(found);
  }
  /// The same of a function without which the library is usable, too.
  template <class Function>
  Function* find_newer(const char* function) const {
    return reinterpret_cast<Function*>(handle_ ? ::dlsym(handle_, function) : nullptr);
  }

 private:
  static std::vector<std::string> candidates(const std::string& name, const std::filesystem::path& folder) {
    if (!folder.empty()) return {(folder / name).string()};
    std::vector<std::string> out{name};
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
      if (const char* home = std::getenv(variable)) out.push_back(std::string(home) + "/lib64/" + name);
    out.push_back("/usr/local/cuda/lib64/" + name);
    return out;
  }

  std::string name_, reason_, missing_;
  void* handle_ = nullptr;
};

/// A member that is the library's function of the same name.
#define SETTLE_FUNCTION(name) decltype(::name)* name = library.find<decltype(::name)>(#name)

/// The run-time library: devices, memory, streams, kernels, graphs.
struct Runtime {
  explicit Runtime(const std::filesystem::path& folder = {})
      : library("libcudart.so." + std::to_string(CUDART_VERSION / 1000), folder) {}
  Library library;
  SETTLE_FUNCTION(cudaGetDeviceCount);
  SETTLE_FUNCTION(cudaDriverGetVersion);
  SETTLE_FUNCTION(cudaGetErrorName);
  SETTLE_FUNCTION(cudaGetErrorString);
  SETTLE_FUNCTION(cudaGetDevice);
  SETTLE_FUNCTION(cudaSetDevice);
  SETTLE_FUNCTION(cudaDeviceGetAttribute);
  SETTLE_FUNCTION(cudaDeviceGetPCIBusId);
  SETTLE_FUNCTION(cudaDeviceSynchronize);
  SETTLE_FUNCTION(cudaStreamCreateWithFlags);
  SETTLE_FUNCTION(cudaStreamSynchronize);
  SETTLE_FUNCTION(cudaDeviceGetDefaultMemPool);
  SETTLE_FUNCTION(cudaMemPoolSetAttribute);
  SETTLE_FUNCTION(cudaMemPoolTrimTo);
  SETTLE_FUNCTION(cudaMallocAsync);
  SETTLE_FUNCTION(cudaFreeAsync);
  SETTLE_FUNCTION(cudaMemcpyAsync);
  SETTLE_FUNCTION(cudaMemsetAsync);
  SETTLE_FUNCTION(cudaMallocManaged);
  SETTLE_FUNCTION(cudaFree);
  SETTLE_FUNCTION(cudaHostAlloc);
  SETTLE_FUNCTION(cudaFreeHost);
  SETTLE_FUNCTION(cudaEventCreateWithFlags);
  SETTLE_FUNCTION(cudaEventDestroy);
  SETTLE_FUNCTION(cudaEventRecord);
  SETTLE_FUNCTION(cudaEventQuery);
  SETTLE_FUNCTION(cudaEventSynchronize);
  SETTLE_FUNCTION(cudaLibraryLoadData);
  SETTLE_FUNCTION(cudaLibraryUnload);
  SETTLE_FUNCTION(cudaLibraryGetKernel);
  SETTLE_FUNCTION(cudaLaunchKernelExC);
  SETTLE_FUNCTION(cudaStreamBeginCapture);
  SETTLE_FUNCTION(cudaStreamEndCapture);
  SETTLE_FUNCTION(cudaStreamIsCapturing);
  SETTLE_FUNCTION(cudaGraphInstantiate);
  SETTLE_FUNCTION(cudaGraphDestroy);
  SETTLE_FUNCTION(cudaGraphLaunch);
  SETTLE_FUNCTION(cudaGraphExecDestroy);
};

/// The compiler of kernel texts; works without a driver and without a device.
struct Nvrtc {
  explicit Nvrtc(const std::filesystem::path& folder = {})
      : library("libnvrtc.so." + std::to_string(CUDART_VERSION / 1000), folder) {}
  Library library;
  SETTLE_FUNCTION(nvrtcVersion);
  SETTLE_FUNCTION(nvrtcGetErrorString);
  SETTLE_FUNCTION(nvrtcCreateProgram);
  SETTLE_FUNCTION(nvrtcDestroyProgram);
  SETTLE_FUNCTION(nvrtcCompileProgram);
  SETTLE_FUNCTION(nvrtcGetProgramLogSize);
  SETTLE_FUNCTION(nvrtcGetProgramLog);
  SETTLE_FUNCTION(nvrtcGetCUBINSize);
  SETTLE_FUNCTION(nvrtcGetCUBIN);
};

/// Matrix products.
struct Cublas {
  explicit Cublas(const std::filesystem::path& folder = {})
      : library("libcublas.so." + std::to_string(CUBLAS_VER_MAJOR), folder) {}
  Library library;
  SETTLE_FUNCTION(cublasGetStatusString);
  SETTLE_FUNCTION(cublasCreate_v2);
  SETTLE_FUNCTION(cublasDestroy_v2);
  SETTLE_FUNCTION(cublasSetStream_v2);
  SETTLE_FUNCTION(cublasSetWorkspace_v2);
  SETTLE_FUNCTION(cublasGemmStridedBatchedEx_64);
};

/// Convolutions, by the graph interface.
struct Cudnn {
  explicit Cudnn(const std::filesystem::path& folder = {})
      : library("libcudnn.so." + std::to_string(CUDNN_MAJOR), folder) {}
  Library library;
  SETTLE_FUNCTION(cudnnGetVersion);
  SETTLE_FUNCTION(cudnnGetErrorString);
  SETTLE_FUNCTION(cudnnGetLastErrorString);
  SETTLE_FUNCTION(cudnnBackendCreateDescriptor);
  SETTLE_FUNCTION(cudnnBackendDestroyDescriptor);
  SETTLE_FUNCTION(cudnnBackendSetAttribute);
  SETTLE_FUNCTION(cudnnBackendGetAttribute);
  SETTLE_FUNCTION(cudnnBackendFinalize);
  SETTLE_FUNCTION(cudnnBackendExecute);
  SETTLE_FUNCTION(cudnnCreate);
  SETTLE_FUNCTION(cudnnDestroy);
  SETTLE_FUNCTION(cudnnSetStream);
};

#undef SETTLE_FUNCTION

}  // namespace settle::cuda
