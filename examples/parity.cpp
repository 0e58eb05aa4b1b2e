// Compares one or more recorded training steps of the released code with the library's:
//
//     parity [--float32] [--device cpu|cuda] FILE.safetensors...
//
// One line for each quantity: its name and max |difference| / max |expected|; then PASS or FAIL with the bound.
// Exit status: 0 when all pass, 1 when a quantity is beyond the bound, 2 when a file cannot be compared.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "device.hpp"
#include "parity_case.hpp"

int main(int argc, char** argv) {
  auto precision = parity::Precision::float64;
  std::vector<std::string> files;
  for (int k = 1; k < argc; ++k) {
    const std::string argument = argv[k];
    if (argument == "--device" && k + 1 < argc) {
      try {
        expect_device("parity", argv[++k]);
      } catch (const settle::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
      }
    } else if (argument == "--float32") {
      precision = parity::Precision::float32;
    } else if (argument.starts_with("-")) {
      std::fprintf(stderr, "parity: unknown option %s\n", argument.c_str());
      return 2;
    } else {
      files.push_back(argument);
    }
  }
  if (files.empty()) {
    std::fprintf(stderr, "usage: parity [--float32] [--device cpu|cuda] FILE.safetensors...\n");
    return 2;
  }

  int status = 0;
  for (const std::string& file : files) {
    std::printf("%s\n", file.c_str());
    try {
      const parity::Comparison result = parity::compare(file, precision);
      for (const auto& q : result.quantities)
        std::printf("  %-32s %.3e%s\n", q.name.c_str(), q.error, q.judged ? "" : "  (not judged)");
      std::printf("  %s: %.3e, bound %.0e\n", result.pass() ? "PASS" : "FAIL", result.worst(), result.bound);
      if (!result.pass() && status == 0) status = 1;
    } catch (const std::exception& error) {
      std::fflush(stdout);
      std::fprintf(stderr, "%s\n", error.what());
      std::printf("  FAIL\n");
      status = 2;
    }
  }
  return status;
}
