#!/usr/bin/env bash
# Runs the tests that need a kernel on kernels other than this machine's, in virtual machines (hack/vm.sh), one after the other. With
# SHORT=1 only the most telling part, on one kernel. KERNELS chooses others. The last line is "N passed, N failed, N skipped", and the
# exit status says the same.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0

count() { grep -cE "^ *--- $1: " "$scratch/log" || true; }

# run NAME KERNEL SECONDS [vm.sh option...] -- PROGRAM [ARG...]
run() {
  local name=$1 kernel=$2 limit=$3 options=() status=0 start=$SECONDS lost
  shift 3
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  hack/vm.sh -k "$kernel" -t "$limit" "${options[@]}" "$@" -test.v >"$scratch/log" 2>&1 || status=$?
  if [ "$status" -eq 126 ]; then
    skipped=$((skipped + 1))
    printf '%-7s %-28s skipped: %s\n' "$kernel" "$name" "$(grep -E '^vm: ' "$scratch/log" | tail -n 1)"
    return
  fi
  lost=$(count FAIL)
  # A machine that ended without a failed test counts as one.
  [ "$status" -eq 0 ] || [ "$lost" -gt 0 ] || lost=1
  passed=$((passed + $(count PASS))) failed=$((failed + lost)) skipped=$((skipped + $(count SKIP)))
  printf '%-7s %-28s %4d passed %3d failed %3d skipped %4ds\n' "$kernel" "$name" "$(count PASS)" "$lost" "$(count SKIP)" $((SECONDS - start))
  if [ "$lost" -gt 0 ]; then
    grep -vE '^ *(=== |--- PASS)' "$scratch/log" | tail -n 60 || true
  fi
  sed -nE 's/^ *--- SKIP: ([^ ]+).*/        skipped \1/p' "$scratch/log"
}

# test_of PACKAGE builds the static test binary of a package.
test_of() { CGO_ENABLED=0 nice go test -c -o "$scratch/${1//\//-}.test" "./$1"; }

nftables() { run "mode nftables" "$1" 900 -C proxy/nftables -- "$scratch/proxy-nftables.test" -test.run "$2"; }

hitless() {
  run "mode nftables, hitless" "$1" 600 -C e2e -f "$scratch/turnout" -- "$scratch/e2e.test" -test.run 'TestHitlessEndpoints|TestHitlessRebuild' \
    -hitless.for 2s -binary "$scratch/turnout"
}

leftovers() {
  run "leftovers of other modes" "$1" 600 -l ip_vs -- "$scratch/proxy-leftovers.test" -test.skip 'TestKernelRemoveMany|TestKernelRemoveBeside'
}

# 5.10 does not load IPVS when it is asked for its netlink family. And a network namespace that used IPVS may never end there; loading a scheduler then waits
# for it without end.
ipvs() {
  local options=() arguments=()
  [ "$1" != 5.10 ] || { options=(-l ip_vs) arguments=(-test.skip TestKernelOptions); }
  run "mode ipvs" "$1" 900 "${options[@]}" -- "$scratch/proxy-ipvs.test" -test.run "$2" "${arguments[@]}"
}

test_of proxy/nftables
test_of proxy/leftovers
test_of proxy/ipvs
if [ -n "${SHORT:-}" ]; then
  for kernel in ${KERNELS:-6.1}; do
    nftables "$kernel" 'TestKernelWalk|TestKernelGate'
    ipvs "$kernel" 'TestKernelHeal|TestKernelGraceful'
    leftovers "$kernel"
  done
else
  test_of e2e
  CGO_ENABLED=0 nice go build -trimpath -o "$scratch/turnout" ./cmd/turnout
  for kernel in ${KERNELS:-5.10 6.1 6.12 newest}; do
    nftables "$kernel" Kernel
    hitless "$kernel"
    ipvs "$kernel" Kernel
    [ "$kernel" != 6.1 ] || leftovers "$kernel"
  done
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
