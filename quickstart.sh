#!/usr/bin/env bash
# Installs what is missing, builds the library's main example, and runs it: a recurrent network learns to trace contours.
# The results are in out/quickstart. Arguments are handed on to the example: ./quickstart.sh --help
set -euo pipefail
cd "$(dirname "$0")"
source scripts/install_debian.sh

install_missing g++ meson ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpng-dev

# A folder that test.sh made serves as it is.
[ -f build/build.ninja ] || CXX=${CXX:-g++} configure build --buildtype=release -Dexamples=enabled -Dtests=disabled -Dwerror=false
ninja --quiet -C build examples/quickstart
exec build/examples/quickstart --output out/quickstart "$@"
