#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/cuda/convolution_plan.hpp"

using namespace settle;
using cuda::ConvProduct;

namespace {

/// A device as cuDNN describes one to itself: compute capability times 100, processors, bytes of shared memory for a
/// block.
std::string description(int capability, int processors, int shared) {
  return R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,)"
         R"("multiProcessorCount":)" +
         std::to_string(processors) +
         R"(,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":)" + std::to_string(shared) +
         R"(,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,)"
         R"("maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":85899345920,)"
         R"("smClockRateKHz":1980000,"memClockRateKHz":2619000,"l2CacheSize":52428800,"cudaDeviceId":0,"deviceVer":)" +
         std::to_string(capability) + R"(,"driverVer":13000,"deviceName":"a device of the tests"})";
}

/// cuDNN with a described device, or the reason why there is none: the description's keys are cuDNN's own affair.
struct Described {
  cuda::Cudnn cudnn;
  std::string reason;
  std::vector<cuda::Descriptor> device;

  Described(int capability, int processors, int shared) {
    reason = cudnn.library.reason();
    if (reason.empty()) {
      reason = error_of(
          [&] { device.push_back(cuda::device_of_description(cudnn, description(capability, processors, shared))); });
      if (reason == "no error") reason.clear();
    }
    if (!reason.empty()) MESSAGE("not checked: " << reason);
  }
};

cpu::ConvGeometry same(Index in, Index out, Index kernel) {
  return cpu::ConvGeometry::same(128, in, 150, 150, out, kernel);
}

constexpr ConvProduct products[] = {ConvProduct::convolution, ConvProduct::input_gradient,
                                    ConvProduct::weight_gradient};

}  // namespace

TEST_CASE("cuDNN has a deterministic float32 plan within the workspace for every convolution of the models") {
  // The stems; the gates; the cells' and the feed-forward net's kernels; the readouts.
  const std::vector<cpu::ConvGeometry> convolutions{same(1, 25, 7),  same(25, 25, 1),  same(25, 25, 3), same(25, 25, 5),
                                                    same(25, 25, 9), same(25, 25, 15), same(25, 2, 1)};
  for (const auto& [capability, processors, shared] : {std::array{800, 108, 166912}, std::array{900, 132, 232448}}) {
    const Described described(capability, processors, shared);
    if (!described.reason.empty()) return;
    for (const cpu::ConvGeometry& g : convolutions)
      for (const ConvProduct product : products) {
        CAPTURE(g.kernel_height);
        const auto plan = cuda::plan_convolution<float>(described.cudnn, described.device.front(), g, product);
        CHECK(plan.workspace >= 0);
        CHECK(plan.workspace <= cuda::PlanOptions().workspace_limit);
      }
  }
}

TEST_CASE("strided, dilated and grouped convolutions, TF32 and float64 have plans, too") {
  const Described described(900, 132, 232448);
  if (!described.reason.empty()) return;
  cpu::ConvGeometry strided = same(24, 24, 3), dilated = same(24, 24, 3), grouped = same(24, 24, 3);
  strided.stride_h = strided.stride_w = 2, dilated.dilation_h = dilated.dilation_w = 2,
  dilated.pad_h = dilated.pad_w = 2;
  grouped.groups = 24;
  for (const auto& g : {strided, dilated, grouped})
    for (const ConvProduct product : products)
      CHECK_NOTHROW(cuda::plan_convolution<float>(described.cudnn, described.device.front(), g, product));
  for (const ConvProduct product : products) {
    CHECK_NOTHROW(cuda::plan_convolution<float>(described.cudnn, described.device.front(), same(24, 24, 5), product,
                                                {.workspace_limit = Index{1} << 30, .tf32 = true}));
    cpu::ConvGeometry small = same(3, 4, 5);
    small.batch = 2, small.in_height = small.in_width = 12;
    CHECK_NOTHROW(cuda::plan_convolution<double>(described.cudnn, described.device.front(), small, product));
  }
}

TEST_CASE("a plan that does not exist, or a shape that cuDNN refuses, is an error in words") {
  const Described described(900, 132, 232448);
  if (!described.reason.empty()) return;
  const auto plan = [&](const cpu::ConvGeometry& g, const cuda::PlanOptions& options) {
    return error_of([&] {
      cuda::plan_convolution<float>(described.cudnn, described.device.front(), g, ConvProduct::convolution, options);
    });
  };
  CHECK(contains(plan(same(25, 25, 5), {.workspace_limit = -1}),
                 "cuDNN has no plan for a 5 x 5 convolution of 25 to 25"));
  cpu::ConvGeometry wrong = same(25, 25, 5);
  wrong.groups = 2;
  CHECK(contains(plan(wrong, {}), "[cudnn] could not"));
  CHECK(contains(error_of([&] { cuda::device_of_description(described.cudnn, "{}"); }), "[cudnn] could not"));
}

TEST_CASE("plans are made once, and a refusal is remembered as one") {
  const Described described(900, 132, 232448);
  if (!described.reason.empty()) return;
  cuda::ConvPlans plans(described.cudnn, described.device.front());
  const auto* plan = plans.find<float>(same(25, 25, 5), ConvProduct::convolution);
  REQUIRE(plan);
  CHECK(plans.find<float>(same(25, 25, 5), ConvProduct::convolution) == plan);
  CHECK(plans.find<float>(same(25, 25, 5), ConvProduct::input_gradient) != plan);
  CHECK(plans.find<float>(same(25, 25, 3), ConvProduct::convolution) != plan);
  cuda::ConvPlans none(described.cudnn, described.device.front(), {.workspace_limit = -1});
  for (int k = 0; k < 2; ++k) CHECK(!none.find<float>(same(25, 25, 5), ConvProduct::convolution));
}

TEST_CASE("what an execution is told is accepted, and what cannot be executed without a device says so") {
  const Described described(900, 132, 232448);
  if (!described.reason.empty()) return;
  float x = 0, w = 0, y = 0;
  CHECK_NOTHROW(cuda::variant_pack(described.cudnn, &x, &w, &y, nullptr));
  const std::string said = error_of([&] { cuda::CudnnHandle(described.cudnn, nullptr); });
  MESSAGE("this machine: " << said);
  CHECK((said == "no error" || contains(said, "[cudnn] could not make a handle: ")));
}
