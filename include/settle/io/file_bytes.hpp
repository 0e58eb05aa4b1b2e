#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/data/image.hpp"

// What readers of files share: every complaint names the file.
namespace settle::inline v0_2::detail {

/// A file that is read from its beginning on. Errors are "[where] name: ...".
class InputFile {
 public:
  /// Throws Error for a folder, and for what cannot be opened.
  InputFile(const std::filesystem::path& path, const char* where) : name_(path.string()), where_(where) {
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) fail(where_, name_, ": cannot be opened: ", std::strerror(errno));
    if (::fstat(file_, &status_) == 0 && !S_ISDIR(status_.st_mode)) return;
    ::close(file_);
    fail(where_, name_, ": expected a file, found a folder");
  }
  ~InputFile() { ::close(file_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  bool is_regular() const { return S_ISREG(status_.st_mode); }

  /// The bytes of a regular file.
  std::uint64_t size() const { return static_cast<std::uint64_t>(status_.st_size); }

  /// Reads up to `bytes` and returns how many there were: fewer at the end only. Throws Error when reading fails.
  std::size_t read_some(void* to, std::size_t bytes) {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got = ::read(file_, static_cast<char*>(to) + done, bytes - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(where_, name_, ": cannot be read at byte ", position_ + done, ": ", std::strerror(errno));
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    position_ += done;
    return done;
  }

  /// Reads exactly so many. Throws Error when reading fails or the file ends before.
  void read(void* to, std::size_t bytes) {
    require(read_some(to, bytes) == bytes, where_, name_, ": ends at byte ", position_, " while it is read");
  }

 private:
  std::string name_;
  const char* where_;
  int file_ = -1;
  struct stat status_ {};
  std::uint64_t position_ = 0;
};

/// All bytes of a file, of at most 2^31. Throws Error "[where] ..." for a folder, for a larger file, and for what
/// cannot be opened or read.
inline std::vector<std::uint8_t> file_bytes(const std::filesystem::path& path, const char* where) {
  constexpr std::size_t most = std::size_t{1} << 31;
  InputFile file(path, where);
  std::vector<std::uint8_t> bytes(file.is_regular() ? std::min<std::uint64_t>(file.size(), most) + 1 : 4096);
  std::size_t filled = 0;
  while ((filled += file.read_some(bytes.data() + filled, bytes.size() - filled)) == bytes.size()) {
    require(filled <= most, where, path.string(), ": expected at most 2^31 bytes, found more");
    bytes.resize(2 * filled);
  }
  bytes.resize(filled);
  return bytes;
}

/// A picture of the size that a file of so many bytes declares. Throws Error "[where] ..." where that is more than 2^28
/// values, or more than the file can hold: deflate, of PNG, makes at most 1032 bytes of one, each of at most 8 pixels,
/// and JPEG is no denser.
inline Image8 image_of_file(const char* where, const std::string& name, std::size_t bytes, Index height, Index width,
                            Index channels) {
  require(height * width <= (Index{1} << 28) / channels, where, name, ": expected at most 2^28 values, found ", height,
          " x ", width, " pixels of ", channels, " channels");
  constexpr Index densest = 8 * 1032;
  require(height * width / densest <= static_cast<Index>(bytes), where, name, ": damaged: ", height, " x ", width,
          " pixels cannot be in ", bytes, " bytes");
  return blank_image(height, width, channels);
}

}  // namespace settle::detail
