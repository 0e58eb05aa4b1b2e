#!/usr/bin/env bash
# Installs settle, moves what was installed, and builds and runs a program in each way of using it.
# Usage: run.sh FOLDER: what is built lies there. Ends with the number of ways that passed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
mkdir -p "$1" && cd "$1" || exit 1
top=$PWD
rm -rf build installed moved consumers
passed=0 failed=0 skipped=0
export CXX=${CXX:-g++}

# `try NAME COMMAND...` runs the commands of a way in a folder of its own; they end by running the program.
try() {
  local start=$SECONDS log=$top/$1.log
  mkdir -p "$top/consumers"
  cp -r "$here/." "$top/consumers"
  (set -e && cd "$top/consumers" && "way_$1" "${@:2}") > "$log" 2>&1
  if [ $? -eq 0 ]; then
    passed=$((passed + 1))
    echo "packaging: $*: $(tail -n 1 "$log") ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1))
    cat "$log"
    echo "packaging: $*: FAILED"
  fi
  rm -rf "$top/consumers"
}
skip() {
  skipped=$((skipped + 1))
  echo "packaging: $1: SKIPPED, $2 is not installed"
}

install_to() {  # PREFIX OPTION...
  meson setup "$top/build" "$source" --prefix="$1" --libdir=lib --buildtype=release -Dtests=disabled \
    -Dexamples=disabled -Dbenchmarks=disabled -Dpkgconfig.relocatable=true "${@:2}" &&
    ninja -C "$top/build" && ninja -C "$top/build" install
}

way_recipes() {
  local version
  version=$(sed -n 's/^#define SETTLE_VERSION_[A-Z]* //p' "$source/include/settle/version.hpp" | paste -sd .)
  grep -q "\"version\": \"$version\"" "$source/packaging/vcpkg/vcpkg.json"
  grep -q "^revision = v$version$" "$source/packaging/settle.wrap"
  head -n 1 "$source/packaging/debian/changelog" | grep -qF "settle ($version-"
  grep -m 1 '^## ' "$source/CHANGELOG.md" | grep -qF "## $version"
  echo "all name version $version"
}
way_pkg_config() {  # PACKAGE
  export PKG_CONFIG_PATH=$prefix/share/pkgconfig:$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
  make -C pkg_config PACKAGE="$1"
  pkg_config/hello
}
way_processors() {  # the loader takes the libsettle that suits the machine
  export PKG_CONFIG_PATH=$prefix/share/pkgconfig:$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
  make -C pkg_config PACKAGE=settle-compiled processor
  local best=baseline
  if grep -qw avx2 /proc/cpuinfo; then best=avx2; fi
  [ "$(pkg_config/processor)" = $best ]
  [ "$(/lib64/ld-linux-x86-64.so.2 --glibc-hwcaps-mask none pkg_config/processor)" = baseline ]
  echo "one program, compiled for any processor, computes with $best here"
}
way_cmake_package() {  # COMPONENT...
  cmake -S cmake_package -B b -DCMAKE_PREFIX_PATH="$prefix" -DEXTRA_COMPONENTS="$*"
  cmake --build b
  LD_LIBRARY_PATH=$prefix/lib b/hello
}
way_cmake_subdirectory() {
  cmake -S cmake_subdirectory -B b -DSETTLE_SOURCE="$source"
  cmake --build b
  b/hello
}
way_meson_wrap() {
  mkdir meson_wrap/subprojects
  sed "s|^url = .*|url = file://$source|; s|^revision = .*|revision = HEAD|; /^depth/d" \
    "$source/packaging/settle.wrap" > meson_wrap/subprojects/settle.wrap
  cp main.cpp hello.cpp hello.hpp meson_wrap
  meson setup b meson_wrap
  ninja -C b
  b/hello
}
way_single_header() {
  mkdir -p one/settle
  "$source/packaging/amalgamate.py" "$source/include" settle/settle.hpp one/settle/settle.hpp
  # In two files of one program: all that it defines is inline.
  $CXX -std=c++20 -O1 -Ione $(pkg-config --cflags eigen3) -c hello.cpp -o hello.o
  $CXX -std=c++20 -O0 -Ione $(pkg-config --cflags eigen3) -Dhello=again -c hello.cpp -o again.o
  $CXX main.cpp hello.o again.o -pthread -o single
  ./single
}

installed=$top/installed prefix=$top/moved
if ! install_to "$installed" -Dlibrary=true -Dlibrary_processors=x86-64-v3 -Dnative=false -Doptimization=1 \
  > "$top/install.log" 2>&1; then
  cat "$top/install.log"
  echo "packaging: the installation FAILED"
  exit 1
fi
mv "$installed" "$prefix"  # what was installed works wherever it is put

try recipes
if command -v make > /dev/null; then
  try pkg_config settle
  try pkg_config settle-compiled
  if [ -x /lib64/ld-linux-x86-64.so.2 ]; then try processors; else skip processors "the loader of an x86-64 system"; fi
else
  skip pkg_config make
fi
if command -v cmake > /dev/null; then
  try cmake_package
  try cmake_package compiled
  try cmake_subdirectory
else
  skip "cmake_package, cmake_subdirectory" cmake
fi
if command -v git > /dev/null && git -C "$source" rev-parse HEAD > /dev/null 2>&1; then
  try meson_wrap
else
  skip meson_wrap "a git checkout with git"
fi
try single_header

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
