#include <doctest/doctest.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "kernels/cases.hpp"
#include "settle/core/threads.hpp"
#include "settle/cuda/compiler.hpp"

using namespace settle;
using kernels::Kernel;

TEST_CASE("every kernel compiles for every architecture without a word, without spills and within its bounds") {
  const cuda::Nvrtc nvrtc;
  if (!nvrtc.library.usable()) {
    MESSAGE("not checked: " << nvrtc.library.reason());
    return;
  }
  const std::array<std::string, 7> architectures{"sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"};
  const std::vector<Kernel> all = kernel_cases::all_kernels();
  const std::string text = kernels::source(all);
  std::array<cuda::Binary, architectures.size()> binaries;
  ThreadPool::instance().run(static_cast<int>(architectures.size()), [&](int k) {
    const auto i = static_cast<std::size_t>(k);
    binaries[i] = cuda::compile(nvrtc, text, architectures[i]);
  });
  for (std::size_t i = 0; i < architectures.size(); ++i) {
    CAPTURE(architectures[i]);
    CHECK(binaries[i].said == "");
    CHECK(
        binaries[i].code.starts_with("\x7f"
                                     "ELF"));
    std::map<std::string, cuda::Resources> resources;
    for (const auto& r : binaries[i].resources) resources[r.kernel] = r;
    CHECK(resources.size() == all.size());
    for (const Kernel& kernel : all) {
      CAPTURE(kernel.name);
      REQUIRE(resources.count(kernel.name) == 1);
      const cuda::Resources& r = resources[kernel.name];
      CHECK(r.registers > 0);
      CHECK(r.registers <= kernel.bounds.registers);
      CHECK(r.shared <= kernel.bounds.shared);
      CHECK(r.spilled == 0);
    }
  }
}
