#!/usr/bin/env bash
# Runs the tests that need a kernel on kernels other than this machine's, in virtual machines (hack/vm.sh), one after the other. With
# SHORT=1 only the most telling part, on one kernel: SHORT=beside what may run beside other work, SHORT=alone the rest, in which no client
# must notice anything, whatever keeps the processors of the emulated machine waiting. KERNELS chooses others. The last line is "N passed, N failed, N skipped", and the
# exit status says the same. Where there can be no virtual machine, everything is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0 slow=4 # the processor is emulated

count() { grep -cE "^ *--- $1: " "$scratch/log" || true; }

skip() { # KERNEL NAME WHY
  skipped=$((skipped + 1))
  printf '%-7s %-36s skipped: %s\n' "$1" "$2" "$3"
}

# run NAME KERNEL SECONDS [vm.sh option...] -- PROGRAM [ARG...]
run() {
  local name=$1 kernel=$2 limit=$3 options=() status=0 start=$SECONDS lost
  shift 3
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  hack/vm.sh -k "$kernel" -t "$limit" "${options[@]}" "$@" -test.v >"$scratch/log" 2>&1 || status=$?
  if [ "$status" -eq 126 ]; then
    skip "$kernel" "$name" "$(grep -E '^vm: ' "$scratch/log" | tail -n 1)"
    return
  fi
  lost=$(count FAIL)
  # A machine that ended without a failed test counts as one, and so does one that ran none.
  if [ "$status" -ne 0 ] || [ $(($(count PASS) + $(count SKIP))) -eq 0 ]; then
    [ "$lost" -gt 0 ] || lost=1
  fi
  passed=$((passed + $(count PASS))) failed=$((failed + lost)) skipped=$((skipped + $(count SKIP)))
  printf '%-7s %-36s %4d passed %3d failed %3d skipped %4ds\n' "$kernel" "$name" "$(count PASS)" "$lost" "$(count SKIP)" $((SECONDS - start))
  if [ "$lost" -gt 0 ]; then
    # What tests say comes last: it is what the end of a long log must show, and the log of a proxy may stand between it and the end of its own.
    grep -vE '^ *(=== |--- PASS)' "$scratch/log" | tail -n 40 || true
    echo "what the tests said:"
    grep -E '^ +[a-z_]+_test\.go:[0-9]+: ' "$scratch/log" | grep -v ': log of the proxy' | tail -n 20 || true
    grep -E '^ *--- FAIL: ' "$scratch/log" || true
  fi
  sed -nE 's/^ *--- SKIP: ([^ ]+).*/        skipped \1/p' "$scratch/log"
}

# possible tells whether there can be a machine with the kernel.
possible() {
  local status=0
  hack/vm.sh -k "$1" -t 120 "$(type -P true)" >"$scratch/log" 2>&1 || status=$?
  [ "$status" -ne 126 ] || skip "$1" everything "$(grep -E '^vm: ' "$scratch/log" | tail -n 1)"
  export NO_INSTALL="not tried again" # each time would take its time
  [ "$status" -ne 126 ]
}

# build makes what runs in the machines, once.
build() {
  [ ! -e "$scratch/turnout" ] || return 0
  local package
  for package in proxy/nftables proxy/node proxy/leftovers proxy/ipvs proxy/preflight e2e; do
    CGO_ENABLED=0 nice go test -c -o "$scratch/${package//\//-}.test" "./$package"
  done
  CGO_ENABLED=0 nice go build -trimpath -ldflags '-s -w' -o "$scratch/turnout" ./cmd/turnout
}

nftables() { run "mode nftables" "$1" 900 -C proxy/nftables -- "$scratch/proxy-nftables.test" -test.run "$2"; }

# e2e NAME KERNEL SECONDS [vm.sh option...] -- [ARG...] runs tests of the built binary.
e2e() {
  local arguments=("$1" "$2" "$3" -m 3000 -C e2e -f "$scratch/turnout")
  shift 3
  while [ "$1" != -- ]; do arguments+=("$1"); shift; done
  shift
  run "${arguments[@]}" -- "$scratch/e2e.test" -binary "$scratch/turnout" -slow "$slow" -test.timeout 30m "$@"
}

# packets KERNEL compares what becomes of packets in mode nftables with what the tracer says.
packets() { run "mode nftables, traffic" "$1" 1800 -C proxy/nftables -- "$scratch/proxy-nftables.test" -test.run '^TestTraffic$' -slowly; }

