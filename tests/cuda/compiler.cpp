#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "settle/cuda/cache.hpp"
#include "temporary_folder.hpp"

using namespace settle;

// The toolkit's libraries keep some memory for good.
extern "C" const char* __lsan_default_suppressions() { return "leak:libcublas\nleak:libcudnn\n"; }

namespace {

const char* const adding = "extern \"C\" __global__ void add(float* x) { x[threadIdx.x] += 1; }\n";

/// The compiler of this machine, or null, said once in words, where only the headers are installed.
const cuda::Nvrtc* compiler() {
  static const cuda::Nvrtc nvrtc;
  if (nvrtc.library.usable()) return &nvrtc;
  MESSAGE("not checked: " << nvrtc.library.reason());
  return nullptr;
}

std::filesystem::path only_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) found.push_back(entry.path());
  REQUIRE(found.size() == 1);
  return found.front();
}

}  // namespace

TEST_CASE("spills and shared memory are read from the assembler's report") {
  const cuda::Nvrtc* nvrtc = compiler();
  if (!nvrtc) return;
  const std::string greedy = R"cuda(
extern "C" __global__ void __launch_bounds__(1024) greedy(float* x, int n) {
  __shared__ float kept[100];
  float v[96];
  for (int k = 0; k < 96; ++k) v[k] = x[k * n];
  kept[threadIdx.x % 100] = v[0];
  __syncthreads();
  for (int k = 0; k < 96; ++k) x[k * n] = v[k] * v[95 - k] + kept[k];
}
)cuda";
  const auto resources = cuda::compile(*nvrtc, greedy, "sm_80").resources;
  REQUIRE(resources.size() == 1);
  CHECK(resources.front().kernel == "greedy");
  CHECK(resources.front().shared == 400);
  CHECK(resources.front().registers <= 64);
  CHECK(resources.front().spilled > 0);
}

TEST_CASE("what the compiler refuses is an error with its words, what it warns of is told") {
  const cuda::Nvrtc* nvrtc = compiler();
  if (!nvrtc) return;
  CHECK(contains(error_of([&] { cuda::compile(*nvrtc, "__global__ void f() { undeclared(); }", "sm_80"); }),
                 "undeclared"));
  const auto warned =
      cuda::compile(*nvrtc, "extern \"C\" __global__ void f(float* x) { int unused = 3; *x = 1; }", "sm_80");
  CHECK(contains(warned.said, "unused"));
  CHECK(warned.resources.size() == 1);
  CHECK(cuda::compile(*nvrtc, adding, "sm_80").said.empty());
  CHECK(contains(error_of([&] { cuda::compile(*nvrtc, adding, "sm_1"); }), "gpu-architecture"));
  const TemporaryFolder empty;
  CHECK(contains(error_of([&] { cuda::compile(cuda::Nvrtc(empty.path()), adding, "sm_80"); }),
                 "no compiler for kernels"));
}

TEST_CASE(
    "compiled code is kept on the disk and found by text, architecture and compiler; a damaged entry is made anew") {
  const cuda::Nvrtc* nvrtc = compiler();
  if (!nvrtc) return;
  const TemporaryFolder folder;
  const cuda::CodeCache cache(folder.path() / "new" / "folder");
  const std::string code = cuda::compiled_code(*nvrtc, cache, adding, "sm_80");
  const auto file = only_file(folder.path() / "new" / "folder");
  const std::string entry = bytes_of(file), key = cuda::cache_key(*nvrtc, adding, "sm_80");
  CHECK(cache.find(key) == code);
  CHECK(!cache.find(cuda::cache_key(*nvrtc, adding, "sm_90")));
  CHECK(!cache.find(cuda::cache_key(*nvrtc, std::string(adding) + " ", "sm_80")));

  // What is in the cache is what is used.
  cache.store(key, "kept");
  CHECK(cuda::compiled_code(*nvrtc, cache, adding, "sm_80") == "kept");

  std::string flipped = entry, longer = entry + 'x';
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
  for (const std::string& damaged :
       {flipped, longer, entry.substr(0, entry.size() / 2), std::string("short"), std::string()}) {
    write_bytes(file, damaged);
    CHECK(!cache.find(key));
    CHECK(cuda::compiled_code(*nvrtc, cache, adding, "sm_80") == code);
    CHECK(bytes_of(file) == entry);
  }
}

TEST_CASE("an entry of another key under the same name is not taken for it") {
  const TemporaryFolder folder;
  const cuda::CodeCache cache(folder.path());
  cache.store("one", "1");
  const auto file_of_one = only_file(folder.path());
  const std::string entry = bytes_of(file_of_one);
  std::filesystem::remove(file_of_one);
  cache.store("two", "2");
  write_bytes(only_file(folder.path()), entry);
  CHECK(!cache.find("two"));
}

TEST_CASE("a cache that is off or cannot be written keeps nothing and complains about nothing") {
  const cuda::CodeCache off{std::filesystem::path()};
  off.store("key", "code");
  CHECK(!off.find("key"));
  const TemporaryFolder folder;
  write_bytes(folder.path() / "file", "a file where a folder should be");
  const cuda::CodeCache blocked(folder.path() / "file");
  blocked.store("key", "code");
  CHECK(!blocked.find("key"));
}

TEST_CASE("the usual folder follows the environment") {
  const auto with = [](const char* settle, const char* cache) {
    settle ? ::setenv("SETTLE_CACHE", settle, 1) : ::unsetenv("SETTLE_CACHE");
    cache ? ::setenv("XDG_CACHE_HOME", cache, 1) : ::unsetenv("XDG_CACHE_HOME");
    return cuda::CodeCache::usual_folder();
  };
  CHECK(with("/here", "/there") == "/here");
  CHECK(with("", "/there").empty());
  CHECK(with(nullptr, "/there") == "/there/settle");
  const char* home = std::getenv("HOME");
  if (home) CHECK(with(nullptr, nullptr) == std::string(home) + "/.cache/settle");
}
