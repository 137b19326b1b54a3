SHELL := /bin/bash
.DEFAULT_GOAL := help

# The metrics registry of component-base refuses a version that is not vX.Y.Z…, so a tree without a tag gets v0.0.0-g<commit>.
COMMIT    := $(or $(shell git rev-parse -q --verify HEAD 2>/dev/null),unknown)
VERSION   ?= $(or $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null),v0.0.0-$(or $(patsubst %,g%,$(shell git rev-parse -q --verify --short HEAD 2>/dev/null)),unknown))
TREE      := $(if $(shell git status --porcelain 2>/dev/null),dirty,clean)
DATE      := $(or $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null),1970-01-01T00:00:00Z)
PKG       := k8s.io/component-base/version
LDFLAGS   := -s -w -X $(PKG).gitVersion=$(VERSION) -X $(PKG).gitCommit=$(COMMIT) -X $(PKG).gitTreeState=$(TREE) -X $(PKG).buildDate=$(DATE)

.PHONY: help build test lint bench demo golden fuzz clean image image-test manifests

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the static binary bin/turnout
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/turnout ./cmd/turnout

test: ## go vet, then every test under the race detector (ARGS: more go test flags)
	@hack/test.sh $(ARGS)

lint: ## golangci-lint, with the import walls and size limits of .golangci.yml
	CGO_ENABLED=0 go tool -modfile=hack/tools/go.mod golangci-lint run $(or $(ARGS),./...)
	$(if $(ARGS),,cd e2e/cluster && CGO_ENABLED=0 $$(cd ../.. && CGO_ENABLED=0 go tool -modfile=hack/tools/go.mod -n golangci-lint) run)

.PHONY: e2e
e2e: build ## run bin/turnout on a node of a cluster with a real control plane (ARGS: more go test flags); the first time builds that
	@hack/e2e.sh $(ARGS)

.PHONY: e2e-compare
e2e-compare: build ## run bin/turnout beside the real kube-proxy, with the same objects and packets (ARGS='-args -random.cases=1000' for more)
	@hack/e2e-compare.sh $(ARGS)

.PHONY: test-kernels
test-kernels: ## run the kernel tests on other kernels, in virtual machines (SHORT=1: the most telling part; KERNELS: which)
	@hack/test-kernels.sh

bench: ## run the benchmarks (BENCH: pattern, PKGS: packages, COUNT: repetitions, ARGS: their own flags, VM: a kernel to run them on)
	@hack/bench.sh

demo: build ## show the proxy at work in network namespaces of its own
	@bin/turnout demo $(ARGS)

golden: ## rewrite the golden files from what the code does now; review the diff
	@hack/golden.sh

fuzz: ## run each fuzz target for a while (FUZZTIME: 30s each by default)
	@hack/fuzz.sh

image: ## build the container image (IMAGE: its name, TARGET: nftables or iptables; needs Docker)
	DOCKER_BUILDKIT=1 docker build --target $(or $(TARGET),nftables) --build-arg LDFLAGS='$(LDFLAGS)' --tag $(or $(IMAGE),turnout:$(VERSION)) .

image-test: export LDFLAGS := $(LDFLAGS)
image-test: ## build the image without network and run the demo's traffic through its container (root, on Debian)
	@hack/image.sh

manifests: build ## check manifests, alerts and dashboard
	@hack/manifests.sh

clean: ## remove what make built
	rm -rf bin
