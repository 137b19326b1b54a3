package iptables

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// strangeState is a random State with actions that no Service's policies lead to today: all that the model can say.
func strangeState(t *testing.T, rng *rand.Rand, f proxy.Family) *proxy.State {
	t.Helper()
	s := proxytest.RandomState(rng, f, 20)
	node := *s.Node
	switch rng.IntN(4) {
	case 0: // pods in several prefixes
		node.LocalPods = proxy.LocalPods{Prefixes: nil}
		for _, p := range proxytest.Of(f, proxytest.Addressing().PodCIDRs) {
			halves := netip.PrefixFrom(p.Addr(), p.Bits()+1)
			node.LocalPods.Prefixes = append(node.LocalPods.Prefixes, halves)
		}
		other := netip.MustParsePrefix(map[proxy.Family]string{proxy.IPv4: "192.168.50.101/32", proxy.IPv6: "fd50::101/128"}[f])
		node.LocalPods.Prefixes = append(node.LocalPods.Prefixes, other)
		slices.SortFunc(node.LocalPods.Prefixes, netip.Prefix.Compare)
	case 1:
		node.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix(map[proxy.Family]string{proxy.IPv4: "10.96.0.0/25", proxy.IPv6: "fd00:10:96::/121"}[f])}
	case 2:
		node.LocalPods = proxy.LocalPods{Prefixes: everywhere(f)}
	}
	s.Node = &node
	for name, old := range s.Services.All() {
		service := *old
		service.Frontends = slices.Clone(old.Frontends)
		used := [2]bool{}
		for i := range service.Frontends {
			for o := range service.Frontends[i].Actions {
				a := strangeAction(rng, old)
				if service.Frontends[i].Actions[o] = a; a.Verdict == proxy.Forward {
					used[a.Pool] = true
				}
			}
			if rng.IntN(6) == 0 {
				service.Frontends[i].AllowedSources = proxytest.Of(f, []netip.Prefix{
					netip.MustParsePrefix("192.168.50.96/29"), netip.MustParsePrefix("10.244.1.0/30"), netip.MustParsePrefix("fd50::100/127"),
				})
				slices.SortFunc(service.Frontends[i].AllowedSources, netip.Prefix.Compare)
			}
		}
		if !used[proxy.Cluster] {
			service.Cluster = nil
		}
		if !used[proxy.Local] {
			service.Local = nil
		}
		s.Services = s.Services.Set(name, &service)
	}
	if err := proxytest.Check(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// everywhere is all addresses.
func everywhere(f proxy.Family) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(in(f, "0.0.0.0/0", "::/0"))}
}

func strangeAction(rng *rand.Rand, s *proxy.Service) proxy.Action {
	switch n := rng.IntN(6); {
	case n < 2 && len(s.Cluster) > 0:
		return proxy.Action{Masquerade: rng.IntN(2) == 0}
	case n < 4 && len(s.Local) > 0:
		return proxy.Action{Pool: proxy.Local, Masquerade: rng.IntN(2) == 0}
	case n == 4:
		return proxy.Action{Verdict: proxy.Drop}
	}
	return proxy.Action{Verdict: proxy.Reject}
}

// Every combination of actions that the model can express does what the tracer says, and changes into every other.
func TestStrangeActions(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1e9) + 1
	}
	t.Logf("to repeat: -run 'TestStrangeActions$' -random.seed=%d -random.steps=%d", first, *steps)
	eachVariant(t, func(t *testing.T, o Options) {
		t.Parallel()
		n := newNode(t, o)
		// What leaves the node untranslated is answered outside, so that it can be told from what is dropped.
		if err := errors.Join(n.ServeEndpoints(), n.CatchStrays(80, 443, 53)); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(first, uint64(o.Family)+10))
		for range *steps {
			n.follows(strangeState(t, rng, o.Family), rng)
		}
	})
}

// In memory, changes between such States end in what a rebuild makes.
func TestStrangeWalk(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 4))
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	var last *proxy.State
	for step := range 60 {
		state := strangeState(t, rng, proxy.IPv4)
		if last != nil {
			state.Node = last.Node
			for name, s := range last.Services.All() {
				if free(state, s) && rng.IntN(2) == 0 {
					state.Services = state.Services.Set(name, s)
				}
			}
		}
		if _, err := b.Apply(t.Context(), state); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if want, got := fresh(t, state), k.dump(b.rules); !slices.Equal(want, got) {
			t.Fatalf("step %d: want\n%q\ngot\n%q", step, want, got)
		}
		last = state
	}
}

// free tells that nobody else has a frontend of a Service.
func free(s *proxy.State, service *proxy.Service) bool {
	for _, other := range s.Services.All() {
		for i := range other.Frontends {
			for j := range service.Frontends {
				if other.Key(&other.Frontends[i]) == service.Key(&service.Frontends[j]) {
					return false
				}
			}
		}
	}
	return true
}
