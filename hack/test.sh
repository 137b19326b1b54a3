#!/usr/bin/env bash
# go vet, then every test: unit, golden, fuzz seeds and, where the machine allows, real packets in network namespaces.
# Arguments are passed to go test. The last line is always "N passed, N failed, N skipped"; the exit status says the same.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

hack/packages.sh nft=nftables iptables-nft-save=iptables ipset=ipset ip=iproute2 conntrack=conntrack strace=strace
for tool in nft ip conntrack strace; do
  command -v "$tool" >/dev/null 2>&1 || echo "note: without $tool the tests that look at the kernel through it are skipped"
done

if [ "$(id -u)" -ne 0 ]; then
  echo "note: not root: tests with network namespaces run in a user namespace, or are skipped where the kernel does not allow that"
fi

race=(-race)
cc=$(go env CC)
if [ "$(go env CGO_ENABLED)" != 1 ] || ! echo '#include <stdlib.h>' | "$cc" -E -x c - >/dev/null 2>&1; then
  race=()
  export CGO_ENABLED=0
  echo "note: the race detector needs cgo, and a working C compiler ($cc) with libc's headers: running without -race"
fi

echo "go vet ./..."
vet=0
go vet ./... || vet=1

[ "$vet" -eq 0 ] || echo "go vet failed: its findings are above"
hack/gotestsum.sh . "$vet" "${race[@]}" -timeout 20m "$@" ./...
