#pragma once
#include <string>
#include <unordered_map>

#include "settle/core/error.hpp"
#include "settle/cuda/library.hpp"
#include "settle/kernels/source.hpp"

namespace settle::inline v0_2::cuda {

/// Throws Error with the run-time library's words unless a call succeeded.
inline void check(const Runtime& runtime, cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    fail("cuda", "could not ", what, ": ", runtime.cudaGetErrorName(error), ": ", runtime.cudaGetErrorString(error));
}

/// The current device's architecture, as compile() takes it: "sm_90".
inline std::string architecture(const Runtime& runtime) {
  int device = 0, major = 0, minor = 0;
  check(runtime, runtime.cudaGetDevice(&device), "find the current device");
  check(runtime, runtime.cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "ask the device");
  check(runtime, runtime.cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "ask the device");
  return "sm_" + std::to_string(10 * major + minor);
}

/// Compiled kernels on the current device.
class Program {
 public:
  /// Loads what compile() made. The library must outlive the program. Throws Error when the device does not take it.
  Program(const Runtime& runtime, const std::string& code) : runtime_(runtime), code_(code) {
    check(runtime, runtime.cudaLibraryLoadData(&library_, code_.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
          "load kernels");
  }
  ~Program() { runtime_.cudaLibraryUnload(library_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// Starts a kernel in a stream; the arguments are the addresses of their values. Throws Error when the program has no
  /// such kernel, or the launch is refused; what goes wrong later shows at a later call.
  void launch(const kernels::Kernel& kernel, const kernels::Grid& grid, void** arguments,
              cudaStream_t stream = nullptr) {
    const auto [at, is_new] = kernels_.try_emplace(kernel.name, nullptr);
    if (is_new) {
      const cudaError_t error = runtime_.cudaLibraryGetKernel(&at->second, library_, kernel.name.c_str());
      if (error != cudaSuccess) {
        kernels_.erase(at);
        check(runtime_, error, ("find the kernel " + kernel.name).c_str());
      }
    }
    cudaLaunchConfig_t config{};
    config.gridDim = {grid.blocks, grid.blocks_y, 1};
    config.blockDim = {grid.threads, grid.threads_y, 1};
    config.stream = stream;
    const cudaError_t error = runtime_.cudaLaunchKernelExC(&config, at->second, arguments);
    if (error != cudaSuccess) check(runtime_, error, ("launch " + kernel.name).c_str());
  }

 private:
  const Runtime& runtime_;
  std::string code_;
  cudaLibrary_t library_ = nullptr;
  std::unordered_map<std::string, cudaKernel_t> kernels_;
};

}  // namespace settle::cuda
