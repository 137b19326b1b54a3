#!/usr/bin/env bash
# Makes a kind cluster without kube-proxy, installs Turnout, runs the network tests of Kubernetes itself, and collects what came of it.
#
#   e2e/kind/run.sh [--dry-run] [--keep] [--results FOLDER] [--focus REGEX] [--skip REGEX] [--nodes N]
#
# Needs Docker, kind, kubectl, make, curl, tar and the Internet, from which the nodes get images and this script the test binaries of the
# cluster's version (E2E_BINARIES names a folder that has ginkgo and e2e.test already). KIND_IMAGE is the node image to use
# instead of kind's own. --dry-run prints the commands without running any. The exit status is that of the tests.
set -euo pipefail
cd "$(dirname "$0")/../.."

dry='' keep='' results=bin/kind nodes=4
focus='\[sig-network\]'
# What needs a cloud, several minutes alone on the cluster, or is not about Services.
skip='Feature|Federation|PerformanceDNS|machinery|Disruptive|Serial|LoadBalancer|GCE|Netpol|NetworkPolicy'
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --keep) keep=1 ;;
    --results | --focus | --skip | --nodes)
      [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift
      ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' e2e/kind/run.sh >&2; exit 2 ;;
  esac
  shift
done

# The overlay and the names of kind's nodes agree on this name.
cluster=turnout
image=turnout:e2e
kubeconfig=$results/kubeconfig

# run prints a command and, unless this is a dry run, runs it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [ -n "$dry" ] || "$@"
}

# shell is run for what needs a pipe.
shell() {
  echo "+ $1"
  [ -n "$dry" ] || bash -o pipefail -euc "$1"
}

# shellcheck disable=SC2317 # the trap calls it
finish() {
  [ -n "$keep" ] || run kind delete cluster --name "$cluster"
}

need() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null 2>&1 || missing+=("$tool")
  done
  [ ${#missing[@]} -eq 0 ] || { echo "missing: ${missing[*]}" >&2; exit 1; }
}

[ -n "$dry" ] || need docker kind kubectl make curl tar
run mkdir -p "$results"

run make image IMAGE=$image
trap finish EXIT
run kind create cluster --config manifests/overlays/kind/cluster.yaml --kubeconfig "$kubeconfig" ${KIND_IMAGE:+--image "$KIND_IMAGE"}
run kind load docker-image $image --name $cluster
shell "kubectl kustomize manifests/overlays/kind | sed 's|image: turnout\$|image: $image|' | kubectl --kubeconfig $kubeconfig apply --server-side -f -"
run kubectl --kubeconfig "$kubeconfig" --namespace kube-system rollout status daemonset turnout --timeout 3m
run kubectl --kubeconfig "$kubeconfig" wait --for condition=Ready nodes --all --timeout 3m
# It reaches the API server at its ClusterIP: the first thing that needs a proxy.
run kubectl --kubeconfig "$kubeconfig" --namespace kube-system rollout status deployment coredns --timeout 3m

binaries=${E2E_BINARIES:-}
if [ -z "$binaries" ]; then
  binaries=$results/kubernetes/test/bin
  version=VERSION
  [ -n "$dry" ] || version=$(kubectl --kubeconfig "$kubeconfig" get --raw /version | sed -n 's/.*"gitVersion": "\([^"]*\)".*/\1/p')
  archive=kubernetes-test-linux-$(go env GOARCH).tar.gz
  for file in "$archive" "$archive.sha256"; do
    run curl --fail --silent --show-error --location --output "$results/$file" "https://dl.k8s.io/$version/$file"
  done
  shell "echo \"\$(cat $results/$archive.sha256)  $results/$archive\" | sha256sum --check --quiet"
  run tar --extract --file "$results/$archive" --directory "$results" kubernetes/test/bin
fi

status=0
run "$binaries/ginkgo" --nodes "$nodes" --focus "$focus" --skip "$skip" --no-color "$binaries/e2e.test" -- \
  --kubeconfig "$kubeconfig" --provider skeleton --num-nodes 2 --report-dir "$results" || status=$?

for node in $cluster-control-plane $cluster-worker $cluster-worker2; do
  for path in metrics debug/state; do
    shell "docker exec $node curl --silent --show-error http://127.0.0.1:10249/$path >$results/$node-${path//\//-}.txt" || true
  done
done
run kind export logs "$results/logs" --name "$cluster" || true
echo "results are in $results: junit*.xml of the tests, logs, and what each proxy said of itself"
exit "$status"
