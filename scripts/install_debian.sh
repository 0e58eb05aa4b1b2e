# Sourced by test.sh and quickstart.sh.
# `install_missing PACKAGE...` takes the names of Debian packages and installs those whose program or library is absent.
# `libclang-rt` stands for the sanitizers of the clang++ that is there, libclang-rt-VERSION-dev.
# On other systems it lists what is absent and fails; what is present is found wherever it came from.

is_present() {
  case "$1" in
    cmake | g++ | make | meson | pkg-config) command -v "$1" ;;
    clang) command -v clang++ ;;
    libclang-rt) echo 'int main() {}' | clang++ -fsanitize=address,undefined -x c++ - -o /dev/null ;;
    ninja-build) command -v ninja ;;
    libeigen3-dev) pkg-config --exists eigen3 ;;
    nlohmann-json3-dev) pkg-config --exists nlohmann_json ;;
    libopenmpi-dev) pkg-config --exists ompi-cxx || pkg-config --exists mpich ;;
    openmpi-bin) command -v mpirun ;;
    libpng-dev) pkg-config --exists libpng ;;
    libzip-dev) pkg-config --exists libzip ;;
    libjpeg62-turbo-dev) pkg-config --exists libjpeg ;;
    libcli11-dev) pkg-config --exists CLI11 ;;
    doctest-dev) echo '#include <doctest/doctest.h>' | g++ -x c++ -E - ;;
    *) return 64 ;;
  esac > /dev/null 2>&1
}

install_missing() {
  local package status version missing=() as_root=()
  for package in "$@"; do
    status=0
    is_present "$package" || status=$?
    if [ $status -eq 64 ]; then
      echo "scripts/install_debian.sh has no test for the presence of $package" >&2
      return 1
    fi
    [ $status -eq 0 ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [[ " ${missing[*]} " == *" libclang-rt "* ]]; then
    version=$(clang++ -dumpversion) || return 1
    missing=("${missing[@]/#libclang-rt/libclang-rt-${version%%.*}-dev}")
  fi

  if ! command -v apt-get > /dev/null; then
    echo "This system is not Debian or one of its children. Please install what these Debian packages hold:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
      echo "Please install these packages as root: apt-get install ${missing[*]}" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  echo "Installing: ${missing[*]}"
  "${as_root[@]}" apt-get -qq update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" > /dev/null
}

# `configure FOLDER OPTION...` makes or updates a Meson build folder; what Meson says is shown when it fails.
configure() {
  local folder=$1 again=() said
  shift
  [ -f "$folder/build.ninja" ] && again=(--reconfigure)
  said=$(meson setup "${again[@]}" "$folder" "$@" 2>&1) || {
    echo "$said" >&2
    return 1
  }
}
