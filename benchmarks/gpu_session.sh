#!/usr/bin/env bash
# What to run first on a machine with a GPU: every kernel against its reference, tensors, operations and nets against the
# CPU, both under compute-sanitizer where that is installed, then the times of convolutions and of whole training steps.
# Needs g++, the CUDA toolkit, cuDNN, and the headers of Eigen and doctest, no Meson:
# `gpu_session.sh [FOLDER-WITH-doctest/doctest.h-AND-Eigen]`.
set -euo pipefail
cd "$(dirname "$0")/.."
toolkit=${CUDA_HOME:-/usr/local/cuda}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compile() {
  g++ -std=c++20 -Iinclude -Itests -isystem "$toolkit/include" -isystem "${headers:-/usr/include/eigen3}" "$@" -ldl -lpthread
}
headers=${1:-}

date -u
nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader || echo "nvidia-smi does not answer"
objects=()
for source in device device_convolution device_ops device_training device_real; do
  compile -O0 -DSETTLE_INTERPRETED_MAPS -c "tests/$source.cpp" -o "$folder/$source.o" &
  objects+=("$folder/$source.o")
done
compile -O1 tests/kernels.cpp tests/kernel_launch_device.cpp -o "$folder/gpu_tests" &
compile -O2 benchmarks/convolution_device.cpp -o "$folder/convolution_device" &
compile -O2 -DSETTLE_BENCHMARK_CUDA benchmarks/hgru_step.cpp -o "$folder/hgru_step" &
for job in $(jobs -p); do wait "$job"; done
compile "${objects[@]}" -o "$folder/gpu_op_tests"

export SETTLE_REQUIRE_GPU=1
failed=0
"$folder/gpu_tests"
"$folder/gpu_op_tests"
if [ -x "$toolkit/bin/compute-sanitizer" ]; then
  for tool in memcheck racecheck; do
    for program in gpu_tests gpu_op_tests; do
      echo "== compute-sanitizer: $tool, $program"
      status=0
      timeout 100 "$toolkit/bin/compute-sanitizer" --tool "$tool" --error-exitcode 1 "$folder/$program" || status=$?
      if [ $status -eq 124 ]; then
        echo "== stopped after 100 s: unfinished, and nothing found so far"
      elif [ $status -ne 0 ]; then
        failed=1
      fi
    done
  done
else
  echo "compute-sanitizer is not installed: memcheck and racecheck are left out"
fi

"$folder/convolution_device"
for kernel in 15 9 5 3; do
  for precision in "" --tf32; do
    "$folder/hgru_step" --device cuda --batch 128 --kernel $kernel --repeat 3 $precision
  done
done
[ $failed -eq 0 ]
