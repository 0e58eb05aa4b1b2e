#!/usr/bin/env bash
# Installs what is missing, builds the library's main example, and runs it: a recurrent network learns to trace contours.
# The results are in out/quickstart. Arguments are handed on to the example: ./quickstart.sh --help
set -euo pipefail
cd "$(dirname "$0")"
source scripts/install_debian.sh

install_missing g++ meson ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpng-dev libjpeg62-turbo-dev libcli11-dev

# A folder that test.sh made serves as it is.
[ -f build/build.ninja ] || CXX=${CXX:-g++} configure build --buildtype=release -Dexamples=enabled -Dtests=disabled -Dwerror=false
program=quickstart
if [[ " $* " == *" --device cuda "* ]]; then
  program=quickstart_cuda
  ninja --quiet -C build build.ninja > /dev/null
  if ! ninja -C build -t query examples/$program > /dev/null 2>&1; then
    echo "--device cuda needs the headers of CUDA 12.8 or newer and of cuDNN 9 where Meson finds them: see docs/gpu.md" >&2
    exit 1
  fi
fi
ninja --quiet -C build examples/$program
exec build/examples/$program --output out/quickstart "$@"
