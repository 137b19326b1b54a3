#!/usr/bin/env bash
# Rewrites the golden files: runs the tests of every package that declares an -update flag with it.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t packages < <(hack/testfiles.sh 'flag\.Bool(Var)?\(.*"update"' | xargs -r -n1 dirname | sort -u)
[ "${#packages[@]}" -gt 0 ] || { echo "no package has golden files"; exit 0; }
# One after the other, each built anew: packages may rewrite parts of the same file, which they have embedded.
failed=0
for package in "${packages[@]}"; do
  go test -count=1 "$package" -update || failed=1
done
git status --short -- '*/testdata/*'
exit "$failed"
