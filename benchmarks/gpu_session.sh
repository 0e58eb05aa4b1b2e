#!/usr/bin/env bash
# What to run first on a machine with a GPU, all within ten minutes, compiling included: the tests of kernels, operations,
# solvers and nets; the released code's recorded steps; bitwise equality and constant memory; compute-sanitizer; short
# Pathfinder trainings that checkpoint, stop and go on; times, beside PyTorch's where python3 has it. On two GPUs or more
# also sums over them by NCCL, and a training on two.
#
#     gpu_session.sh [FOLDER]
#
# Needs g++, the CUDA toolkit 12.8 or newer ($CUDA_HOME, or /usr/local/cuda), cuDNN 9, and the headers of Eigen and
# doctest, beside each other in FOLDER or where the compiler looks; parity and training need nlohmann/json's too. No Meson.
# Ends with a line for each item, PASS, FAIL or NOT RUN with the reason. Status 0: everything passed; 1: something failed;
# 3: nothing failed, but something was not run.
#
#   OUT=FOLDER        where logs, summary, docs/gpu.md with its table, checkpoint and metrics are left; a training that is
#                     there goes on
#   BUILD=FOLDER      programs and kernels stay there; programs are not compiled again while no source is newer
#   BUDGET=SECONDS    in place of 590
#   PYTHON=PROGRAM    in place of python3
#   REHEARSAL=1       the smallest sizes, and PyTorch on the CPU: checks this script where SETTLE_CUDA_LIBRARIES names a
#                     folder of stand-ins, or costs little on a GPU
set -uo pipefail
toolkit=${CUDA_HOME:-/usr/local/cuda}
headers=$(realpath -m "${1:-/usr/include/eigen3}")
budget=${BUDGET:-590}
python=${PYTHON:-python3}
sanitizer=${SANITIZER:-$toolkit/bin/compute-sanitizer}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
out=$(realpath -m "${OUT:-$temporary/out}") build=$(realpath -m "${BUILD:-$temporary/build}")
export out build
mkdir -p "$out" "$build"
cd "$(dirname "$0")/.." || exit 1
export SETTLE_REQUIRE_GPU=1 SETTLE_CACHE=${SETTLE_CACHE:-$build/kernels}

compare=(--kernels 15 5 9 3 --rounds 2) convolutions=() burst=30
export paper=examples/configs/pathfinder14.json
export training="--set train.validate_every=50"
small=""
for option in data.size=32 data.window=112 data.contour_length=3 data.distractors=1 model.kernel=5 model.orientations=2 \
  train.batch=4 algorithm.steps=6 algorithm.products=4 data.validation=4 data.held_out=4 evaluation.batch=4; do
  small+=" --set $option"
done
export small
if [ "${REHEARSAL:-0}" = 1 ]; then
  compare=(--rehearse --kernels 3 --batch 1 --size 16 --rounds 1) convolutions=(1 3 16 1) burst=20
  training="$small --set train.validate_every=2"
fi

# --- compiling -----------------------------------------------------------------------------------

jobs_at_most=$(nproc)
flags=(-std=c++20 -Iinclude -Itests -isystem "$toolkit/include" -isystem "$headers")
declare -A absent needs objects  # by program: why it is not there; its headers; its object files
declare -A found                 # by header: yes or no

has_header() {
  if [ -z "${found[$1]:-}" ]; then
    found[$1]=no
    echo "#if !__has_include(<$1>)
#error
#endif" | g++ "${flags[@]}" -E -x c++ - > /dev/null 2>&1 && found[$1]=yes
  fi
  [ "${found[$1]}" = yes ]
}

# `program NAME "HEADERS" "FLAGS" SOURCE...` starts to compile the sources of a program.
program() {
  local name=$1 header source object
  needs[$name]=$2
  for header in $2; do
    if ! has_header "$header"; then
      absent[$name]="no $header"
      return
    fi
  done
  if [ -x "$build/$name" ] && [ -z "$(find include tests examples benchmarks -name '*.[ch]pp' -newer "$build/$name" | head -1)" ]; then return; fi
  rm -f "$build/$name"
  for source in "${@:4}"; do
    object=$build/$name.$(basename "$source" .cpp).o
    objects[$name]+=" $object"
    rm -f "$object"
    while [ "$(jobs -rp | wc -l)" -ge "$jobs_at_most" ]; do wait -n; done
    # shellcheck disable=SC2086
    g++ "${flags[@]}" $3 -c "$source" -o "$object" >> "$out/compiler.txt" 2>&1 &
  done
}

