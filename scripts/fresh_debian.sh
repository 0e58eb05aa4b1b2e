#!/usr/bin/env bash
# Tries the README's commands as a newcomer would: makes a minimal Debian 12, clones the last commit into it, and runs
# ./quickstart.sh and ./test.sh there. Uncommitted changes are not part of it. Everything it made is removed at the end.
#
#   scripts/fresh_debian.sh [--only quickstart|test] [--keep] [ARGUMENT...]
#
# Arguments go to quickstart.sh: scripts/fresh_debian.sh --only quickstart --training-steps 5
# --keep leaves the system where it is and says where. Needs root, mmdebstrap, 8 GB in ${TMPDIR:-/tmp}, and this
# machine's own sources of Debian 12's packages; where one is missing it says which and ends with status 77.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
suite=bookworm

skip() {
  echo "SKIP: $1" >&2
  exit 77
}

commands=(quickstart test) keep=false
while [ $# -gt 0 ]; do
  case "$1" in
    --only)
      commands=("${2:-}")
      [[ "${commands[0]}" =~ ^(quickstart|test)$ ]] || {
        echo "--only: expected quickstart or test, got '${commands[0]}'" >&2
        exit 2
      }
      shift
      ;;
    --keep) keep=true ;;
    *) break ;;
  esac
  shift
done

[ "$(id -u)" -eq 0 ] || skip "a system can be made by root only"
for program in mmdebstrap unshare git apt-config; do
  command -v $program > /dev/null || skip "there is no $program"
done
unshare --mount true 2> /dev/null || skip "this machine does not let root mount anything"

# The files of apt's sources that offer Debian 12's main packages; those of others have another suite or component.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
  [ -f "$file" ] && grep -Eq "^(deb|Suites:)(.*[[:space:]])?$suite([[:space:]]|$)" "$file" &&
    grep -Eq '^(deb|Components:)(.*[[:space:]])?main([[:space:]]|$)' "$file" && sources+=("$file")
done
[ ${#sources[@]} -gt 0 ] || skip "no file in /etc/apt names a source of Debian 12 ($suite)"

place=$(mktemp -d "${TMPDIR:-/tmp}/fresh_debian.XXXXXX")
root=$place/root
finish() {
  if $keep; then
    echo "The system is in $root."
  else
    rm -rf --one-file-system "$place"
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# How this machine reaches its sources, proxies and all, is how the new system has to.
apt-config dump | grep -E '^Acquire::(Check-[A-Za-z-]*|https?::.*|Retries) ' > "$place/apt.conf" || true

start=$SECONDS
mmdebstrap --quiet --mode=root --variant=apt --include=git,ca-certificates --aptopt="$place/apt.conf" \
  "$suite" "$root" "${sources[@]}"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
packages=$(chroot "$root" dpkg-query --show | wc -l)
echo "== Debian $(cat "$root/etc/debian_version"), $packages packages: made in $((SECONDS - start)) s"

git clone --quiet --no-hardlinks "file://$project" "$root/root/settle"
echo "== $(git -C "$project" log -1 --format='%h %s')"

# Mounts live in a namespace of their own, which ends with the command: rm never meets anything of this machine.
inside() {
  unshare --mount --propagation private -- bash -ec '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      bash -c "cd /root/settle && exec \"\$@\"" bash "$@"' bash "$root" "$@"
}

failed=0
for name in "${commands[@]}"; do
  arguments=()
  [ "$name" = quickstart ] && arguments=("$@")
  echo "== ./$name.sh ${arguments[*]}"
  start=$SECONDS status=0
  inside "./$name.sh" "${arguments[@]}" < /dev/null || status=$?
  echo "== ./$name.sh: status $status after $((SECONDS - start)) s"
  [ $status -eq 0 ] || failed=1
done
exit $failed
