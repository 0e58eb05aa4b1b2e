// The tests of the kernels on a device. Where there is none the program ends with status 77 and the reason, or fails
// when SETTLE_REQUIRE_GPU is 1.
#define DOCTEST_CONFIG_IMPLEMENT
#include "launch.hpp"

#include "cases.hpp"
#include "cuda/device/main.hpp"
#include "settle/cuda/cache.hpp"
#include "settle/cuda/context.hpp"
#include "settle/cuda/program.hpp"

using namespace settle;

namespace {

const cuda::Runtime& runtime() {
  static const cuda::Runtime library(cuda::libraries_folder());
  return library;
}

class ManagedMemory : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t) override {
    void* memory = nullptr;
    cuda::check(runtime(), runtime().cudaMallocManaged(&memory, bytes == 0 ? 1 : bytes, cudaMemAttachGlobal),
                "allocate memory");
    return memory;
  }
  void do_deallocate(void* memory, std::size_t, std::size_t) override { runtime().cudaFree(memory); }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace

std::pmr::memory_resource& kernel_memory() {
  static ManagedMemory memory;
  return memory;
}

void launch(const kernels::Kernel& kernel, const kernels::Grid& grid, void** arguments) {
  static cuda::Program program(
      runtime(), cuda::compiled_code(cuda::Nvrtc(cuda::libraries_folder()), cuda::CodeCache(),
                                     kernels::source(kernel_cases::all_kernels()), cuda::architecture(runtime())));
  program.launch(kernel, grid, arguments);
  cuda::check(runtime(), runtime().cudaDeviceSynchronize(), ("run " + kernel.name).c_str());
}

int main(int count, char** arguments) { return run_on_device(runtime(), count, arguments); }
