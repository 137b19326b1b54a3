#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 30s), one after the other. Fails at the end if any found something; what it found is
# in testdata/fuzz of that package, and is a regression test from then on once it is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

found=0 ran=0
for file in $(hack/testfiles.sh '^func Fuzz[A-Z0-9_]'); do
  for name in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file"); do
    echo "== $(dirname "$file") $name"
    go test "$(dirname "$file")" -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" || found=$((found + 1))
    ran=$((ran + 1))
  done
done
echo "$ran fuzz targets, $found failed"
[ "$found" -eq 0 ]
