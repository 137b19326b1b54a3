# The image of Turnout. The default target has one static program and nothing else:
#
#   docker build --tag turnout .
#   docker build --tag turnout:iptables --target iptables .
#
# It needs BuildKit (Docker 23 has it by default; DOCKER_BUILDKIT=1 before). GO_IMAGE and DEBIAN_IMAGE may be images of your own that
# have Go and, for the target iptables, Debian. With a folder vendor in the context nothing is downloaded: hack/image.sh builds
# that way, without any network.
ARG GO_IMAGE=golang:1.26
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETOS
ARG TARGETARCH
# make image passes those of make build, which have the version in them.
ARG LDFLAGS="-s -w"
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    mkdir -p /image/usr/local/bin && \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "$LDFLAGS" -o /image/usr/local/bin/turnout ./cmd/turnout && \
    ln -s turnout /image/usr/local/bin/kube-proxy

# For mode iptables, which runs iptables-restore: Debian's, in both variants, nft and legacy.
FROM ${DEBIAN_IMAGE} AS iptables
RUN command -v iptables-nft iptables-legacy >/dev/null || \
    { apt-get update -q && apt-get install -qy --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /image/ /
ENTRYPOINT ["/usr/local/bin/turnout"]

FROM scratch AS nftables
COPY --from=build /image/ /
ENTRYPOINT ["/usr/local/bin/turnout"]
