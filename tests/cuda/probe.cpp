#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "errors.hpp"
#include "settle/cuda/compiler.hpp"
#include "settle/cuda/probe.hpp"
#include "settle/cuda/program.hpp"
#include "temporary_folder.hpp"

using namespace settle;
using cuda::Status;

namespace {

/// The stand-in libraries under the names that are looked for.
struct FakeRuntime {
  FakeRuntime() {
    const std::string version = ".so." + std::to_string(CUDART_VERSION / 1000);
    std::filesystem::copy_file(SETTLE_EMULATED_CUDA_RUNTIME, folder.path() / ("libcudart" + version));
    std::filesystem::copy_file(SETTLE_EMULATED_NVRTC, folder.path() / ("libnvrtc" + version));
  }
  TemporaryFolder folder;
};

/// What the probe makes of a run-time library that gives these answers.
cuda::Probe probe_of(cudaError_t error, int devices, int driver) {
  const FakeRuntime fake;
  cuda::Runtime runtime(fake.folder.path());
  REQUIRE(runtime.library.usable());
  *runtime.library.find<int>("fake_error") = error;
  *runtime.library.find<int>("fake_devices") = devices;
  *runtime.library.find<int>("fake_driver") = driver;
  return cuda::probe(runtime);
}

}  // namespace

TEST_CASE("the probe tells what is missing apart, and says it in a sentence") {
  const cuda::Probe ready = probe_of(cudaSuccess, 2, CUDART_VERSION);
  CHECK(ready.status == Status::ready);
  CHECK(ready.devices == 2);
  CHECK(ready.sentence == "CUDA is ready: 2 devices");

  const cuda::Probe no_driver = probe_of(cudaErrorInsufficientDriver, 7, 0);
  CHECK(no_driver.status == Status::no_driver);
  CHECK(no_driver.devices == 0);
  CHECK(no_driver.sentence == "no NVIDIA driver is installed");

  const cuda::Probe old_driver = probe_of(cudaErrorInsufficientDriver, 0, 11080);
  CHECK(old_driver.status == Status::old_driver);
  CHECK(contains(old_driver.sentence, "the NVIDIA driver is too old: it serves CUDA 11.8, the toolkit is CUDA 1"));

  for (const cudaError_t error : {cudaSuccess, cudaErrorNoDevice}) {
    const cuda::Probe no_device = probe_of(error, 0, CUDART_VERSION);
    CHECK(no_device.status == Status::no_device);
    CHECK(no_device.sentence == "no CUDA device is present");
  }
  const cuda::Probe silent = probe_of(cudaErrorSystemNotReady, 1, CUDART_VERSION);
  CHECK(silent.status == Status::no_device);
  CHECK(silent.sentence == "no CUDA device answers: cudaErrorOfTheTest");
}

TEST_CASE("without a toolkit the probe names the library that cannot be opened") {
  const TemporaryFolder empty;
  const cuda::Runtime runtime(empty.path());
  CHECK(!runtime.library.usable());
  const cuda::Probe probe = cuda::probe(runtime);
  CHECK(probe.status == Status::no_toolkit);
  CHECK(contains(probe.sentence, "no CUDA toolkit: "));
  CHECK(contains(probe.sentence, (empty.path() / "libcudart.so.").string()));
  CHECK(!cuda::Nvrtc(empty.path()).library.usable());
  CHECK(!cuda::Cublas(empty.path()).library.usable());
  CHECK(!cuda::Cudnn(empty.path()).library.usable());
}

TEST_CASE("a library that lacks a function is not usable, and the function is named") {
  const FakeRuntime fake;
  cuda::Library library("libcudart.so." + std::to_string(CUDART_VERSION / 1000), fake.folder.path());
  CHECK(library.usable());
  CHECK(library.reason().empty());
  CHECK(!library.find<void()>("cudaOfTomorrow"));
  CHECK(!library.usable());
  CHECK(contains(library.reason(), "has no function cudaOfTomorrow"));
}

TEST_CASE("kernels are found by name and launched over their grid; what the library refuses is an error in its words") {
  const FakeRuntime fake;
  cuda::Runtime runtime(fake.folder.path());
  REQUIRE(runtime.library.usable());
  int& error = *runtime.library.find<int>("fake_error");
  error = cudaSuccess;
  CHECK(cuda::architecture(runtime) == "sm_91");
  const std::string code =
      cuda::compile(cuda::Nvrtc(fake.folder.path()), "extern \"C\" __global__ void known() {}\n", "sm_91").code;
  cuda::Program program(runtime, code);
  program.launch({"known", "", {}}, {3, 2, 64, 4}, nullptr);
  program.launch({"known", "", {}}, {1, 5, 32, 1}, nullptr);
  CHECK(*runtime.library.find<int>("fake_launches") == 2);
  CHECK(*runtime.library.find<unsigned>("fake_blocks") == 5);
  CHECK(*runtime.library.find<unsigned>("fake_threads") == 32);
  for (int attempt = 0; attempt < 2; ++attempt)
    CHECK(error_of([&] {
            program.launch({"unknown", "", {}}, {}, nullptr);
          }) == "[cuda] could not find the kernel unknown: cudaErrorOfTheTest: an error of the test");
  error = cudaErrorInvalidConfiguration;
  CHECK(contains(error_of([&] { program.launch({"known", "", {}}, {}, nullptr); }), "[cuda] could not launch known: "));
  CHECK(contains(error_of([&] { cuda::Program(runtime, code); }), "[cuda] could not load kernels: "));
  CHECK(contains(error_of([&] { cuda::architecture(runtime); }), "[cuda] could not find the current device: "));
  error = cudaSuccess;
}

TEST_CASE("the probe's status here agrees with what the system shows") {
  const cuda::Probe probe = cuda::probe(cuda::Runtime());
  MESSAGE("this machine: " << probe.sentence);
  const bool driver = std::filesystem::exists("/proc/driver/nvidia/version") || std::filesystem::exists("/dev/dxg");
  CHECK((probe.status == Status::ready) == (probe.devices > 0));
  if (probe.status != Status::no_toolkit && !driver) CHECK(probe.status == Status::no_driver);
  if (probe.status == Status::ready || probe.status == Status::old_driver) CHECK(driver);
}
