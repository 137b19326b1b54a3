package iptables

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// fresh is what a node holds that is given a State at once.
func fresh(t *testing.T, s *proxy.State) []string {
	t.Helper()
	k := newFakeKernel()
	b := newBackend(Options{Family: s.Family}, k)
	if _, err := b.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return k.dump(b.rules)
}

// From any State to any other, changes lead to what a rebuild makes; the same State again leads to nothing.
func TestWalk(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(f)))
			k := newFakeKernel()
			b := newBackend(Options{Family: f}, k)
			state := proxytest.RandomState(rng, f, 30)
			full := 0
			for step := range 100 {
				if step%10 == 9 {
					b.Forget()
				}
				k.size = []int{0, 7}[step/10%2] // rebuilds in several steps must end in the same
				before := k.scripts
				r, err := b.Apply(t.Context(), state)
				if err != nil || len(r.Rejected) > 0 {
					t.Fatalf("step %d: %+v, %v", step, r, err)
				}
				if r.Full {
					full++
				}
				if n := k.scripts - before; n > 1 && k.size == 0 {
					t.Fatalf("step %d: %d scripts, want at most one", step, n)
				}
				if diff := cmp.Diff(fresh(t, state), k.dump(b.rules)); diff != "" {
					t.Fatalf("step %d: -rebuilt +changed:\n%s", step, diff)
				}
				if diff := cmp.Diff(k.sizes(), sizesOf(r)); diff != "" {
					t.Fatalf("step %d: numbers of rules: -there +reported:\n%s", step, diff)
				}
				if r, err := b.Apply(t.Context(), state); err != nil || r.Operations > 0 || r.Full {
					t.Fatalf("step %d: the same State again: %+v, %v", step, r, err)
				}
				state = proxytest.Mutate(rng, state, 1+rng.IntN(1+step%20))
			}
			if full > 50 {
				t.Errorf("%d of 100 steps were rebuilds", full)
			}
		})
	}
}

// The rules of a restricted frontend stand in their order, whatever was there before.
func TestOrderInSharedChains(t *testing.T) {
	at := func(allowed ...string) *proxy.Service {
		return proxytest.NewService("ns/web/TCP", proxytest.At(proxy.LoadBalancerIP, "192.168.60.1:80", proxytest.RejectAll, allowed...))
	}
	lists := [][]string{{"10.0.0.0/8"}, {"10.0.0.0/8", "172.16.0.0/12"}, {"172.16.0.0/12"}, {"1.0.0.0/8", "10.0.0.0/8"}}
	for _, from := range lists {
		for _, to := range lists {
			k := newFakeKernel()
			b := newBackend(Options{Family: proxy.IPv4}, k)
			for _, list := range [][]string{from, to} {
				if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, at(list...))); err != nil {
					t.Fatal(err)
				}
			}
			rules := k.tables[filter][firewallChain]
			if n := len(to) + 2; len(rules) != n || !strings.HasSuffix(rules[n-1], "-j DROP") {
				t.Errorf("from %v to %v: %q", from, to, rules)
			}
		}
	}
}

// A connection that is not translated meets a rule of table filter at every moment, while its frontend comes to be served or no longer is.
func TestNoGapBetweenTables(t *testing.T) {
	served := proxytest.NewService("ns/web/TCP", proxytest.At(proxy.LoadBalancerIP, "192.168.60.1:80", proxytest.External), proxytest.On("10.244.2.2:80"))
	refused := proxytest.NewService("ns/web/TCP", proxytest.At(proxy.LoadBalancerIP, "192.168.60.1:80", proxytest.RejectAll))
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	known := func(table, chain string) bool {
		return slices.ContainsFunc(k.tables[table][chain], func(r string) bool { return strings.HasPrefix(r, "-d 192.168.60.1/32") })
	}
	for step := range 6 {
		s := served
		if step%2 == 1 {
			s = refused
		}
		if step > 0 {
			k.seen = func() {
				if !known(nat, servicesChain) && !known(filter, externalServicesChain) {
					t.Errorf("step %d: neither table knows the address", step)
				}
			}
		}
		if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, s)); err != nil {
			t.Fatal(err)
		}
	}
}

// Work is in proportion to what changed: an endpoint is two chains, and the rules of many other Services stay where they are.
func TestWorkOfAChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 4))
	state := proxytest.RandomState(rng, proxy.IPv4, 200)
	web := func(endpoints ...string) *proxy.Service {
		actions := proxytest.Internal
		if len(endpoints) == 0 {
			actions = proxytest.RejectAll
		}
		return proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ClusterIP, "10.96.200.1:80", actions), proxytest.On(endpoints...))
	}
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	for i, row := range []struct {
		service *proxy.Service
		most    int
	}{{nil, 1 << 20}, {web("10.244.2.2:80"), 8}, {web("10.244.2.2:80", "10.244.2.3:80"), 8}, {web("10.244.2.3:80"), 8}, {web(), 8}} {
		if row.service != nil {
			state.Services = state.Services.Set(row.service.Name, row.service)
		}
		next := *state
		r, err := b.Apply(t.Context(), &next)
		if err != nil {
			t.Fatal(err)
		}
		if r.Operations == 0 || r.Operations > row.most || r.Full != (i == 0) {
			t.Errorf("step %d: %+v, want at most %d operations", i, r, row.most)
		}
	}
}

