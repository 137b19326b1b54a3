#!/usr/bin/env bash
# Runs the tests of e2e/cluster/compare: bin/turnout, or $BINARY, beside the real kube-proxy, with the objects of one real control plane.
# Builds kube-proxy and the control plane first where they are missing, and as root on Debian installs the programs that kube-proxy runs.
# Arguments are passed to go test; those after -args to the tests, such as -random.cases=2000. The last line is always
# "N passed, N failed, N skipped"; the exit status says the same.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
binary=$(realpath "${BINARY:-bin/turnout}")

hack/packages.sh nft=nftables iptables=iptables ipset=ipset
hack/e2e-programs.sh kube-proxy || { echo "the programs could not be built"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
folder=$(realpath "${E2E_BIN:-bin/e2e}")

# What an interrupted test leaves goes, too: programs end with the test's process, but their files do not.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

tests=()
while [ $# -gt 0 ] && [ "$1" != -args ]; do
  [ -z "$1" ] || tests+=("$1")
  shift
done
[ $# -eq 0 ] || shift
FORMAT=testname hack/gotestsum.sh e2e/cluster 0 -timeout 20m "${tests[@]}" ./compare \
  -args -binaries "$folder" -binary "$binary" -kube-proxy "$folder/kube-proxy" "$@"
