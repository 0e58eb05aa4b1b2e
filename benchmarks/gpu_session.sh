#!/usr/bin/env bash
# What to run first on a machine with a GPU: every kernel against its reference, then under compute-sanitizer where that is
# installed, then the times of convolutions. Needs g++, the CUDA toolkit, cuDNN, and the headers of Eigen and doctest, no
# Meson: `gpu_session.sh [FOLDER-WITH-doctest/doctest.h-AND-Eigen]`.
set -euo pipefail
cd "$(dirname "$0")/.."
toolkit=${CUDA_HOME:-/usr/local/cuda}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

date -u
nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader || echo "nvidia-smi does not answer"
g++ -std=c++20 -O1 -Iinclude -Itests -isystem "$toolkit/include" ${1:+-isystem "$1"} \
  tests/kernels.cpp tests/kernel_launch_device.cpp -o "$folder/gpu_tests" -ldl -lpthread
export SETTLE_REQUIRE_GPU=1
"$folder/gpu_tests"
if [ -x "$toolkit/bin/compute-sanitizer" ]; then
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer: $tool"
    "$toolkit/bin/compute-sanitizer" --tool "$tool" --error-exitcode 1 "$folder/gpu_tests"
  done
else
  echo "compute-sanitizer is not installed: memcheck and racecheck are left out"
fi

g++ -std=c++20 -O2 -Iinclude -isystem "$toolkit/include" -isystem "${1:-/usr/include/eigen3}" \
  benchmarks/convolution_device.cpp -o "$folder/convolution_device" -ldl -lpthread
"$folder/convolution_device"
