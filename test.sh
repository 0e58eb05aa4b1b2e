#!/usr/bin/env bash
# Builds and runs all tests: with g++ in release, with clang++ under the address and undefined-behaviour sanitizers, and
# under the thread sanitizer what runs on threads. Ends with the number of test cases over all runs; fails when any fails.
set -uo pipefail
cd "$(dirname "$0")"
source scripts/install_debian.sh

install_missing g++ meson ninja-build pkg-config libeigen3-dev doctest-dev nlohmann-json3-dev libpng-dev || exit 1
install_missing clang && install_missing libclang-rt ||
  echo "clang++ with its sanitizers is not to be had: g++ builds in its place"

passed=0 failed=0 skipped=0

# The older thread sanitizers do not bear the address layouts of newer kernels; a fixed layout suits them, where allowed.
fixed_layout=()
setarch "$(uname -m)" -R true 2> /dev/null && fixed_layout=(setarch "$(uname -m)" -R)

# `build FOLDER TARGETS... -- OPTION...` configures and compiles.
build() {
  local folder=$1 targets=() start=$SECONDS
  shift
  while [ "$1" != -- ]; do
    targets+=("$1")
    shift
  done
  shift
  echo "== $folder: building"
  if configure "$folder" -Dtests=enabled -Dbenchmarks=disabled -Dwerror=true "$@" && ninja --quiet -C "$folder" "${targets[@]}"; then
    echo "== $folder: built in $((SECONDS - start)) s"
  else
    echo "== $folder: the build FAILED"
    failed=$((failed + 1))
    return 1
  fi
}

# `run PROGRAM` runs a doctest program and adds up its test cases; a crash is a failed test case.
run() {
  local output status counts p f s start=$SECONDS
  output=$("${fixed_layout[@]}" "$@" --no-colors 2>&1)
  status=$?
  echo "$output"
  if [ $status -eq 77 ]; then  # it needs what this machine lacks, and says what
    echo "== $1: SKIPPED"
    skipped=$((skipped + 1))
    return
  fi
  counts=$(sed -nE 's/^\[doctest\] test cases: *[0-9]+ \| *([0-9]+) passed \| *([0-9]+) failed \| *([0-9]+) skipped.*/\1 \2 \3/p' <<< "$output")
  read -r p f s <<< "${counts:-0 0 0}"
  if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
    echo "== $1: ended with status $status"
    f=1
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  echo "== $1: ran for $((SECONDS - start)) s"
}

# `run_all FOLDER` runs the test programs that were built there: without the CUDA toolkit there are fewer.
run_all() {
  local program
  for program in settle_tests settle_map_tests settle_kernel_tests settle_cuda_tests settle_emulated_device_tests \
    settle_gpu_tests settle_gpu_op_tests; do
    if [ -x "$1/tests/$program" ]; then run "$1/tests/$program"; fi
  done
}

# The checks make compiled maps long: all programs but settle_map_tests interpret them here.
sanitize=(-Db_sanitize=address,undefined -Db_lundef=false --buildtype=debug -Doptimization=1
  -Dcpp_args='-g1 -fno-sanitize-recover=undefined -D_GLIBCXX_ASSERTIONS -DSETTLE_INTERPRETED_MAPS')

export CXX=g++
build build all -- --buildtype=release -Dexamples=enabled && run_all build

build build-thread tests/settle_thread_tests tests/settle_kernel_tests -- \
  -Db_sanitize=thread --buildtype=debug -Doptimization=1 &&
  run build-thread/tests/settle_thread_tests && run build-thread/tests/settle_kernel_tests

# One build tells both what clang++ thinks of the sources and what the sanitizers see.
if is_present libclang-rt; then
  export CXX=clang++
  build build-clang-sanitize all tests/settle_map_tests -- -Dexamples=enabled "${sanitize[@]}" && run_all build-clang-sanitize
else
  build build-sanitize all tests/settle_map_tests -- -Dexamples=enabled "${sanitize[@]}" && run_all build-sanitize
fi

echo "Everything took $SECONDS s."
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