link_programs() {
  local name
  wait
  for name in "${!needs[@]}"; do
    if [ -x "$build/$name" ] || [ -n "${absent[$name]:-}" ]; then continue; fi
    # shellcheck disable=SC2086
    g++ ${objects[$name]} -o "$build/$name" $([[ ${needs[$name]} == *png.h* ]] && echo -lpng -ljpeg) -ldl -lpthread >> "$out/compiler.txt" 2>&1
  done
}

# --- items ---------------------------------------------------------------------------------------

summary=() failed=0 omitted=0

report() {  # PASS|FAIL|"NOT RUN" TEXT
  summary+=("$(printf '%-8s %s' "$1" "$2")")
  echo "== $1: $2"
  case $1 in
    FAIL) failed=1 ;;
    "NOT RUN") omitted=1 ;;
  esac
}

# `missing NAME PROGRAM` reports an item whose program is not there.
missing() {
  [ -x "$build/$2" ] && return 1
  if [ -n "${absent[$2]:-}" ]; then report "NOT RUN" "$1: ${absent[$2]}"; else report FAIL "$1: $2 did not compile"; fi
}

# `limited SECONDS LOG COMMAND...` runs a program or a function; status 124: it was stopped.
limited() {
  timeout -k 5 "$1" bash -c '"$@"' bash "${@:3}" 2>&1 | tee "$out/$2.txt"
  return "${PIPESTATUS[0]}"
}

# `item NAME PROGRAM SECONDS LOG COMMAND...` is an item that needs a program.
item() {
  local name=$1 limit=$3 left=$((budget - SECONDS)) status=0
  missing "$name" "$2" && return
  echo "== $name"
  if [ $left -lt 3 ]; then
    report "NOT RUN" "$name: the time was over"
    return
  fi
  limited $((limit < left ? limit : left)) "${@:4}" || status=$?
  if [ $status -eq 0 ]; then
    report PASS "$name"
  elif [ $status -eq 3 ]; then
    report "NOT RUN" "$name: done in part, see $4.txt"
  elif [ $status -ne 124 ]; then
    report FAIL "$name: status $status, see $4.txt"
  elif [ "$limit" -lt "$left" ]; then
    report FAIL "$name: not done after $limit s"
  else
    report "NOT RUN" "$name: the time was over before it was done"
  fi
}

# `some_cases PROGRAM ARGUMENT...` fails where doctest finds no test case to run.
some_cases() {
  local log
  log=$("$@" 2>&1)
  local status=$?
  echo "$log"
  [ $status -eq 0 ] && ! grep -q 'test cases: *0 ' <<< "$log"
}

# `go_on FOLDER SECONDS OPTION...`: stopped by a signal, a training goes on from its checkpoint; so does one that an
# earlier session left in the folder.
go_on() {
  local folder=$1 seconds=$2 round counts=()
  steps() { grep -c '"loss"' "$folder/metrics.jsonl" 2> /dev/null || true; }
  counts+=("$(steps)")
  for round in 1 2; do
    timeout --preserve-status -s TERM "$seconds" "$build/settle_train_cuda" $paper --output "$folder" --resume "${@:3}"
    [ $? -eq 75 ] || return 1
    counts+=("$(steps)")
  done
  echo "steps before, in between and after: ${counts[*]}; the last lines of metrics.jsonl:"
  tail -n 3 "$folder/metrics.jsonl"
  [ "${counts[1]}" -gt "${counts[0]:-0}" ] && [ "${counts[2]}" -gt "${counts[1]}" ]
}

# The numbers of a safetensors file: what follows its header.
numbers() { tail -c +$((9 + $(od -An -t u8 -N 8 "$1"))) "$1"; }

# `take STEPS FOLDER [PROGRAM]`: a small training up to so many steps.
take() {
  # shellcheck disable=SC2086
  "$build/${3:-settle_train_cuda}" $paper $small --output "$2" --resume --set train.steps=$1
}

