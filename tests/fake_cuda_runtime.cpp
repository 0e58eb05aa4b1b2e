// Stands in for the CUDA run-time library in the tests of the probe: answers what the test sets.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

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
const char* CUDARTAPI cudaGetErrorString(cudaError_t) { return "an error of the test"; }

// A device of compute capability 9.1 on which one kernel, "known", can be launched.
int fake_launches = 0;
unsigned fake_blocks = 0, fake_threads = 0;

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  *device = 0;
  return static_cast<cudaError_t>(fake_error);
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 1;
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceSynchronize() { return static_cast<cudaError_t>(fake_error); }

cudaError_t CUDARTAPI cudaMallocManaged(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t CUDARTAPI cudaLibraryLoadData(cudaLibrary_t*, const void*, cudaJitOption*, void**, unsigned,
                                          cudaLibraryOption*, void**, unsigned) {
  return static_cast<cudaError_t>(fake_error);
}

cudaError_t CUDARTAPI cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }

cudaError_t CUDARTAPI cudaLibraryGetKernel(cudaKernel_t*, cudaLibrary_t, const char* name) {
  return std::strcmp(name, "known") == 0 ? cudaSuccess : cudaErrorSymbolNotFound;
}

cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  ++fake_launches, fake_blocks = config->gridDim.y, fake_threads = config->blockDim.x;
  return static_cast<cudaError_t>(fake_error);
}
}
