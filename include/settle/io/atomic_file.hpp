#pragma once
#include "settle/core/macros_off.hpp"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
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

namespace settle::inline v0_2 {

/// A file that appears complete or not at all: the bytes go to a temporary file beside it, and commit() puts that in
/// its place. Without commit() the temporary file is removed and what stood there before stays as it was.
///
/// A file that is replaced keeps its mode, owner and group. Through symbolic links the file that they lead to is
/// written, and the links stay. To a character device (/dev/null) bytes go as they are written. What a new file cannot
/// take the place of without loss is refused: a folder, a file with other names (hard links), which would keep the old
/// bytes, a file that is protected against writing or whose owner cannot be kept, a pipe, a socket, a disk.
class AtomicFile {
 public:
  /// Opens the temporary file; throws Error when the folder is missing or not writable, or `path` is one of those that
  /// are refused.
  explicit AtomicFile(const std::filesystem::path& path) : name_(path.string()), path_(path) {
    struct stat there {};
    if (::stat(path.c_str(), &there) == 0) {
      if (S_ISCHR(there.st_mode)) {
        file_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
        check(file_ >= 0, "cannot be opened for writing");
        straight_ = true;
        return;
      }
      require(!S_ISDIR(there.st_mode), "write", name_, ": expected a file's name, got a folder's");
      require(S_ISREG(there.st_mode), "write", name_, ": expected a file, found a pipe, a socket or a disk");
      require(there.st_nlink == 1, "write", name_, ": the file has ", there.st_nlink,
              " names (hard links), and the others would keep the old bytes: remove this one first, or choose another");
      check(::access(path.c_str(), W_OK) == 0, "is protected against writing");
      follow_links();
      open_temporary();
      keep_owner_and_mode(there);
    } else {
      check(errno == ENOENT && path.has_filename(), "cannot be created");
      follow_links();
      open_temporary();
    }
  }

  ~AtomicFile() { discard(); }
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
    if (straight_) return check(::close(std::exchange(file_, -1)) == 0, "cannot be closed");
    check(::fsync(file_) == 0, "cannot be flushed");
    check(::close(std::exchange(file_, -1)) == 0, "cannot be closed");
    check(std::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot be put in place");
    temporary_.clear();
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    if (const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); directory >= 0) {
      ::fsync(directory);  // so that the new name survives a power cut; some file systems refuse, and lose only that
      ::close(directory);
    }
  }

 private:
  void check(bool good, const char* what) {
    if (good) return;
    const int reason = errno;
    discard();
    fail("write", name_, ": ", what, ": ", std::strerror(reason));
  }

  void discard() {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  /// Makes path_ the name at the end of its chain of links, whether there is a file or none yet.
  void follow_links() {
    std::error_code error;
    for (auto target = std::filesystem::read_symlink(path_, error); !error;
         target = std::filesystem::read_symlink(path_, error))
      path_ = path_.parent_path() / target;
  }

  void keep_owner_and_mode(const struct stat& old) {
    struct stat now {};
    const auto kept = [&] {
      return ::fstat(file_, &now) == 0 && now.st_uid == old.st_uid && now.st_gid == old.st_gid &&
             now.st_mode == old.st_mode;
    };
    if (kept()) return;
    check(::fchown(file_, old.st_uid, old.st_gid) == 0 && ::fchmod(file_, old.st_mode & 07777) == 0 && kept(),
          "its owner, group and mode cannot be kept");
  }

  /// Its name is short, whatever the length of the file's, and one that no other writer has, nor an earlier one left.
  void open_temporary() {
    static std::atomic<unsigned> count{0};
    do {
      const auto number = std::to_string(::getpid()) + "-" + std::to_string(count++);
      temporary_ = path_.parent_path() / (".settle-partial-" + number);
      file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (file_ < 0 && errno == EEXIST);
    if (file_ < 0) {
      temporary_.clear();
      check(false, "cannot be created");
    }
  }

  std::string name_;  // as it was given, for complaints
  std::filesystem::path path_, temporary_;
  int file_ = -1;
  bool straight_ = false;  // to a device
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