# Four steps at once, and two with two from their checkpoint.
same_bits() {
  take 4 "$1/whole" && take 2 "$1/parts" && take 4 "$1/parts" &&
    cmp <(numbers "$1/whole/checkpoints/last.safetensors") <(numbers "$1/parts/checkpoints/last.safetensors") &&
    [ "$(numbers "$1/whole/checkpoints/last.safetensors" | wc -c)" -gt 1000 ]
}

# A training that goes from the device to the CPU and back.
other_device() {
  take 2 "$1/moved" && take 4 "$1/moved" settle_train && take 6 "$1/moved" &&
    [ "$(grep -c '"loss"' "$1/moved/metrics.jsonl")" -eq 6 ]
}

# The losses of a training.
losses() { grep -o '"loss":[^,}]*' "$1/metrics.jsonl" | cut -d: -f2; }

# A training on two GPUs, a process on each, as torchrun would start them: connected by NCCL, with the losses of one GPU.
two_gpus() {
  local folder=$1 rank status=0 processes=()
  take 4 "$folder/alone" || return 1
  for rank in 0 1; do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=${PORT:-29511} \
      take 4 "$folder/two" > "$out/two_gpus_$rank.txt" 2>&1 &
    processes+=($!)
  done
  for rank in 0 1; do wait "${processes[$rank]}" || status=1; done
  cat "$out/two_gpus_0.txt" "$out/two_gpus_1.txt"
  [ $status -eq 0 ] && grep -q "GPUs are connected by NCCL" "$out/two_gpus_0.txt" || return 1
  paste <(losses "$folder/alone") <(losses "$folder/two") | tee /dev/stderr |
    awk '{ d = $1 - $2; if (NF != 2 || d > 1e-4 * $1 || -d > 1e-4 * $1) wrong = 1 } END { exit wrong || NR != 4 }'
}
export -f some_cases go_on take numbers same_bits other_device losses two_gpus

# --- the session ---------------------------------------------------------------------------------

date -u
device=$(nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2> /dev/null) || device="no answer from nvidia-smi"
echo "$device"
gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
if [ "${REHEARSAL:-0}" = 1 ] && [ -n "${SETTLE_CUDA_LIBRARIES:-}" ]; then gpus=2; fi  # each process has its own
# What computes on the device prepares and launches here: that need not be fast, but the longest file is what is waited for.
interpreted=-DSETTLE_INTERPRETED_MAPS
test_flags="-O0 $interpreted"
program hgru_step "Eigen/Core" "-O1 $interpreted -DSETTLE_BENCHMARK_CUDA" benchmarks/hgru_step.cpp
program gpu_op_tests "Eigen/Core doctest/doctest.h" "$test_flags" \
  tests/cuda/device/{training,ops,convolution,device,real}.cpp
program parity_cuda "Eigen/Core nlohmann/json.hpp" "$test_flags -DEXAMPLE_CUDA" examples/parity_case.cpp examples/parity.cpp
trainer=$(echo examples/segmentation_*.cpp examples/settle_train.cpp)
trainer_headers="Eigen/Core nlohmann/json.hpp png.h jpeglib.h CLI/CLI.hpp"
# shellcheck disable=SC2086
program settle_train_cuda "$trainer_headers" "-O1 $interpreted -DEXAMPLE_CUDA" $trainer
program gpu_tests "Eigen/Core doctest/doctest.h" -O1 tests/kernels/kernels.cpp tests/kernels/launch_device.cpp
if [ "$gpus" -ge 2 ]; then
  program nccl_tests "Eigen/Core doctest/doctest.h" "$test_flags -DSETTLE_ON_GPUS" tests/cuda/device/nccl.cpp
fi
program convolution_device "Eigen/Core" "-O1" benchmarks/convolution_device.cpp
# shellcheck disable=SC2086
program settle_train "$trainer_headers" "-O1 $interpreted" $trainer
link_programs
echo "== compiled in $SECONDS s with $jobs_at_most jobs"
grep -E "error" "$out/compiler.txt" 2> /dev/null | head -20

