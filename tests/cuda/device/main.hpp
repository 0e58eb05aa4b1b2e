#pragma once
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "settle/cuda/probe.hpp"

/// Runs the tests of a program that needs a device. Without one it says why and ends with status 77, or fails when
/// SETTLE_REQUIRE_GPU is 1.
inline int run_on_device(const settle::cuda::Runtime& runtime, int count, char** arguments) {
  const settle::cuda::Probe probe = settle::cuda::probe(runtime);
  std::printf("%s\n", probe.sentence.c_str());
  if (probe.status == settle::cuda::Status::ready) return doctest::Context(count, arguments).run();
  const char* required = std::getenv("SETTLE_REQUIRE_GPU");
  const bool failure = required && std::string(required) == "1";
  std::printf(failure ? "failed: SETTLE_REQUIRE_GPU is 1\n" : "skipped\n");
  return failure ? 1 : 77;
}
