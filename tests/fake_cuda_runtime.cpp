// Stands in for the CUDA run-time library in the tests of the probe: answers what the test sets.
#include <cuda_runtime_api.h>

extern "C" {
int fake_error = 0, fake_devices = 0, fake_driver = 0;

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
  if (fake_error == 0) *count = fake_devices;
  return static_cast<cudaError_t>(fake_error);
}

cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) {
  *version = fake_driver;
  return cudaSuccess;
}

const char* CUDARTAPI cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheTest"; }
}
