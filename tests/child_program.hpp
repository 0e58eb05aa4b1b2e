#pragma once
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "files.hpp"
#include "settle/core/sanitizer.hpp"

/// Whether this build is too slow for programs that train for long; says so.
inline bool too_slow_for_training() {
#ifdef SETTLE_ADDRESS_SANITIZER
  MESSAGE("SKIP: under the address sanitizer this takes too long");
  return true;
#else
  return false;
#endif
}

/// A program in a process of its own, whose output goes to a file.
class ChildProgram {
 public:
  ChildProgram(const std::filesystem::path& program, const std::vector<std::string>& arguments,
               const std::filesystem::path& output)
      : output_(output) {
    std::vector<std::string> words{program.string()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    process_ = ::fork();
    if (process_ != 0) return;
    const int file = ::open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(file, STDOUT_FILENO), ::dup2(file, STDERR_FILENO);
    ::execv(pointers.front(), pointers.data());
    ::_exit(127);
  }
  ~ChildProgram() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    wait();
  }
  ChildProgram(const ChildProgram&) = delete;
  ChildProgram& operator=(const ChildProgram&) = delete;

  void signal(int number) const { ::kill(process_, number); }

  /// The exit status; 128 + the signal that ended it.
  int wait() {
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

  /// What it has said.
  std::string output() const { return bytes_of(output_); }

 private:
  std::filesystem::path output_;
  pid_t process_ = 0;
};
