// The tests of tensors and operations on the emulated device: the library takes the stand-ins for CUDA's libraries.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "temporary_folder.hpp"

int main(int count, char** arguments) {
  const TemporaryFolder folder;
  const std::string version = ".so." + std::to_string(CUDART_VERSION / 1000);
  std::filesystem::create_symlink(SETTLE_EMULATED_CUDA_RUNTIME, folder.path() / ("libcudart" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_NVRTC, folder.path() / ("libnvrtc" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_CUBLAS,
                                  folder.path() / ("libcublas.so." + std::to_string(CUBLAS_VER_MAJOR)));
  ::setenv("SETTLE_CUDA_LIBRARIES", folder.path().c_str(), 1);
  ::setenv("SETTLE_CACHE", SETTLE_EMULATED_CACHE, 1);
  return doctest::Context(count, arguments).run();
}