exact="*same bits*,*as graphs give the bits*,*does not grow*"
item "kernels against their references" gpu_tests 60 kernels "$build/gpu_tests"
item "operations, gradients, solvers, nets against the CPU" gpu_op_tests 150 operations \
  some_cases "$build/gpu_op_tests" -tce="$exact"
item "the same bits twice and by graphs; memory at 6, 20 and 300 steps" gpu_op_tests 60 exact \
  some_cases "$build/gpu_op_tests" -tc="$exact"
item "recorded steps in float64, to 1e-9" parity_cuda 60 parity_float64 \
  "$build/parity_cuda" --device cuda data/parity/*.safetensors
item "recorded steps in float32 without TF32, to 2e-4" parity_cuda 60 parity_float32 \
  "$build/parity_cuda" --device cuda --float32 data/parity/*.safetensors
# All four at once, each on a processor, and the trainings meanwhile: nothing here is a measurement.
declare -A checks=()
limit=$((budget - SECONDS < 120 ? budget - SECONDS : 120))
if [ "$limit" -lt 3 ]; then
  report "NOT RUN" "compute-sanitizer: the time was over"
elif [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    for name in gpu_tests gpu_op_tests; do
      if missing "compute-sanitizer $tool, $name" $name; then continue; fi
      timeout -k 5 "$limit" "$sanitizer" --tool $tool --error-exitcode 1 "$build/$name" > "$out/$tool.$name.txt" 2>&1 &
      checks[$tool.$name]=$!
    done
  done
else
  report "NOT RUN" "compute-sanitizer: $sanitizer is not there"
fi

item "a training goes on from its checkpoint to the same bits" settle_train_cuda 90 same_bits same_bits "$temporary"
if ! missing "a training moves to the CPU and back" settle_train; then
  item "a training moves to the CPU and back" settle_train_cuda 90 other_device other_device "$temporary"
fi
if [ "$gpus" -ge 2 ]; then
  item "sums over GPUs by NCCL" nccl_tests 60 nccl some_cases "$build/nccl_tests"
  item "a training on two GPUs" settle_train_cuda 90 two_gpus two_gpus "$temporary"
else
  report "NOT RUN" "NCCL, and a training on two GPUs: there are $gpus"
fi
# shellcheck disable=SC2086
item "a training stops on a signal and goes on" settle_train_cuda $((2 * burst + 60)) training \
  go_on "$out/training" $burst $training

for check in "${!checks[@]}"; do
  wait "${checks[$check]}"
  status=$?
  tail -n 5 "$out/$check.txt"
  case $status in
    0) report PASS "compute-sanitizer ${check/./, }" ;;
    124 | 137) report "NOT RUN" "compute-sanitizer ${check/./, }, to its end: stopped after $limit s, see $check.txt" ;;
    *) report FAIL "compute-sanitizer ${check/./, }: status $status, see $check.txt" ;;
  esac
done

item "times of convolutions" convolution_device 60 convolutions "$build/convolution_device" "${convolutions[@]}"
if "$python" -c 'import torch' 2> /dev/null; then
  cp docs/gpu.md "$out/gpu.md"
  item "times beside PyTorch" hgru_step 300 compare_torch "$python" benchmarks/compare_torch.py --device cuda \
    --program "$build/hgru_step" --seconds $((budget - SECONDS < 300 ? budget - SECONDS - 100 : 200)) --write "$out/gpu.md" "${compare[@]}"
else
  report "NOT RUN" "times beside PyTorch: $python has no torch"
  steps=(--batch 128)
  if [ "${REHEARSAL:-0}" = 1 ]; then steps=(--batch 1 --size 16); fi
  for kernel in 15 5; do
    item "times of a whole training step, kernel $kernel" hgru_step 30 "hgru_step_$kernel" \
      "$build/hgru_step" --device cuda "${steps[@]}" --kernel $kernel --repeat 3 --cell
  done
fi

{
  echo "$(date -u '+%Y-%m-%d %H:%M') UTC, $device, $SECONDS s in all"
  printf '%s\n' "${summary[@]}"
} | tee "$out/summary.txt"
if [ $failed -ne 0 ]; then exit 1; fi
if [ $omitted -ne 0 ]; then exit 3; fi
