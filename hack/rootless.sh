#!/usr/bin/env bash
# Runs a command where it may make network namespaces: as root directly, else as root of a new user namespace.
# If neither is possible the command runs as it is, and the reason is printed.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then
  exec "$@"
fi
if why=$(unshare --user --map-root-user --mount --net true 2>&1); then
  echo "not root: running in a user namespace" >&2
  exec unshare --user --map-root-user --mount -- "$@"
fi
echo "not root, and no user namespace here (${why:-unshare failed}): what needs network namespaces cannot run" >&2
exec "$@"
