#!/usr/bin/env bash
# Runs go test in a folder: hack/gotestsum.sh FOLDER FAILED go-test-arguments…, where FAILED counts what failed before. Prints one line
# for each package and, at the end, the output of failed and skipped tests. The last line is always "N passed, N failed, N skipped"; the
# exit status says the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1 before=$2
shift 2

gotestsum=$(cd "$here/.." && go tool -modfile=hack/tools/go.mod -n gotestsum)
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
status=0
cd "$folder"
# Results are never taken from the cache: it does not know what they owe to the kernel and to the programs installed.
"$gotestsum" --format "${FORMAT:-pkgname}" --format-icons text --format-hide-empty-pkg \
  --jsonfile-timing-events "$results/events" --post-run-command "$here/counts.sh $results/counts" -- -count=1 "$@" || status=$?

# A package that does not build or dies outside a test counts as one failure.
touch "$results/events" "$results/counts"
passed=$(grep -c '"Action":"pass".*"Test":' "$results/events") || true
read -r failed skipped <"$results/counts" || { failed=1 skipped=0; }
echo "$passed passed, $((failed + before)) failed, $skipped skipped"
[ "$status" -eq 0 ] && [ "$before" -eq 0 ]
