#!/usr/bin/env bash
# CPU seconds that a program which includes settle/settle.hpp and trains an hGRU takes to compile at -O2; the limit is 40.
# Usage: compile_time.sh SOURCE_FOLDER [COMPILER...]
set -euo pipefail
source_folder=$1
shift
for compiler in "${@:-g++}"; do
  TIMEFORMAT="$compiler -O2: %U s user, %S s system, %R s elapsed"
  time "$compiler" -std=c++20 -O2 -c "$source_folder/benchmarks/train_hgru.cpp" -o /dev/null -I"$source_folder/include" \
    $(pkg-config --cflags eigen3)
done
