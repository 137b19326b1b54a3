#!/usr/bin/env bash
# Checks what is in manifests/: alerts and dashboard with promtool, and everything else against the real API server if hack/e2e-programs.sh
# has built one. promtool is taken from Debian's package prometheus, which is unpacked and not installed, if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! PROMTOOL=$(command -v promtool); then
  PROMTOOL=$PWD/bin/promtool
  if [ ! -x "$PROMTOOL" ] && command -v apt-get dpkg >/dev/null; then
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    mkdir -p bin
    (cd "$download" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && cp usr/bin/promtool "$PROMTOOL") ||
      echo "note: Debian's package prometheus cannot be had, so without promtool the alerts are not tested"
  fi
fi
[ -x "$PROMTOOL" ] && export PROMTOOL

status=0
go test -count=1 "$@" ./manifests || status=1
folder=${E2E_BIN:-bin/e2e}
if [ -x "$folder/kube-apiserver" ]; then
  folder=$(realpath "$folder")
  binary=$(realpath "${BINARY:-bin/turnout}")
  (cd e2e/cluster && go test -count=1 "$@" ./manifests -args -binaries "$folder" -binary "$binary") || status=1
else
  echo "note: no API server to try the manifests with; hack/e2e-programs.sh builds it"
fi
exit "$status"
