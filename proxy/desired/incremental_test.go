package desired

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// contents copies a map, since cmp cannot look into it.
func contents[K comparable, V any](m hamt.Map[K, V]) map[K]V {
	out := maps.Collect(m.All())
	if len(out) != m.Len() {
		panic("a map's length is not the number of its entries")
	}
	return out
}

// diffResults compares all that two Results tell.
func diffResults(want, got *Result) string {
	type family struct {
		Node     *proxy.Node
		Services map[proxy.ServicePortName]*proxy.Service
		Health   map[proxy.ServiceName]proxy.HealthCheck
		NoLocal  NoLocal
	}
	type all struct {
		Families map[proxy.Family]family
		Problems map[proxy.ServiceName][]Problem
	}
	view := func(r *Result) all {
		a := all{map[proxy.Family]family{}, contents(r.Problems)}
		for fam, s := range r.States {
			a.Families[fam] = family{s.Node, contents(s.Services), contents(s.HealthChecks), r.NoLocal[fam]}
		}
		return a
	}
	return cmp.Diff(view(want), view(got), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}))
}

// walker changes a cluster at random: few names and addresses, so that conflicts are frequent.
type walker struct {
	*rand.Rand
	*cluster
	facts *Facts
}

func (w *walker) name() string { return string(rune('a' + w.IntN(8))) }

func (w *walker) chance(percent int) bool { return w.IntN(100) < percent }

func (w *walker) some(format string, n int) []string {
	var out []string
	for i := range n {
		if w.chance(30) {
			out = append(out, fmt.Sprintf(format, i+1))
		}
	}
	return out
}

func (w *walker) service() *v1.Service {
	options := []func(*v1.Service){
		dual(fmt.Sprintf("fd00:1::%d", 1+w.IntN(10))), internalLocal, nodePort(30000 + int32(w.IntN(3))),
		externalIPs(append(w.some("192.0.2.%d", 4), w.some("10.0.0.%d", 4)...)...),
		loadBalancer(append(w.some("192.0.2.%d", 4), w.some("2001:db8::%d", 2)...)...), externalLocal,
		ranges(w.some("203.0.%d.0/24", 3)...), ranges("nonsense"), created(int64(w.IntN(3))), twoProtocols,
		func(s *v1.Service) { s.Spec.HealthCheckNodePort = 32000 },
		func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP },
		func(s *v1.Service) { s.Spec.Ports[0].Name = "p" },
		func(s *v1.Service) { s.Spec.ClusterIP = v1.ClusterIPNone },
	}
	s := service(w.name(), fmt.Sprintf("10.0.0.%d", 1+w.IntN(10)))
	for _, o := range options {
		if w.chance(35) && (s.Spec.ClusterIP != v1.ClusterIPNone) {
			o(s)
		}
	}
	return s
}

func (w *walker) endpoints() []string {
	out := w.some("10.1.1.%d", 6)
	if w.chance(30) {
		out = w.some("fd02::%d", 6)
	}
	if w.chance(40) { // hints count only if all endpoints have them
		for i := range out {
			out[i] += []string{" zone=z1", " zone=z2"}[w.IntN(2)] + []string{"", " node=n1", " node=n2"}[i%3]
		}
	}
	words := []string{" local", " unready", " terminating", " unserving", " zone=z2", " node=n2"}
	for i := range out {
		for _, word := range words {
			if w.chance(25) {
				out[i] += word
			}
		}
	}
	return out
}

func (w *walker) changeFacts() {
	f := *w.facts
	switch w.IntN(7) {
	case 0:
		f.MasqueradeAll = !f.MasqueradeAll
	case 1:
		f.ExternalIPs = !f.ExternalIPs
	case 2:
		f.Zone = []string{"", "z1", "z2"}[w.IntN(3)]
	case 3:
		f.NodeIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, byte(w.IntN(4)), 1})}
	case 4:
		f.Families = [][]proxy.Family{{proxy.IPv4}, {proxy.IPv6, proxy.IPv4}, {proxy.IPv6}, nil}[w.IntN(4)]
	case 5:
		f.Node = []map[proxy.Family]proxy.Node{testFacts().Node, nil}[w.IntN(2)]
	case 6:
		f.Node = map[proxy.Family]proxy.Node{proxy.IPv4: {MasqueradeMark: uint32(w.IntN(4))}}
	}
	w.facts = &f
}

func (w *walker) step() {
	switch n := w.IntN(100); {
	case n < 40:
		w.set(w.service())
	case n < 55:
		w.services.Delete(proxy.ServiceName{Namespace: "default", Name: w.name()})
	case n < 85:
		s := slice(w.name(), w.endpoints()...)
		if w.chance(20) {
			name := "p"
			s.Ports[0].Name = &name
		}
		w.set(s)
	case n < 95:
		w.cluster.endpoints.Delete("default", w.name()+[]string{"-1", "-6"}[w.IntN(2)])
	default:
		w.changeFacts()
	}
}

// TestIncremental: along a random walk, what is built from the previous Result is what is built from nothing.
func TestIncremental(t *testing.T) {
	for seed := range uint64(10) {
		w := &walker{rand.New(rand.NewPCG(seed, 1)), newCluster(), testFacts()}
		var r *Result
		for i := range 120 {
			for range 1 + w.IntN(3) {
				w.step()
			}
			in := w.input(w.facts)
			prev := r
			r = Build(prev, in)
			scratch := Build(nil, in)
			if d := diffResults(scratch, r); d != "" {
				t.Fatalf("seed %d, step %d: -from scratch +incremental:\n%s", seed, i, d)
			}
			checkClaims(t, scratch, r)
			checkInvariants(t, r)
			checkPointers(t, prev, r)
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, i)
			}
		}
	}
}

// checkClaims compares who claims what: what is wrong there would show only much later.
func checkClaims(t *testing.T, want, got *Result) {
	t.Helper()
	view := func(r *Result) map[claimKey][]string {
		out := map[claimKey][]string{}
		for k, list := range r.claims.All() {
			for _, c := range list {
				out[k] = append(out[k], fmt.Sprintf("%p %s %s", c.service, c.port.Name, c.kind))
			}
		}
		return out
	}
	if d := cmp.Diff(view(want), view(got), cmpopts.EquateComparable(claimKey{})); d != "" {
		t.Errorf("claims: -from scratch +incremental:\n%s", d)
	}
}

// checkPointers tells that whatever is equal in the two is the same.
func checkPointers(t *testing.T, prev, r *Result) {
	t.Helper()
	if prev == nil {
		return
	}
	for fam, s := range r.States {
		old := prev.States[fam]
		if old == nil {
			continue
		}
		changed := old.Node != s.Node || len(hamt.Diff(old.HealthChecks, s.HealthChecks, nil)) > 0
		for _, c := range hamt.Diff(old.Services, s.Services, nil) {
			changed = true
			if c.Had && c.Has && equal(c.Old, c.New) {
				t.Errorf("%s: %s is equal but not the same", fam, c.Key)
			}
		}
		if old.Node != s.Node && old.Node.Equal(s.Node) {
			t.Errorf("%s: the Node is equal but not the same", fam)
		}
		if (old != s) != changed {
			t.Errorf("%s: the State's pointer changed: %t, its contents: %t", fam, old != s, changed)
		}
	}
}
