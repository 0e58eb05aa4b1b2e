#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "settle/io/json.hpp"

namespace settle::inline v0_2 {

/// The folder of a training run, which one process at a time may write to:
///
///     config.json      the resolved configuration
///     metrics.jsonl    a line for each step and each validation
///     summary.json     the final scores
///     report.html      the run on one page
///     report/          what else that page shows: training.json (machine, memory), held_out.json and its pictures
///     checkpoints/     last.safetensors, best.safetensors and the like
///     lock             held while a training runs; it goes with the process, however that ends
class RunFolder {
 public:
  /// Makes the folder where there is none, and takes its lock. Throws Error where another process has it, or the folder
  /// cannot be written.
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code error;
    std::filesystem::create_directories(checkpoints(), error);
    if (!error) std::filesystem::create_directories(records(), error);
    require(!error, "run", path_.string(), ": cannot be created: ", error.message());
    const std::filesystem::path lock = path_ / "lock";
    lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock_ < 0) fail("run", lock.string(), ": cannot be opened: ", std::strerror(errno));
    if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      const int problem = errno;
      ::close(lock_);
      require(problem != EWOULDBLOCK, "run", path_.string(), ": another process trains in this folder");
      fail("run", lock.string(), ": cannot be locked: ", std::strerror(problem));
    }
    remove_partial_files();
  }
  ~RunFolder() { ::close(lock_); }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path checkpoint(const std::string& name) const { return checkpoints() / (name + ".safetensors"); }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path config() const { return path_ / "config.json"; }
  std::filesystem::path summary() const { return path_ / "summary.json"; }
  std::filesystem::path report() const { return path_ / "report.html"; }
  std::filesystem::path records() const { return path_ / "report"; }
  std::filesystem::path training_record() const { return records() / "training.json"; }

 private:
  /// What a process that was killed while it wrote has left.
  void remove_partial_files() const {
    for (const std::filesystem::path& folder : {path_, checkpoints(), records()})
      for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::error_code ignored;
        if (entry.path().filename().string().find("settle-partial-") != std::string::npos)
          std::filesystem::remove(entry.path(), ignored);
      }
  }

  std::filesystem::path path_;
  int lock_ = -1;
};

}  // namespace settle
