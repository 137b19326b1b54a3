#!/usr/bin/env bash
# Runs the tests of e2e/cluster: bin/turnout, or $BINARY, on a node of a lab with a real Kubernetes control plane. Builds the control
# plane first where it is missing, and as root on Debian installs the programs that the documentation uses. PKGS narrows the packages,
# arguments are passed to go test. The last line is always "N passed, N failed, N skipped"; the exit status says the same.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
binary=$(realpath "${BINARY:-bin/turnout}")

hack/packages.sh nft=nftables iptables=iptables conntrack=conntrack curl=curl
hack/e2e-programs.sh || { echo "the control plane could not be built"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
folder=$(realpath "${E2E_BIN:-bin/e2e}")

# What an interrupted test leaves goes, too: programs end with the test's process, but their files do not.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# Most of the time is spent waiting, so more tests run at a time than there are cores.
read -ra packages <<<"${PKGS:-./plane . ./manifests}"
FORMAT=testname hack/gotestsum.sh e2e/cluster 0 -timeout 15m -parallel 6 "${packages[@]}" "$@" -args -binaries "$folder" -binary "$binary"
