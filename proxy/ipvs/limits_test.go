package ipvs

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// The tracer says of an expressible State the same as of the State that was asked for, but for packets whose origin would be sent to another pool than
// the frontend's; and what the virtual servers have is what it says.
func TestExpressible(t *testing.T) {
	limited, equal := 0, 0
	for seed := range uint64(30) {
		for _, f := range proxy.Families {
			s := proxytest.RandomState(rand.New(rand.NewPCG(seed, uint64(f))), f, 15)
			x := Expressible(s)
			for _, p := range proxytest.Packets(s, proxytest.Addressing()) {
				asked, done := proxytest.Trace(s, p), proxytest.Trace(x, p)
				if asked.String() == done.String() {
					equal++
					continue
				}
				limited++
				if asked.Verdict != proxytest.Forwarded || done.Verdict != proxytest.Forwarded || !hasTwoPools(s, asked.Service) {
					t.Fatalf("seed %d: %v: %v instead of %v, which is no declared limit", seed, p, done, asked)
				}
			}
			checkPools(t, x)
		}
	}
	if limited == 0 || equal < 50*limited/10 {
		t.Errorf("%d packets differ, %d do not", limited, equal)
	}
}

func hasTwoPools(s *proxy.State, name proxy.ServicePortName) bool {
	service, _ := s.Services.Get(name)
	return slices.ContainsFunc(service.Frontends, func(f proxy.Frontend) bool {
		var used [2]bool
		for _, a := range f.Actions {
			if a.Verdict == proxy.Forward {
				used[a.Pool] = true
			}
		}
		return used[proxy.Cluster] && used[proxy.Local]
	})
}

// checkPools compares the virtual servers' pools with the actions of an expressible State.
func checkPools(t *testing.T, s *proxy.State) {
	t.Helper()
	r := newRenderer(&Options{}, s.Node)
	for name, service := range s.Services.All() {
		for _, x := range r.render(nil, service) {
			i := slices.IndexFunc(service.Frontends, func(f proxy.Frontend) bool {
				return f.Port == x.At.Port() && (f.Addr == x.At.Addr() || !f.Addr.IsValid() && !x.address)
			})
			for _, a := range service.Frontends[i].Actions {
				if a.Verdict != proxy.Forward {
					continue
				}
				var want []netip.AddrPort
				for _, e := range service.Pool(a.Pool) {
					want = append(want, e.Addr)
				}
				if !slices.Equal(want, x.pool) {
					t.Fatalf("%s %s: pool %v, want %v", name, x.Key, x.pool, want)
				}
			}
		}
	}
}

// A Service that needs no change keeps its pointer, or each of them would be programmed anew at every sync.
func TestExpressibleKeepsPointers(t *testing.T) {
	s := proxytest.RandomState(rand.New(rand.NewPCG(1, 1)), proxy.IPv4, 30)
	x := Expressible(s)
	for name, service := range s.Services.All() {
		if is, _ := x.Services.Get(name); (is != service) != hasTwoPools(s, name) {
			t.Errorf("%s: changed: %t, has two pools: %t", name, is != service, hasTwoPools(s, name))
		}
	}
}

// The page for users names every limit.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/ipvs.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range Limits() {
		if l.Text == "" || !strings.Contains(string(page), "`"+l.Name+"`") {
			t.Errorf("docs/ipvs.md does not name the limit %s", l.Name)
		}
	}
}
