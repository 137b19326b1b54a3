#!/usr/bin/env bash
# Builds both targets of the Dockerfile without any network, and tests what came out. For Debian as root, with Go: Docker is taken from
# Debian's packages, which are unpacked and not installed, and its daemon runs in a network namespace of its own. The bases are
# made on the spot: this machine's Go with a busybox, and a Debian by debootstrap. Everything stays below bin/image. It takes five to
# ten minutes on two processors.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

skip() {
  echo "the image is not built here: $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}
[ "$(id -u)" -eq 0 ] || skip "that needs root, for a Docker daemon of its own"
command -v apt-get dpkg >/dev/null || skip "that needs Debian, for a Docker of a known version"

work=$PWD/bin/image
tools=$work/tools
mkdir -p "$work"
run=$(mktemp -d /tmp/turnout-docker-XXXXXX) # short: the path of a Unix socket may have 107 bytes
# shellcheck disable=SC2317 # the trap calls it
finish() {
  if [ -f "$run/pid" ]; then
    kill "$(cat "$run/pid")" || true
    for _ in $(seq 100); do [ -f "$run/pid" ] || break; sleep 0.1; done
  fi
  awk -v dir="$run/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l
  rm -rf "$run"
}
trap finish EXIT

if [ ! -x "$tools/usr/sbin/dockerd" ]; then
  echo "== Docker, debootstrap and busybox from Debian's packages"
  mkdir "$run/debs"
  apt-get update -qq
  (cd "$run/debs" && apt-get download -qq -o APT::Sandbox::User=root docker.io containerd runc tini libdevmapper1.02.1 libseccomp2 debootstrap busybox-static)
  for deb in "$run"/debs/*.deb; do dpkg -x "$deb" "$tools"; done
fi
export PATH=$tools/usr/sbin:$tools/usr/bin:$PATH DEBOOTSTRAP_DIR=$tools/usr/share/debootstrap
LD_LIBRARY_PATH=$(printf '%s:' "$tools"/lib/*-linux-gnu "$tools"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
export DOCKER_HOST=unix://$run/sock DOCKER_BUILDKIT=1

if [ ! -f "$work/debian.tar" ]; then
  echo "== a Debian with iptables, by debootstrap"
  debootstrap --variant=minbase --include=iptables bookworm "$run/debian" >"$work/debootstrap.log" ||
    { tail -n 5 "$work/debootstrap.log"; exit 1; }
  rm -rf "$run"/debian/var/cache/apt/archives/*.deb "$run"/debian/var/lib/apt/lists/*
  tar -C "$run/debian" -cf "$work/debian.tar.new" . && mv "$work/debian.tar.new" "$work/debian.tar"
  rm -rf "$run/debian"
fi

echo "== a Docker daemon in a network namespace of its own"
unshare --net dockerd --host "$DOCKER_HOST" --data-root "$work/docker" --exec-root "$run/exec" --pidfile "$run/pid" \
  --iptables=false --ip6tables=false --ip-forward=false --bridge=none >"$work/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker version --format 'Docker {{.Server.Version}}' || { tail -n 5 "$work/dockerd.log"; exit 1; }

go=$(go env GOROOT)
mkdir -p "$run/go/bin" "$run/go/usr/local" "$run/go/tmp"
cp "$tools/bin/busybox" "$run/go/bin/busybox"
for applet in sh mkdir ln; do ln -s busybox "$run/go/bin/$applet"; done
ln -s "$go" "$run/go/usr/local/go" # tar follows it
tar -C "$run/go" -c --exclude=./usr/local/go/test --exclude=./usr/local/go/api --exclude=./usr/local/go/doc -h . |
  docker import --change 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local' - turnout-base-go >/dev/null
docker import "$work/debian.tar" turnout-base-debian >/dev/null

echo "== docker build, without network"
mkdir "$run/context"
git ls-files -co --exclude-standard | grep -v '^e2e/cluster/' | tar -c -T - | tar -x -C "$run/context"
go mod vendor -o "$run/context/vendor"
for target in nftables iptables; do
  docker build --quiet --network none --target "$target" --tag "turnout-under-test" --build-arg GO_IMAGE=turnout-base-go \
    --build-arg DEBIAN_IMAGE=turnout-base-debian ${LDFLAGS:+--build-arg LDFLAGS="$LDFLAGS"} "$run/context" >/dev/null
  docker save --output "$work/$target.tar" turnout-under-test
  printf '%s: %s MB, compressed %s MB\n' "$target" $(($(docker image inspect --format '{{.Size}}' turnout-under-test) / 1000000)) \
    $(($(gzip -c "$work/$target.tar" | wc -c) / 1000000))
done
docker image prune --force >/dev/null

echo "== tests"
status=0
go test -count=1 -v ./e2e/image -args -archive "$work/nftables.tar" -iptables-archive "$work/iptables.tar" | tee "$run/tests" || status=$?
count() { grep -cE "^--- $1" "$run/tests" || true; }
echo "$(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped"
exit "$status"
