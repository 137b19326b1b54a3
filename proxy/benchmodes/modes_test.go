package benchmodes

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/iptables"
	"turnout/proxy/ipvs"
	"turnout/proxy/nftables"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
)

// A mode is one way to program the kernel.
type mode struct {
	name string
	open func(ctx context.Context) (proxy.Backend, error)
}

// modes are all modes, that of iptables with the programs of both variants. The others are compared with the first.
var modes = []mode{
	{"nftables", func(context.Context) (proxy.Backend, error) {
		return nftables.New(nftables.Options{Family: proxy.IPv4})
	}},
	{"iptables-nft", func(ctx context.Context) (proxy.Backend, error) { return openIptables(ctx, iptables.NFT) }},
	{"iptables-legacy", func(ctx context.Context) (proxy.Backend, error) { return openIptables(ctx, iptables.Legacy) }},
	{"ipvs", func(context.Context) (proxy.Backend, error) {
		return ipvs.New(ipvs.Options{Family: proxy.IPv4, Sysctl: node.Proc("/proc")})
	}},
}

func openIptables(ctx context.Context, v iptables.Variant) (proxy.Backend, error) {
	return iptables.New(ctx, iptables.Options{Family: proxy.IPv4, Variant: v})
}

// A room is a mode in a network namespace of its own.
type room struct {
	name      string
	backend   proxy.Backend
	namespace *os.File
}

// inRooms opens those modes that the machine can have and calls fn with them; missing says why others are not there. The calling goroutine must stay on its thread.
func inRooms(ctx context.Context, t proxytest.T, modes []mode, fn func(rooms []*room, missing []error)) {
	var enter func(rooms []*room, missing []error, n int)
	enter = func(rooms []*room, missing []error, n int) {
		if n == len(modes) {
			fn(rooms, missing)
			return
		}
		proxytest.InNamespace(t, func() {
			ns, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				t.Fatalf("%v", err)
			}
			defer ns.Close()
			b, err := modes[n].open(ctx)
			if err != nil {
				enter(rooms, append(missing, fmt.Errorf("%s: %w", modes[n].name, err)), n+1)
				return
			}
			enter(append(rooms, &room{modes[n].name, b, ns}), missing, n+1)
		})
	}
	enter(nil, nil, 0)
}

// apply makes the room's kernel follow a State.
func (r *room) apply(ctx context.Context, s *proxy.State) error {
	if err := unix.Setns(int(r.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the namespace of %s: %w", r.name, err)
	}
	report, err := r.backend.Apply(ctx, s)
	if err == nil && len(report.Rejected) > 0 {
		err = errors.New("a Service was refused")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// with is a State with one Service in place of the one of that name, or beside the others.
func with(s *proxy.State, service *proxy.Service) *proxy.State {
	next := *s
	next.Services = s.Services.Set(service.Name, service)
	return &next
}
