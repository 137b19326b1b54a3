#!/usr/bin/env bash
# Rewrites the golden files: runs the tests of every package that declares an -update flag with it.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t packages < <(hack/testfiles.sh 'flag\.Bool(Var)?\(.*"update"' | xargs -r -n1 dirname | sort -u)
[ "${#packages[@]}" -gt 0 ] || { echo "no package has golden files"; exit 0; }
go test -count=1 "${packages[@]}" -update
git status --short -- '*/testdata/*'
