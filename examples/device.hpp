#pragma once
#include <string>

#include "settle/core/error.hpp"

// The device that an example computes on. One source, a program for each device: most who run it need one, and each
// takes its time to compile.
#ifdef EXAMPLE_CUDA
#include "settle/cuda/cuda.hpp"
using Device = settle::Cuda;
constexpr const char* device_name = "cuda";
#else
#include "settle/core/cpu.hpp"
using Device = settle::Cpu;
constexpr const char* device_name = "cpu";
#endif

/// Throws Error for another device than this program's.
inline void expect_device(const std::string& program, const std::string& name) {
  settle::require(name == "cpu" || name == "cuda", program.c_str(), "expected the device cpu or cuda, got ", name);
  settle::require(name == device_name, program.c_str(), "this program computes on the device ", device_name,
                  ". For the CPU there is ", program, ", for a GPU ", program,
                  "_cuda: it is built by its name (ninja -C build examples/", program,
                  "_cuda) where Meson found the headers of CUDA 12.8 or newer and of cuDNN 9");
}
