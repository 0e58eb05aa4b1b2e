# Sourced by test.sh and quickstart.sh.
# `install_missing PACKAGE...` takes the names of Debian packages and installs those whose program or library is absent.
# `libclang-rt` stands for the sanitizers of the clang++ that is there, libclang-rt-VERSION-dev.
# On other systems it lists what is absent and fails; what is present is found wherever it came from.

is_present() {
  case "$1" in
    g++ | meson | pkg-config) command -v "$1" ;;
    clang) command -v clang++ ;;
    libclang-rt) echo 'int main() {}' | clang++ -fsanitize=address,undefined -x c++ - -o /dev/null ;;
    ninja-build) command -v ninja ;;
    libeigen3-dev) pkg-config --exists eigen3 ;;
    nlohmann-json3-dev) pkg-config --exists nlohmann_json ;;
    libpng-dev) pkg-config --exists libpng ;;
    doctest-dev) echo '#include <doctest/doctest.h>' | g++ -x c++ -E - ;;
    *) echo "no test for the presence of $1" >&2 && exit 1 ;;
  esac > /dev/null
}

install_missing() {
  local package missing=() as_root=()
  for package in "$@"; do
    is_present "$package" 2> /dev/null || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  missing=("${missing[@]/#libclang-rt/libclang-rt-$(clang++ -dumpversion 2> /dev/null | cut -d. -f1)-dev}")

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
