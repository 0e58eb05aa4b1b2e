#!/usr/bin/env bash
# Builds and runs all tests: with g++ in release, with clang++ under the address and undefined-behaviour sanitizers, and
# under the thread sanitizer what runs on threads. Ends with the number of test cases over all runs; fails when any fails.
set -uo pipefail
cd "$(dirname "$0")"
source scripts/install_debian.sh

install_missing g++ meson ninja-build pkg-config libeigen3-dev doctest-dev nlohmann-json3-dev libpng-dev libjpeg62-turbo-dev \
  libcli11-dev cmake make || exit 1
install_missing libzip-dev || echo "libzip is not to be had: the tests of NumPy archives are left out"
install_missing openmpi-bin libopenmpi-dev || echo "MPI is not to be had: its tests are left out"
install_missing clang && install_missing libclang-rt ||
  echo "clang++ with its sanitizers is not to be had: g++ builds in its place"

passed=0 failed=0 skipped=0 failures=()

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
    failed=$((failed + 1)) failures+=("$folder: the build")
    return 1
  fi
}

# `failed_cases LOG` prints the names of doctest's cases that failed, with the lines that say why; of another program
# its last words.
failed_cases() {
  if grep -q ' ERROR: ' "$1"; then
    awk '/^TEST CASE:/ { name = $0 }
      / ERROR: / { if (name != "") print "  " name; name = ""; shown = 12 }
      shown-- > 0 { print "    " $0 }' "$1"
  else
    tail -n 20 "$1"
  fi
}

# `run PROGRAM...` runs doctest programs, one for each processor at a time, and adds up their test cases; a crash is a
# failed test case. A program may come several times with arguments that choose a share of its cases: what no share ran
# was skipped.
run() {
  local entry program log=$(mktemp -d) number=0 status seconds p f s
  local -A cases=() ran=()
  for entry in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    (
      set -f  # the patterns of files are for the program
      start=$SECONDS
      "${fixed_layout[@]}" $entry --no-colors > "$log/$number" 2>&1
      echo $? $((SECONDS - start)) > "$log/$number.end"
    ) &
    number=$((number + 1))
  done
  wait
  number=0
  for entry in "$@"; do
    program=${entry%% *} said=$log/$number
    number=$((number + 1))
    read -r status seconds < "$said.end"
    # What a program that passed has to say is its count: what it was made to provoke would hide the failures of others.
    if [ "$status" -eq 0 ]; then grep -E '^\[doctest\] test cases|SKIP|^packaging|^[0-9]+ passed, ' "$said"; else cat "$said"; fi
    if [ "$status" -eq 77 ]; then  # it needs what this machine lacks, and says what
      echo "== $entry: SKIPPED"
      skipped=$((skipped + 1))
      continue
    fi
    read -r p f s <<< "$(sed -nE 's/^\[doctest\] test cases: *[0-9]+ \| *([0-9]+) passed \| *([0-9]+) failed \| *([0-9]+) skipped.*/\1 \2 \3/p' "$said")"
    if [ -n "$p" ]; then
      cases[$program]=$((p + f + s))
      ran[$program]=$((${ran[$program]:-0} + p + f))
    else  # a script, which closes on its own numbers
      read -r p f s <<< "$(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$said")"
      skipped=$((skipped + ${s:-0}))
    fi
    if [ "$status" -ne 0 ] && [ "${f:-0}" -eq 0 ]; then
      echo "== $entry: ended with status $status"
      failed=$((failed + 1))
    fi
    echo "== $entry: ran for $seconds s"
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
    if [ "$status" -ne 0 ]; then failures+=("$entry, status $status" "$(failed_cases "$said")"); fi
  done
  for program in "${!cases[@]}"; do skipped=$((skipped + ${cases[$program]} - ${ran[$program]})); done
  rm -r "$log"
}

programs=()
# `add FOLDER NAME...` adds those test programs to the run that were built there: without the CUDA toolkit there are fewer.
add() {
  local name
  for name in "${@:2}"; do
    if [ -x "$1/tests/$name" ]; then programs+=("$1/tests/$name"); fi
  done
}
# The longest in two shares, and first.
add_all() {
  programs+=("$1/tests/settle_tests -sf=*fixed_point*,*ops.cpp" "$1/tests/settle_tests -sfe=*fixed_point*,*ops.cpp")
  add "$1" settle_mpi_tests settle_emulated_device_tests settle_device_nccl_tests settle_map_tests settle_kernel_tests \
    settle_cuda_kernel_tests settle_cuda_tests settle_gpu_tests settle_gpu_op_tests settle_instruction_set_tests \
    settle_opinfo_tests
}

# The checks make compiled maps long: all programs but settle_map_tests interpret them here.
# Packets are those of the oldest processors: that is less to compile, and what the release build does not test.
sanitize=(-Db_sanitize=address,undefined -Db_lundef=false --buildtype=debug -Doptimization=1 -Dnative=false
  -Dcpp_args='-g1 -fno-sanitize-recover=undefined -D_GLIBCXX_ASSERTIONS -DSETTLE_INTERPRETED_MAPS')
export ASAN_OPTIONS=protect_shadow_gap=0  # where there is a GPU, its driver needs those addresses

# One build tells both what clang++ thinks of the sources and what the sanitizers see.
export CXX=g++
sanitized=build-sanitize
if is_present libclang-rt; then
  export CXX=clang++
  sanitized=build-clang-sanitize
fi
# Of the examples those that tests run there; trainings on several processes and of panoptic nets would take too long.
checked_examples=(examples/{parity,quickstart,panoptic_eval,settle_{train,eval,predict,boundaries,make_pathfinder,report}})
build $sanitized checked_programs "${checked_examples[@]}" -- -Dexamples=enabled "${sanitize[@]}" &&
  add_all $sanitized

export CXX=g++
build build all -- --buildtype=release -Dexamples=enabled && add_all build

# Configured as where there is no CUDA toolkit, examples and all: what is built here needs none.
build build-thread tests/settle_thread_tests tests/settle_kernel_tests -- \
  -Db_sanitize=thread --buildtype=debug -Doptimization=1 -Dcuda=disabled -Dexamples=enabled &&
  add build-thread settle_thread_tests settle_kernel_tests

# What is installed, used in every way there is.
programs+=("tests/packaging/run.sh build-packaging")

run "${programs[@]}"

if [ ${#failures[@]} -gt 0 ]; then printf '%s\n' "== What failed:" "${failures[@]}"; fi
echo "Everything took $SECONDS s."
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
