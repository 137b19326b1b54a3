#!/usr/bin/env bash
# Runs the benchmarks of every package that has some, or of PKGS.
# BENCH is the pattern (default .), COUNT the repetitions (default 1; 10 for benchstat), BENCHTIME as for go test. ARGS are flags of the benchmarks' own.
# VM=6.1, or another kernel of hack/vm.sh, runs them in a virtual machine: emulated, its times say nothing, but their ratios do.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${PKGS:-}" ]; then
  read -ra packages <<<"$PKGS"
else
  mapfile -t packages < <(hack/testfiles.sh '^func Benchmark[A-Z0-9_]' | xargs -r -n1 dirname | sort -u)
fi
[ "${#packages[@]}" -gt 0 ] || { echo "no package has benchmarks"; exit 0; }
read -ra own <<<"${ARGS:-}"

if [ -z "${VM:-}" ]; then
  exec go test -run '^$' -bench "${BENCH:-.}" -benchmem -count "${COUNT:-1}" -benchtime "${BENCHTIME:-1s}" \
    -timeout 60m "${packages[@]}" -args "${own[@]}"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for package in "${packages[@]}"; do
  CGO_ENABLED=0 go test -c -o "$scratch/bench.test" "$package"
  hack/vm.sh -k "$VM" -t 3600 -m 3072 -l ip_vs "$scratch/bench.test" -test.run '^$' -test.bench "${BENCH:-.}" -test.benchmem \
    -test.count "${COUNT:-1}" -test.benchtime "${BENCHTIME:-1s}" -test.timeout 60m "${own[@]}"
done
