#!/usr/bin/env bash
# Builds the programs of a Kubernetes control plane, and further ones named as arguments (such as kube-proxy), into bin/e2e, or into
# $E2E_BIN: static, stamped with their version, at the versions that e2e/cluster/go.mod has. One that is there in that version stays.
# From cold caches that takes about ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${E2E_BIN:-bin/e2e}"
folder=$(cd "${E2E_BIN:-bin/e2e}" && pwd)
cd e2e/cluster
export CGO_ENABLED=0

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean"

build() {
  local name=$1 package=$2 module=$3 want
  want="$(go list -m -f '{{.Version}}' "$module") $(go env GOVERSION)"
  # What the program itself says: its module's version and the compiler's.
  if [ "$(go version -m "$folder/$name" 2>/dev/null | awk -v m="$module" 'NR == 1 {go = $NF} ($1 == "mod" || $1 == "dep") && $2 == m {print $3, go}')" = "$want" ]; then
    return
  fi
  local start=$SECONDS
  echo "building $name ${want% *}"
  go build -trimpath -buildvcs=false -ldflags "$flags" -o "$folder/$name.new" "$package"
  mv "$folder/$name.new" "$folder/$name"
  echo "built $name in $((SECONDS - start)) s"
}

build etcd go.etcd.io/etcd/server/v3 go.etcd.io/etcd/server/v3
for name in kube-apiserver kube-controller-manager "$@"; do
  build "$name" "k8s.io/kubernetes/cmd/$name" k8s.io/kubernetes
done
