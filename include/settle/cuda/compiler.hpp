#pragma once
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/cuda/library.hpp"

namespace settle::inline v0_2::cuda {

/// What the assembler says that a kernel takes.
struct Resources {
  std::string kernel;
  int registers = 0;  ///< of a thread
  int shared = 0;     ///< bytes of a block
  int stack = 0;      ///< bytes of a thread
  int spilled = 0;    ///< bytes of a thread that are stored and loaded because registers ran out
};

/// A program of kernels, compiled for one architecture.
struct Binary {
  std::string code;  ///< what cudaLibraryLoadData takes
  std::vector<Resources> resources;
  std::string said;  ///< the compiler's warnings, empty if there are none
};

namespace detail {

/// The number before `unit` in a line, or 0.
inline int number_before(std::string_view line, std::string_view unit) {
  const auto at = line.find(unit);
  if (at == std::string_view::npos || at == 0) return 0;
  auto first = at;
  while (first > 0 && line[first - 1] >= '0' && line[first - 1] <= '9') --first;
  int value = 0;
  for (auto k = first; k < at; ++k) value = 10 * value + (line[k] - '0');
  return value;
}

/// Takes the assembler's report out of a compilation's log; what is left are complaints.
inline std::string read_report(const std::string& log, std::vector<Resources>& resources) {
  std::istringstream lines(log);
  std::string complaints, line;
  while (std::getline(lines, line)) {
    const std::string_view entry = "Compiling entry function '";
    if (const auto at = line.find(entry); at != std::string::npos) {
      const auto from = at + entry.size();
      resources.push_back({.kernel = line.substr(from, line.find('\'', from) - from)});
    } else if (line.find("bytes stack frame") != std::string::npos && !resources.empty()) {
      resources.back().stack = number_before(line, " bytes stack frame");
      resources.back().spilled = number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
    } else if (line.find("Used ") != std::string::npos && !resources.empty()) {
      resources.back().registers = number_before(line, " registers");
      resources.back().shared = number_before(line, " bytes smem");
    } else if (line.find("bytes gmem") == std::string::npos && line.find("Function properties") == std::string::npos &&
               line.find("Compile time") == std::string::npos && line.find_first_not_of(" \t") != std::string::npos &&
               line[0] != '\0') {
      complaints += line + '\n';
    }
  }
  return complaints;
}

}  // namespace detail

/// Compiles texts for one architecture, "sm_90" for example, without a driver or a device. Throws Error with the
/// compiler's words when it refuses them. Warnings are no errors here: a later compiler may have new ones.
inline Binary compile(const Nvrtc& nvrtc, const std::string& source, const std::string& architecture) {
  require(nvrtc.library.usable(), "compile", "no compiler for kernels: ", nvrtc.library.reason());
  const auto check = [&](nvrtcResult result) {
    if (result != NVRTC_SUCCESS) fail("compile", "the compiler of kernels failed: ", nvrtc.nvrtcGetErrorString(result));
  };
  struct Holder {
    const Nvrtc& nvrtc;
    nvrtcProgram program = nullptr;
    ~Holder() {
      if (program) nvrtc.nvrtcDestroyProgram(&program);
    }
  } holder{nvrtc};
  nvrtcProgram& program = holder.program;
  check(nvrtc.nvrtcCreateProgram(&program, source.c_str(), "settle.cu", 0, nullptr, nullptr));
  const std::string target = "--gpu-architecture=" + architecture;
  const char* options[] = {target.c_str(), "--std=c++17", "--ptxas-options=-v"};
  const nvrtcResult result = nvrtc.nvrtcCompileProgram(program, 3, options);

  std::size_t size = 0;
  check(nvrtc.nvrtcGetProgramLogSize(program, &size));
  std::string log(size, '\0');
  check(nvrtc.nvrtcGetProgramLog(program, log.data()));
  while (!log.empty() && log.back() == '\0') log.pop_back();
  Binary out;
  out.said = detail::read_report(log, out.resources);
  require(result == NVRTC_SUCCESS, "compile", "for ", architecture, ": ",
          out.said.empty() ? nvrtc.nvrtcGetErrorString(result) : out.said);
  check(nvrtc.nvrtcGetCUBINSize(program, &size));
  out.code.resize(size);
  check(nvrtc.nvrtcGetCUBIN(program, out.code.data()));
  return out;
}

}  // namespace settle::cuda
