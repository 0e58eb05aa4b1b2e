// The tests of tensors and operations on the emulated device: the library takes the stand-ins for CUDA's libraries.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cudnn_graph.h>
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "errors.hpp"
#include "settle/cuda/convolution.hpp"
#include "settle/cuda/staging.hpp"
#include "temporary_folder.hpp"

using namespace settle;

TEST_CASE("cuDNN is searched once for each convolution, and executes a deterministic engine of the precision allowed") {
  cuda::Cudnn cudnn(cuda::libraries_folder());
  const auto count = [&](const char* name) -> int& { return *cudnn.library.find<int>(name); };
  const auto convolve = [](const cpu::ConvGeometry& g) {
    const Tensor<float, Cuda> x(Shape{g.in_size()}, 1.0f), w(Shape{g.weight_size()}, 1.0f);
    Tensor<float, Cuda> y(Shape{g.out_size()});
    cuda::conv_forward(g, x.data(), w.data(), y.mutable_data(), ConvAlgorithm::automatic, w.derived());
    CHECK(to<Cpu>(y).data()[0] == static_cast<float>(g.in_channels * g.taps()));
  };
  cpu::ConvGeometry g{1, 5, 6, 4, 3, 2, 3};
  const int searches = count("fake_searches"), executions = count("fake_executions");
  for (int k = 0; k < 3; ++k) convolve(g);
  CHECK(count("fake_searches") == searches + 1);
  CHECK(count("fake_executions") == executions + 3);
  CHECK(count("fake_engine") == 2);
  {
    const cuda::AllowTf32 allow;
    convolve(g);
    CHECK(count("fake_engine") == 1);
  }
  const int descriptors = count("fake_descriptors");
  convolve(g);
  CHECK(count("fake_engine") == 2);
  CHECK(count("fake_descriptors") == descriptors);
  g.dilation_h = 2;  // refused: twice asked, for two kinds of advice, and never again
  for (int k = 0; k < 3; ++k) convolve(g);
  CHECK(count("fake_searches") == searches + 4);
  CHECK(count("fake_executions") == executions + 5);
}

TEST_CASE("one thread at a time uses cuDNN's handle, to search plans and to execute them") {
  cuda::Cudnn cudnn(cuda::libraries_folder());
  const int& overlaps = *cudnn.library.find<int>("fake_overlaps");
  const auto convolve = [](Index width) {
    const cpu::ConvGeometry g{1, 1, 4, width, 1, 2, 2};
    const Tensor<float, Cuda> x(Shape{g.in_size()}, 1.0f), w(Shape{g.weight_size()}, 1.0f);
    Tensor<float, Cuda> y(Shape{g.out_size()});
    cuda::conv_forward(g, x.data(), w.data(), y.mutable_data(), ConvAlgorithm::direct, w.derived());
  };
  const cuda::AllowTf32 other_plans_here;
  convolve(3);
  std::atomic<bool> done = false;
  std::thread searching([&] {
    for (Index width = 4; width < 9; ++width) convolve(width);
    done = true;
  });
  while (!done) convolve(3);
  searching.join();
  CHECK(overlaps == 0);
}

TEST_CASE("memory that is kept for other sizes is given back before the device has too little") {
  cuda::Runtime runtime(cuda::libraries_folder());
  auto& limit = *runtime.library.find<std::size_t>("fake_memory");
  const auto& held = *runtime.library.find<std::size_t>("fake_memory_held");
  auto& memory = MemoryOf<Cuda>::instance();
  memory.trim();
  { const Tensor<float, Cuda> kept(Shape{1 << 18}); }
  limit = held + (1 << 20);
  const Tensor<float, Cuda> larger(Shape{3 << 17});
  CHECK(held <= limit);
  CHECK(contains(error_of([] { Tensor<float, Cuda>(Shape{1 << 20}); }), "[cuda] could not allocate memory: "));
  CHECK(memory.use().current >= larger.bytes());
  limit = SIZE_MAX;
}

TEST_CASE("what is uploaded is what the processor's memory held then, however late the device reads it") {
  cuda::Runtime runtime(cuda::libraries_folder());
  int& late = *runtime.library.find<int>("fake_late_uploads");
  late = 1;
  Tensor<float> x(Shape{500}, 1.0f);
  const auto there = to<Cuda>(x);
  x.mutable_data()[0] = 2;
  const auto of_temporary = Tensor<float, Cuda>(Shape{2}, std::vector<float>{3, 4});
  CHECK(to<Cpu>(there).data()[0] == 1);
  CHECK(to<Cpu>(of_temporary).data()[1] == 4);
  late = 0;
}

TEST_CASE("memory that a batch is copied from is not used again before the device has copied it") {
  cuda::Runtime runtime(cuda::libraries_folder());
  int& late = *runtime.library.find<int>("fake_late_uploads");
  auto& memory = MemoryOf<cuda::PageLocked>::instance();
  const auto staged = [](float value) { return to<Cuda::Staging>(Tensor<float>(Shape{500}, value)); };
  const auto first = [](const Tensor<float, Cuda>& x) { return to<Cpu>(x).data()[0]; };
  late = 1;
  std::vector<Tensor<float, Cuda>> there;
  for (int k = 0; k < 3; ++k) there.push_back(to<Cuda>(staged(static_cast<float>(k))));
  CHECK(memory.use().current == 3 * 2000);
  auto changed = staged(3);
  there.push_back(to<Cuda>(changed));
  changed.mutable_data()[0] = 9;
  for (int k = 0; k < 4; ++k) CHECK(first(there[static_cast<std::size_t>(k)]) == static_cast<float>(k));
  std::size_t warm = 0;
  for (int k = 0; k < 10; ++k) {
    CHECK(first(to<Cuda>(staged(static_cast<float>(k)))) == static_cast<float>(k));
    if (k == 1) warm = memory.use().allocations;
  }
  CHECK(memory.use().allocations == warm);
  CHECK(memory.use().current == changed.bytes() + 2000);  // and the last one, until the next comes
  late = 0;
}

int main(int count, char** arguments) {
  const TemporaryFolder folder;
  const std::string version = ".so." + std::to_string(CUDART_VERSION / 1000);
  std::filesystem::create_symlink(SETTLE_EMULATED_CUDA_RUNTIME, folder.path() / ("libcudart" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_NVRTC, folder.path() / ("libnvrtc" + version));
  std::filesystem::create_symlink(SETTLE_EMULATED_CUBLAS,
                                  folder.path() / ("libcublas.so." + std::to_string(CUBLAS_VER_MAJOR)));
  std::filesystem::create_symlink(SETTLE_EMULATED_CUDNN,
                                  folder.path() / ("libcudnn.so." + std::to_string(CUDNN_MAJOR)));
  ::setenv("SETTLE_CUDA_LIBRARIES", folder.path().c_str(), 1);
  ::setenv("SETTLE_CACHE", SETTLE_EMULATED_CACHE, 1);
  cuda::Runtime runtime(folder.path());  // the device of the thread that uses it first is the other threads', too
  *runtime.library.find<int>("fake_devices") = 2;
  runtime.cudaSetDevice(1);
  return doctest::Context(count, arguments).run();
}