// A Service that is refused is left out, and the others are programmed; it is tried again later, and when it changes.
func TestRefusedService(t *testing.T) {
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	now := time.Unix(0, 0)
	b.now = func() time.Time { return now }
	bad := proxytest.NewService("ns/bad/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.66:80", proxytest.Internal), proxytest.On("10.244.2.66:80"))
	good := proxytest.NewService("ns/good/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On("10.244.2.2:80"))
	state := proxytest.NewState(proxy.IPv4, bad, good)
	k.refuse = func(l string) bool { return strings.Contains(l, "10.244.2.66") }
	for step := range 2 {
		r, err := b.Apply(t.Context(), state)
		if err != nil || len(r.Rejected) != 1 || r.Rejected[0].Name != bad.Name {
			t.Fatalf("step %d: %+v, %v", step, r, err)
		}
	}
	if diff := cmp.Diff(fresh(t, proxytest.NewState(proxy.IPv4, good)), k.dump(b.rules)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	k.refuse = nil
	if r, err := b.Apply(t.Context(), state); err != nil || len(r.Rejected) != 1 || r.Operations > 0 {
		t.Errorf("too early: %+v, %v", r, err)
	}
	now = now.Add(time.Minute)
	if r, err := b.Apply(t.Context(), state); err != nil || len(r.Rejected) != 0 || r.Full {
		t.Errorf("tried again: %+v, %v", r, err)
	}
	if diff := cmp.Diff(fresh(t, state), k.dump(b.rules)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// After an error everything is written anew, once.
func TestErrors(t *testing.T) {
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	rng := rand.New(rand.NewPCG(3, 4))
	state := proxytest.RandomState(rng, proxy.IPv4, 20)
	for step := range 30 {
		if step%3 == 1 {
			k.fail = []error{&Error{Kind: TimedOut}, &Error{Kind: Locked}, context.Canceled}[step/3%3]
			if _, err := b.Apply(t.Context(), proxytest.Mutate(rng, state, 3)); err == nil {
				t.Fatalf("step %d: no error", step)
			}
			k.fail = nil
		}
		state = proxytest.Mutate(rng, state, 3)
		r, err := b.Apply(t.Context(), state)
		if err != nil || step%3 == 1 && !r.Full {
			t.Fatalf("step %d: %+v, %v", step, r, err)
		}
		if diff := cmp.Diff(fresh(t, state), k.dump(b.rules)); diff != "" {
			t.Fatalf("step %d: -want +got:\n%s", step, diff)
		}
	}
}

// What others have is left alone; what is ours goes.
func TestCleanup(t *testing.T) {
	k := newFakeKernel()
	foreign := map[string][]string{"KUBE-FIREWALL": {"-j DROP"}, "KUBE-ROUTER-INPUT": {"-j ACCEPT"}, "KUBE-SVC-MINE": nil, "cali-INPUT": nil}
	for _, table := range tables {
		maps.Copy(k.tables[table], foreign)
		k.tables[table]["OUTPUT"] = []string{"-j cali-INPUT"}
	}
	want := k.dump(newTables(&Options{}, proxytest.NewState(proxy.IPv4), nil))
	b := newBackend(Options{Family: proxy.IPv4}, k)
	if _, err := b.Apply(t.Context(), proxytest.RandomState(rand.New(rand.NewPCG(4, 4)), proxy.IPv4, 20)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := newBackend(Options{Family: proxy.IPv4}, k).Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, k.dump(newTables(&Options{}, proxytest.NewState(proxy.IPv4), nil))); diff != "" {
			t.Fatalf("-before +after:\n%s", diff)
		}
	}
}

// Lost jumps come back once, and what is there twice is there once.
func TestJumps(t *testing.T) {
	for _, j := range Jumps {
		for _, copies := range []int{0, 2, 3} {
			k := newFakeKernel()
			b := newBackend(Options{Family: proxy.IPv4}, k)
			state := proxytest.NewState(proxy.IPv4)
			if _, err := b.Apply(t.Context(), state); err != nil {
				t.Fatal(err)
			}
			k.tables[j.Table][j.From] = slices.DeleteFunc(k.tables[j.Table][j.From], func(r string) bool { return target(r) == j.To })
			for range copies {
				k.tables[j.Table][j.From] = append(k.tables[j.Table][j.From], j.rule())
			}
			if damage, err := b.Check(t.Context()); damage == "" || err != nil {
				t.Errorf("%v %d times: damage %q, %v", j, copies, damage, err)
			}
			b.Forget()
			if _, err := b.Apply(t.Context(), state); err != nil {
				t.Fatal(err)
			}
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("%v %d times: damage %q, %v after a rebuild", j, copies, damage, err)
			}
		}
	}
}

// An error says what helps.
func TestErrorText(t *testing.T) {
	e := &Error{Program: "iptables", Version: "1.8.4", Kind: Incompatible, Detail: "chain `INPUT' in table `filter' is\nincompatible, use 'nft' tool.",
		Rules: []string{"rule handle 7 of chain INPUT in table filter (with ct)"}, Err: errors.New("exit status 1")}
	const want = "iptables 1.8.4 cannot read what is there: chain `INPUT' in table `filter' is incompatible, use 'nft' tool. (exit status 1); in the way: " +
		"rule handle 7 of chain INPUT in table filter (with ct); use mode nftables, or a newer version of iptables, or have the other program keep its rules in a table of its own"
	if diff := cmp.Diff(want, e.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
