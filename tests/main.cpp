#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <doctest/doctest.h>

#include "settle/ops/convolution.hpp"

// As doctest's own main. SETTLE_TEST_CONVOLUTION = direct, gemm or fft makes every convolution whose algorithm the
// tests leave open use that one.
int main(int argc, char** argv) {
  const char* const given = std::getenv("SETTLE_TEST_CONVOLUTION");
  const std::string_view name = given ? given : "automatic";
  using enum settle::ConvAlgorithm;
  if (name != "automatic" && name != "direct" && name != "gemm" && name != "fft") {
    std::fprintf(stderr, "SETTLE_TEST_CONVOLUTION: expected automatic, direct, gemm or fft, got '%s'\n", given);
    return 2;
  }
  const settle::PreferredConvAlgorithm preferred(name == "direct" ? direct
                                                 : name == "gemm" ? gemm
                                                 : name == "fft"  ? fft
                                                                  : automatic);
  return doctest::Context(argc, argv).run();
}
