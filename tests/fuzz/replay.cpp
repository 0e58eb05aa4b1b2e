// The fuzzers' corpus: what they began with, and what they found.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "targets.hpp"

TEST_CASE("every file of the fuzzers' corpus is read or refused") {
  using Target = void (*)(std::span<const std::uint8_t>);
  const std::vector<std::pair<std::string, Target>> targets{
      {"safetensors", fuzz::safetensors}, {"npy", fuzz::npy},   {"png", fuzz::png},
      {"jpeg", fuzz::jpeg},               {"list", fuzz::list}, {"config", fuzz::config},
#ifdef SETTLE_WITH_ZIP
      {"npz", fuzz::npz},
#endif
  };
  for (const auto& [folder, target] : targets) {
    const auto path = std::filesystem::path(SETTLE_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / folder;
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const std::string bytes = bytes_of(entry.path());
      INFO(entry.path().string());
      const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
      CHECK_NOTHROW(target({data, bytes.size()}));
      ++files;
    }
    CHECK_MESSAGE(files >= 2, path.string());
  }
}
