#!/usr/bin/env bash
# Runs the benchmarks of every package that has some, or of PKGS.
# BENCH is the pattern (default .), COUNT the repetitions (default 1; 10 for benchstat), BENCHTIME as for go test.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${PKGS:-}" ]; then
  read -ra packages <<<"$PKGS"
else
  mapfile -t packages < <(hack/testfiles.sh '^func Benchmark[A-Z0-9_]' | xargs -r -n1 dirname | sort -u)
fi
[ "${#packages[@]}" -gt 0 ] || { echo "no package has benchmarks"; exit 0; }
exec go test -run '^$' -bench "${BENCH:-.}" -benchmem -count "${COUNT:-1}" -benchtime "${BENCHTIME:-1s}" \
  -timeout 60m "${packages[@]}"
