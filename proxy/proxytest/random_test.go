package proxytest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// Random States keep the model's promises, every change is one, and published Services stay as they are.
func TestRandomWalk(t *testing.T) {
	for _, f := range proxy.Families {
		rng := rand.New(rand.NewPCG(1, uint64(f)))
		s := RandomState(rng, f, 30)
		if s.Services.Len() != 30 {
			t.Fatalf("%d services, want 30", s.Services.Len())
		}
		verdicts := map[TraceVerdict]int{}
		for step := range 80 {
			if err := Check(s); err != nil {
				t.Fatalf("%s, step %d: %v", f, step, err)
			}
			before := describe(s)
			next := Mutate(rng, s, 1+step%3)
			if after := describe(s); before != after {
				t.Fatalf("%s, step %d: a published State changed:\n%s", f, step, cmp.Diff(before, after))
			}
			if n := len(hamt.Diff(s.Services, next.Services, func(x, y *proxy.Service) bool { return x == y })); n > 2*(1+step%3) {
				t.Fatalf("%s, step %d: %d services changed", f, step, n)
			}
			s = next
			if step%10 == 0 {
				for _, p := range Packets(s, Addressing()) {
					verdicts[Trace(s, p).Verdict]++
				}
			}
		}
		for _, v := range []TraceVerdict{Forwarded, Rejected, Dropped} {
			if verdicts[v] < 100 {
				t.Errorf("%s: only %d packets with verdict %s among %v", f, verdicts[v], v, verdicts)
			}
		}
	}
}

func TestRandomIsRepeatable(t *testing.T) {
	one := RandomState(rand.New(rand.NewPCG(7, 7)), proxy.IPv4, 50)
	two := RandomState(rand.New(rand.NewPCG(7, 7)), proxy.IPv4, 50)
	if diff := cmp.Diff(describe(one), describe(two)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	a, b := Packets(one, Addressing()), Packets(two, Addressing())
	if len(a) != len(b) {
		t.Fatalf("%d and %d packets", len(a), len(b))
	}
	for i := range a {
		if a[i].String() != b[i].String() {
			t.Fatalf("packet %d: %v and %v", i, a[i], b[i])
		}
	}
}

// describe writes everything in a State, in the order of names.
func describe(s *proxy.State) string {
	g := newStateGenerator(nil, s)
	var b strings.Builder
	fmt.Fprintf(&b, "%+v\n", *s.Node)
	for _, name := range g.names {
		service, _ := s.Services.Get(name)
		check, _ := s.HealthChecks.Get(name.ServiceName)
		fmt.Fprintf(&b, "%+v %v\n", *service, check)
	}
	return b.String()
}

// Check finds each way in which a State can be wrong.
func TestCheck(t *testing.T) {
	good := func() *proxy.Service {
		return NewService("default/web/TCP",
			At(proxy.ClusterIP, "10.96.0.10:80", Internal), At(proxy.NodePort, ":30080", ExternalLocal, "10.0.0.0/8", "11.0.0.0/8"),
			On("10.244.1.2:8080 local", "10.244.2.2:8080"))
	}
	if err := Check(NewState(proxy.IPv4, good())); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*proxy.Service){
		"serving endpoints":          func(s *proxy.Service) { s.Serving[0], s.Serving[1] = s.Serving[1], s.Serving[0] },
		"is not serving":             func(s *proxy.Service) { s.Serving = s.Serving[1:] },
		"pool cluster is not sorted": func(s *proxy.Service) { s.Cluster[0] = s.Cluster[1] },
		"pool local is needed: true": func(s *proxy.Service) { s.Local = nil },
		"is not on this node":        func(s *proxy.Service) { s.Local[0].Local = false },
		"pool local is needed: false": func(s *proxy.Service) {
			s.Frontends = s.Frontends[:1]
		},
		"does not forward": func(s *proxy.Service) {
			s.Frontends[0].Actions[1] = proxy.Action{Verdict: proxy.Drop, Masquerade: true}
		},
		"no IPv4 address":          func(s *proxy.Service) { s.Frontends[0].Addr = addrs("fd00::1")[0] },
		"with the address":         func(s *proxy.Service) { s.Frontends[1].Addr = addrs("10.0.0.1")[0] },
		"with port 0":              func(s *proxy.Service) { s.Frontends[1].Port = 0 },
		"belongs to":               func(s *proxy.Service) { s.Frontends = append(s.Frontends, s.Frontends[1]) },
		"frontends are not sorted": func(s *proxy.Service) { s.Frontends[0], s.Frontends[1] = s.Frontends[1], s.Frontends[0] },
		"has host bits":            func(s *proxy.Service) { s.Frontends[1].AllowedSources = prefixes("10.0.0.1/8") },
		"out of order":             func(s *proxy.Service) { s.Frontends[1].AllowedSources = prefixes("10.0.0.0/8", "10.1.0.0/16") },
	} {
		s := good()
		spoil(s)
		if err := Check(NewState(proxy.IPv4, s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got: %v", want, err)
		}
	}
	for want, node := range map[string]*proxy.Node{
		"is nil":       nil,
		"not one bit":  {MasqueradeMark: 3},
		"NodePort add": {MasqueradeMark: 1, NodePorts: proxy.NodePorts{Addrs: addrs("10.0.0.2", "10.0.0.1")}},
	} {
		if err := Check(&proxy.State{Family: proxy.IPv4, Node: node}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got: %v", want, err)
		}
	}
	other := &proxy.State{Family: proxy.IPv4, Node: NodeOf(proxy.IPv4)}
	other.Services = other.Services.Set(Name("a/b/TCP"), good())
	if err := Check(other); err == nil || !strings.Contains(err.Error(), "is called") {
		t.Errorf("want an error about the name, got: %v", err)
	}
}

func TestName(t *testing.T) {
	for _, text := range []string{"ns/name/TCP", "ns/name:port/UDP", "ns/name:p/SCTP"} {
		if got := Name(text).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
