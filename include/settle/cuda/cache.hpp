#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "settle/core/hash.hpp"
#include "settle/cuda/compiler.hpp"
#include "settle/io/atomic_file.hpp"

namespace settle::inline v0_2::cuda {

/// Compiled programs on the disk. An entry is found by all that its code depends on, which stands in the entry in full,
/// so that it cannot be mistaken for another; one that is damaged is as good as absent. Entries appear complete or not
/// at all, and several programs may share a folder.
class CodeCache {
 public:
  /// An empty folder's name switches the cache off.
  explicit CodeCache(std::filesystem::path folder = usual_folder()) : folder_(std::move(folder)) {}

  /// $SETTLE_CACHE, which switches the cache off when it is set to nothing; else `settle` in $XDG_CACHE_HOME or
  /// ~/.cache.
  static std::filesystem::path usual_folder() {
    const auto variable = [](const char* name) -> std::string {
      const char* value = std::getenv(name);
      return value ? value : "";
    };
    if (std::getenv("SETTLE_CACHE")) return variable("SETTLE_CACHE");
    if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return cache + "/settle";
    if (const std::string home = variable("HOME"); !home.empty()) return home + "/.cache/settle";
    return {};
  }

  std::optional<std::string> find(const std::string& key) const {
    if (folder_.empty()) return std::nullopt;
    std::ifstream file(path_of(key), std::ios::binary);
    const std::string entry{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const std::size_t head = 2 * sizeof(std::uint64_t);
    if (entry.size() < head + key.size()) return std::nullopt;
    std::uint64_t checksum = 0, key_size = 0;
    std::memcpy(&checksum, entry.data(), sizeof(checksum));
    std::memcpy(&key_size, entry.data() + sizeof(checksum), sizeof(key_size));
    const std::string_view checked = std::string_view(entry).substr(sizeof(checksum));
    if (checksum != settle::detail::hash(checked) || key_size != key.size() ||
        entry.compare(head, key.size(), key) != 0)
      return std::nullopt;
    return entry.substr(head + key.size());
  }

  /// Keeps a program's code. A folder that cannot be written to is not an error: the next run compiles again.
  void store(const std::string& key, std::string_view code) const {
    if (folder_.empty()) return;
    std::string checked(sizeof(std::uint64_t), '\0');
    const std::uint64_t key_size = key.size();
    std::memcpy(checked.data(), &key_size, sizeof(key_size));
    checked.append(key).append(code);
    const std::uint64_t checksum = settle::detail::hash(checked);
    std::error_code ignored;
    std::filesystem::create_directories(folder_, ignored);
    try {
      AtomicFile file(path_of(key));
      file.write(&checksum, sizeof(checksum));
      file.write(checked);
      file.commit();
    } catch (const Error&) {
    }
  }

 private:
  std::filesystem::path path_of(const std::string& key) const {
    char name[17];
    std::snprintf(name, sizeof(name), "%016llx", static_cast<unsigned long long>(settle::detail::hash(key)));
    return folder_ / (std::string(name) + ".cubin");
  }

  std::filesystem::path folder_;
};

/// What a compiled program depends on: the compiler's version, the architecture and the texts.
inline std::string cache_key(const Nvrtc& nvrtc, const std::string& source, const std::string& architecture) {
  require(nvrtc.library.usable(), "compile", "no compiler for kernels: ", nvrtc.library.reason());
  int major = 0, minor = 0;
  nvrtc.nvrtcVersion(&major, &minor);
  return "nvrtc " + std::to_string(major) + '.' + std::to_string(minor) + ' ' + architecture + '\n' + source;
}

/// The code of texts for one architecture, from the cache if it is there. Throws as compile() does.
inline std::string compiled_code(const Nvrtc& nvrtc, const CodeCache& cache, const std::string& source,
                                 const std::string& architecture) {
  const std::string key = cache_key(nvrtc, source, architecture);
  if (auto code = cache.find(key)) return *std::move(code);
  std::string code = compile(nvrtc, source, architecture).code;
  cache.store(key, code);
  return code;
}

}  // namespace settle::cuda
