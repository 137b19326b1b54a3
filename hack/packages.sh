#!/usr/bin/env bash
# Makes sure that commands exist. Each argument is command=package[,package…]: the Debian packages of the missing ones are installed,
# if that is possible here. Never fails: what is still missing afterwards is printed, with the reason. With NO_INSTALL, a reason not to, nothing is
# installed.
set -euo pipefail
self=${BASH_SOURCE[0]}

missing() {
  local pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || printf '%s\n' "$pair"
  done
}

install() {
  export DEBIAN_FRONTEND=noninteractive
  exec 9<"$self" && flock 9 # one at a time: apt-get does not wait for its lists
  echo "installing $*"
  local patience=(-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1)
  apt-get "${patience[@]}" update -qq </dev/null && apt-get "${patience[@]}" install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

PATH=$PATH:/usr/sbin:/sbin
mapfile -t lacking < <(missing "$@")
[ "${#lacking[@]}" -gt 0 ] || exit 0
IFS=$', \n' read -ra packages <<<"$(printf '%s ' "${lacking[@]#*=}")"

if [ -n "${NO_INSTALL:-}" ]; then
  why=$NO_INSTALL
elif [ "$(id -u)" -ne 0 ]; then
  why="not root, so nothing is installed"
elif ! command -v apt-get >/dev/null 2>&1; then
  why="no apt-get on this machine, so nothing is installed"
elif install "${packages[@]}"; then
  why="its package was installed but does not bring it"
else
  why="apt-get could not install its package"
fi
for pair in $(missing "${lacking[@]}"); do
  echo "missing: ${pair%%=*} (package ${pair#*=}): $why"
done
