#pragma once
#include <sys/utsname.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "settle/core/processors.hpp"
#include "settle/core/threads.hpp"
#include "settle/io/json.hpp"
#include "settle/version.hpp"

namespace settle::inline v0_2 {

/// What this program runs on, for a run's record.
inline Json machine(const std::string& device) {
  Json out{{"device", device}};
  for (const std::string& line : detail::lines_of("/proc/cpuinfo"))
    if (line.starts_with("model name")) {
      out["processor"] = line.substr(line.find(':') + 2);
      break;
    }
  out["processors"] = std::thread::hardware_concurrency();
  out["threads"] = ThreadPool::instance().size();
  struct utsname system = {};
  if (::uname(&system) == 0) out["system"] = std::string(system.sysname) + ' ' + system.release + ' ' + system.machine;
#if defined(__clang__)
  out["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  out["compiler"] = "gcc " __VERSION__;
#endif
  out["settle"] = version;
  return out;
}

/// The words of this program's command line.
inline std::vector<std::string> command_line() {
  std::vector<std::string> out;
  for (const std::string& line : detail::lines_of("/proc/self/cmdline")) {
    std::string word;
    for (const char c : line)
      if (c == '\0')
        out.push_back(std::exchange(word, {}));
      else
        word += c;
    if (!word.empty()) out.push_back(word);
  }
  return out;
}

}  // namespace settle
