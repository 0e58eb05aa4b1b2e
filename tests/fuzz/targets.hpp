#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "files.hpp"
#include "settle/core/error.hpp"
#include "temporary_folder.hpp"

// What the fuzzers and the replay of their corpus do with the bytes of a file: read all that is in it. An Error is an
// answer; anything else that leaves a reader is not.
namespace fuzz {

/// The file that readers of files are given.
inline std::filesystem::path file_of(std::span<const std::uint8_t> bytes) {
  static const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "input";
  write_bytes(path, std::string(bytes.begin(), bytes.end()));
  return path;
}

/// Runs a reader; the library's errors end it quietly.
template <class Reader>
void read(const Reader& reader) {
  try {
    reader();
  } catch (const settle::Error&) {
  }
}

void safetensors(std::span<const std::uint8_t> bytes);
void npy(std::span<const std::uint8_t> bytes);
void npz(std::span<const std::uint8_t> bytes);
void png(std::span<const std::uint8_t> bytes);
void jpeg(std::span<const std::uint8_t> bytes);
void list(std::span<const std::uint8_t> bytes);
void config(std::span<const std::uint8_t> bytes);

}  // namespace fuzz

/// In a file that is compiled for libFuzzer.
#ifdef SETTLE_FUZZ
#define SETTLE_FUZZ_TARGET(name)                                                        \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    fuzz::name({data, size});                                                           \
    return 0;                                                                           \
  }
#else
#define SETTLE_FUZZ_TARGET(name)
#endif
