#pragma once
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "settle/core/error.hpp"
#include "settle/io/atomic_file.hpp"

namespace settle::inline v0_2 {

/// JSON whose objects keep the order in which their keys were added.
using Json = nlohmann::ordered_json;

/// The JSON in a file. Throws Error naming the file, and the place, where it is missing or no JSON.
inline Json read_json(const std::filesystem::path& path) {
  std::error_code error;
  require(!std::filesystem::is_directory(path, error), "json", path.string(), ": expected a file, found a folder");
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), "json", path.string(), ": cannot be opened: ", std::strerror(errno));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  require(!file.bad(), "json", path.string(), ": cannot be read");
  try {
    return Json::parse(text);
  } catch (const Json::exception& problem) {
    fail("json", path.string(), ": ", problem.what());
  }
}

/// Writes a file that people read too; it appears complete or not at all. Throws Error when it cannot be written.
inline void write_json(const std::filesystem::path& path, const Json& value) {
  AtomicFile file(path);
  file.write(value.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
  file.commit();
}

/// A file of JSON, one value on each line, to which lines are added.
class JsonLines {
 public:
  /// Keeps the first `bytes` of the file and drops what follows; without a file, makes one. Throws Error when it has
  /// fewer, or cannot be written.
  JsonLines(const std::filesystem::path& path, std::uintmax_t bytes) : path_(path) {
    std::error_code missing;
    const std::uintmax_t found = std::filesystem::file_size(path, missing);
    require((missing ? 0 : found) >= bytes, "metrics", path.string(), ": expected at least the ", bytes,
            " bytes of the checkpoint's time, found ", missing ? 0 : found);
    if (!missing) std::filesystem::resize_file(path, bytes);
    file_.reset(std::fopen(path.c_str(), "abe"));
    if (!file_) fail("metrics", path.string(), ": cannot be written: ", std::strerror(errno));
  }

  void add(const Json& line) {
    const std::string bytes = line.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
    check(std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size());
  }

  /// Shows the lines to whoever reads the file.
  void flush() { check(std::fflush(file_.get()) == 0); }

  /// Makes the lines safe on the disk. Returns the file's size in bytes.
  std::uintmax_t save() {
    flush();
    check(::fsync(::fileno(file_.get())) == 0);
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path_, error);
    require(!error, "metrics", path_.string(), ": has been removed");
    return size;
  }

 private:
  void check(bool good) const {
    if (!good) fail("metrics", path_.string(), ": cannot be written: ", std::strerror(errno));
  }

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace settle
