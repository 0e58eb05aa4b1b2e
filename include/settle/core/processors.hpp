#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace settle::inline v0_2 {
namespace detail {

/// The lines of a text file; none where there is no such file.
inline std::vector<std::string> lines_of(const std::string& name) {
  std::vector<std::string> lines;
  std::FILE* const file = std::fopen(name.c_str(), "r");
  if (!file) return lines;
  std::string line;
  for (int c; (c = std::fgetc(file)) != EOF;) {
    if (c == '\n')
      lines.push_back(std::exchange(line, {}));
    else
      line += static_cast<char>(c);
  }
  if (!line.empty()) lines.push_back(line);
  std::fclose(file);
  return lines;
}

/// The processors' time that a container may take, in processors: the least quota of the process' control groups
/// (cgroups) and those around them; infinite without one. `groups` is the file that names the process' groups, `root`
/// where they are mounted. Of version 2 a group has cpu.max, "quota period" or "max period"; of version 1
/// cpu.cfs_quota_us, -1 without one, and cpu.cfs_period_us.
inline double processor_quota(const std::string& groups = "/proc/self/cgroup",
                              const std::string& root = "/sys/fs/cgroup") {
  double least = std::numeric_limits<double>::infinity();
  const auto look = [&](const std::string& folder) {
    const auto take = [&](double quota, double period) {
      if (quota > 0 && period > 0) least = std::min(least, quota / period);
    };
    double quota = 0, period = 0;
    for (const std::string& line : lines_of(folder + "/cpu.max"))
      if (std::sscanf(line.c_str(), "%lf %lf", &quota, &period) == 2) take(quota, period);
    const auto quotas = lines_of(folder + "/cpu.cfs_quota_us"), periods = lines_of(folder + "/cpu.cfs_period_us");
    if (!quotas.empty() && !periods.empty() && std::sscanf(quotas[0].c_str(), "%lf", &quota) == 1 &&
        std::sscanf(periods[0].c_str(), "%lf", &period) == 1)
      take(quota, period);
  };
  for (const std::string& line : lines_of(groups)) {  // "hierarchy:controllers:/path"
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (;; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      look(root + (unified ? "" : "/cpu") + path);
      if (path.empty() || path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

}  // namespace detail

/// The processors that this process may use: of those of the machine those in its affinity mask, and no more than the
/// quota of its control group, rounded up. At least 1.
inline int usable_processors() {
  double count = std::max(1u, std::thread::hardware_concurrency());
#ifdef __linux__
  for (std::size_t most = 1024; most <= 1 << 20; most *= 2) {  // a mask that is too small is refused
    cpu_set_t* const mask = CPU_ALLOC(most);
    if (!mask) break;
    const bool known = ::sched_getaffinity(0, CPU_ALLOC_SIZE(most), mask) == 0;
    if (known) count = CPU_COUNT_S(CPU_ALLOC_SIZE(most), mask);
    CPU_FREE(mask);
    if (known) break;
  }
  count = std::min(count, std::ceil(detail::processor_quota()));
#endif
  return std::max(1, static_cast<int>(count));
}

}  // namespace settle