# flows KERNEL fills the table of tracked connections, which is the machine's.
flows() {
  run "full table of connections" "$1" 300 -- "$scratch/proxy-node.test" -test.run FlowTable -flowtable.fill
  e2e "full table of connections, packets" "$1" 900 -- -test.run '^TestFullFlowTable$' -flows.fill
}

hitless() {
  e2e "mode nftables, hitless" "$1" 900 -- -test.run 'TestHitless(Endpoints|Rebuild|Proxy)'
  e2e "mode iptables, hitless" "$1" 900 -- -mode iptables-nft -test.run TestHitlessProxy
}

# 5.10 does not load IPVS when it is asked for its netlink family. And a network namespace that used IPVS may never end there; loading a scheduler then waits
# for it without end.
modules() { [ "$1" != 5.10 ] || echo -l ip_vs -l ip_vs_rr; }

ipvs() {
  local arguments=()
  [ "$1" != 5.10 ] || arguments=(-test.skip TestKernelOptions)
  # shellcheck disable=SC2046
  run "mode ipvs" "$1" 900 $(modules "$1") -- "$scratch/proxy-ipvs.test" -test.run "$2" "${arguments[@]}"
}

# traffic KERNEL ARG... sends packets through the built binary in mode ipvs.
traffic() {
  # shellcheck disable=SC2046
  e2e "mode ipvs, traffic" "$1" 1800 $(modules "$1") -- -mode ipvs "${@:2}"
}

switches() {
  # shellcheck disable=SC2046
  e2e "mode ipvs, losses and changes" "$1" 1200 $(modules "$1") -- -test.run "$2"
}

# kills KERNEL has the proxy killed anywhere, take over from kube-proxy, and change between all modes, with mode ipvs as one of them.
kills() {
  # shellcheck disable=SC2046
  e2e "kills and changes, all modes" "$1" 2400 $(modules "$1") -- -killed.times 30 \
    -test.run '^(TestSwitchModes|TestSwitchBack|TestTakeOverEach|TestMixedModes|TestKilledAnywhere)$'
}

leftovers() {
  run "leftovers of other modes" "$1" 600 -l ip_vs -- "$scratch/proxy-leftovers.test" -test.skip 'TestKernelRemoveMany|TestKernelRemoveBeside'
}

# preflight KERNEL looks at a node whose kernel has loaded nothing yet, which it must leave so; preflight_loaded at one
# that has loaded everything, so that modes are tried.
preflight() { run "preflight" "$1" 300 -- "$scratch/proxy-preflight.test" -test.run 'Kernel(ReadOnly|Trials|Counted)'; }

preflight_loaded() {
  local module options=()
  for module in nft_{chain_nat,ct,masq,nat,numgen,reject_ipv4,reject_ipv6,fib_ipv4,fib_ipv6,compat} ip_vs ip_vs_rr dummy \
    xt_{comment,conntrack,addrtype,statistic,recent,mark,nat,MASQUERADE,tcpudp,sctp,nfacct} ipt_REJECT ip6t_REJECT nfnetlink_acct; do
    options+=(-l "$module")
  done
  run "preflight, modules loaded" "$1" 300 "${options[@]}" -- "$scratch/proxy-preflight.test" -test.run 'Kernel(ReadOnly|Trials)'
}

short_beside() {
  preflight "$1"
  nftables "$1" 'TestKernelWalk|TestKernelGate'
  ipvs "$1" 'TestKernelHeal|TestKernelGraceful|TestKernelAwait'
  leftovers "$1"
  traffic "$1" -test.run '^(TestTraffic|TestHairpin)$'
  flows "$1"
}

short_alone() { switches "$1" '^(TestHealIPVS|TestSwitchIPVS)$'; }

full() {
  preflight "$1"
  preflight_loaded "$1"
  nftables "$1" Kernel
  packets "$1"
  flows "$1"
  hitless "$1"
  ipvs "$1" Kernel
  [ "$1" != 6.1 ] || { leftovers "$1" && kills "$1"; }
  traffic "$1" -traffic
  switches "$1" 'Test(Heal|Switch|Cleanup)IPVS'
}

kernels=${KERNELS:-5.10 6.1 6.12 newest}
[ -z "${SHORT:-}" ] || kernels=${KERNELS:-6.1}
for kernel in $kernels; do
  possible "$kernel" || continue
  build
  case "${SHORT:-}" in
  "") full "$kernel" ;;
  beside) short_beside "$kernel" ;;
  alone) short_alone "$kernel" ;;
  *) short_beside "$kernel" && short_alone "$kernel" ;;
  esac
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
