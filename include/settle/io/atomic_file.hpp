#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "settle/core/error.hpp"

namespace settle {

/// A file that appears complete or not at all: the bytes go to a temporary file beside it, and commit() puts that in
/// its place. Without commit() the temporary file is removed and what stood there before stays as it was.
class AtomicFile {
 public:
  /// Opens the temporary file; throws Error when the folder is missing or not writable, or `path` is a folder.
  explicit AtomicFile(const std::filesystem::path& path) : path_(path), temporary_(path) {
    static std::atomic<unsigned> count{0};
    std::error_code error;
    require(!std::filesystem::is_directory(path, error), "write", path_.string(),
            ": expected a file's name, got a folder's");
    temporary_ += ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0) fail("write", path_.string(), ": cannot be created: ", std::strerror(errno));
  }

  ~AtomicFile() {
    if (file_ >= 0) ::close(file_);
    if (!committed_) ::unlink(temporary_.c_str());
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes; throws Error when the system refuses (a full disk).
  void write(const void* data, std::size_t bytes) {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(file_, next, bytes);
      if (written < 0 && errno == EINTR) continue;
      check(written > 0, "cannot be written");
      next += written;
      bytes -= static_cast<std::size_t>(written);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes the bytes safe on the disk, then visible under the file's name.
  void commit() {
    check(::fsync(file_) == 0, "cannot be flushed");
    check(::close(std::exchange(file_, -1)) == 0, "cannot be closed");
    check(std::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot be put in place");
    committed_ = true;
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    if (const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); directory >= 0) {
      ::fsync(directory);  // so that the new name survives a power cut; some file systems refuse, and lose only that
      ::close(directory);
    }
  }

 private:
  void check(bool good, const char* what) const {
    if (!good) fail("write", path_.string(), ": ", what, ": ", std::strerror(errno));
  }

  std::filesystem::path path_, temporary_;
  int file_ = -1;
  bool committed_ = false;
};

}  // namespace settle
