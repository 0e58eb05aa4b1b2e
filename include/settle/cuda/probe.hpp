#pragma once
#include <string>

#include "settle/cuda/library.hpp"

namespace settle::inline v0_2::cuda {

/// Whether kernels can run here, and if not, what is missing.
enum class Status {
  ready,       ///< at least one device
  no_toolkit,  ///< the run-time library cannot be opened
  no_driver,   ///< the run-time library is here, the driver is not
  old_driver,  ///< the driver is older than the run-time library needs
  no_device    ///< library and driver are here, no device answers
};

struct Probe {
  Status status = Status::no_toolkit;
  int devices = 0;
  std::string sentence;  ///< the status in words, with what the libraries said
};

/// Asks the run-time library what is here. Never throws; creates no context on a device.
inline Probe probe(const Runtime& runtime) {
  if (!runtime.library.usable()) return {Status::no_toolkit, 0, "no CUDA toolkit: " + runtime.library.reason()};
  int devices = 0, driver = 0;
  const cudaError_t error = runtime.cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0)
    return {Status::ready, devices,
            "CUDA is ready: " + std::to_string(devices) + (devices == 1 ? " device" : " devices")};
  const auto version = [](int v) { return std::to_string(v / 1000) + '.' + std::to_string(v % 1000 / 10); };
  if (error == cudaErrorInsufficientDriver) {
    if (runtime.cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
      return {Status::no_driver, 0, "no NVIDIA driver is installed"};
    return {Status::old_driver, 0,
            "the NVIDIA driver is too old: it serves CUDA " + version(driver) + ", the toolkit is CUDA " +
                version(CUDART_VERSION)};
  }
  if (error == cudaSuccess || error == cudaErrorNoDevice) return {Status::no_device, 0, "no CUDA device is present"};
  return {Status::no_device, 0, std::string("no CUDA device answers: ") + runtime.cudaGetErrorName(error)};
}

}  // namespace settle::cuda
