package desired

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	"turnout/proxy"
)

// checkInvariants checks what the model promises to backends of every State.
func checkInvariants(t *testing.T, r *Result) {
	t.Helper()
	for fam, s := range r.States {
		knowsPods := !s.Node.LocalPods.None()
		owned := map[proxy.FrontendKey]proxy.ServicePortName{}
		for name, svc := range s.Services.All() {
			if svc.Name != name {
				t.Errorf("%s is stored as %s", svc.Name, name)
			}
			checkService(t, fam, svc, knowsPods)
			for i := range svc.Frontends {
				key := svc.Key(&svc.Frontends[i])
				if other, taken := owned[key]; taken {
					t.Errorf("%s is of %s and of %s", key, other, name)
				}
				owned[key] = name
			}
		}
	}
}

func checkService(t *testing.T, fam proxy.Family, s *proxy.Service, knowsPods bool) {
	t.Helper()
	if len(s.Frontends) == 0 {
		t.Errorf("%s has no Frontend", s.Name)
	}
	var used [2]bool
	for i := range s.Frontends {
		f := &s.Frontends[i]
		checkFrontend(t, fam, s, f, knowsPods)
		for _, a := range f.Actions {
			used[a.Pool] = used[a.Pool] || a.Verdict == proxy.Forward
		}
	}
	for _, p := range []proxy.Pool{proxy.Cluster, proxy.Local} {
		if eps := s.Pool(p); used[p] != (len(eps) > 0) {
			t.Errorf("%s: pool %s has %d endpoints, used is %t", s.Name, p, len(eps), used[p])
		}
		checkPool(t, fam, s, p)
	}
	order := func(a, b proxy.Frontend) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Addr.Compare(b.Addr)) }
	if !slices.IsSortedFunc(s.Frontends, order) {
		t.Errorf("%s: frontends are not sorted: %v", s.Name, s.Frontends)
	}
	if !slices.IsSortedFunc(s.Serving, netip.AddrPort.Compare) {
		t.Errorf("%s: serving endpoints are not sorted: %v", s.Name, s.Serving)
	}
}

func checkPool(t *testing.T, fam proxy.Family, s *proxy.Service, p proxy.Pool) {
	t.Helper()
	var last netip.AddrPort
	for _, e := range s.Pool(p) {
		if e.Addr.Compare(last) <= 0 || proxy.FamilyOf(e.Addr.Addr()) != fam || p == proxy.Local && !e.Local {
			t.Errorf("%s: pool %s: %v after %v", s.Name, p, e, last)
		}
		if !slices.Contains(s.Serving, e.Addr) {
			t.Errorf("%s: pool %s: flows to %v would not live on", s.Name, p, e)
		}
		last = e.Addr
	}
}

func checkFrontend(t *testing.T, fam proxy.Family, s *proxy.Service, f *proxy.Frontend, knowsPods bool) {
	t.Helper()
	if f.Addr.IsValid() == (f.Kind == proxy.NodePort) || f.Addr.IsValid() && proxy.FamilyOf(f.Addr) != fam || f.Port == 0 {
		t.Errorf("%s: frontend %+v", s.Name, f)
	}
	if f.AllowedSources != nil && len(f.AllowedSources) == 0 {
		t.Errorf("%s: allowed sources of %v are empty but not nil", s.Name, f)
	}
	for i, p := range f.AllowedSources {
		unsorted := i > 0 && (f.AllowedSources[i-1].Compare(p) >= 0 || f.AllowedSources[i-1].Contains(p.Addr()))
		if unsorted || p != p.Masked() || proxy.FamilyOf(p.Addr()) != fam {
			t.Errorf("%s: allowed sources %v", s.Name, f.AllowedSources)
		}
	}
	if !knowsPods && f.Actions[proxy.FromPod] != f.Actions[proxy.FromElsewhere] {
		t.Errorf("%s: pods cannot be recognised, but have %v", s.Name, f.Actions)
	}
	for _, a := range f.Actions {
		if a.Verdict != proxy.Forward && a != (proxy.Action{Verdict: a.Verdict}) {
			t.Errorf("%s: action %+v", s.Name, a)
		}
	}
}

func TestBuildTwice(t *testing.T) {
	c := newCluster(service("s", "10.0.0.1", dual("fd00:1::1"), loadBalancer("192.0.2.1"), externalLocal, ranges("203.0.113.0/24"),
		externalIPs("bad")), service("t", "10.0.0.1"), slice("s", "10.1.1.5", "10.1.0.6 local"))
	first := Build(nil, c.input(testFacts()))
	same := Build(first, c.input(testFacts())) // equal Facts, not the same ones
	for _, fam := range proxy.Families {
		if first.States[fam] == nil || first.States[fam] != same.States[fam] {
			t.Errorf("%s: the State is not the same", fam)
		}
	}
	if !first.Problems.Same(same.Problems) || first.Problems.Len() != 2 {
		t.Errorf("problems are not the same, or not 2: %v", showProblems(same))
	}
}

// TestNewRecordsOfEqualContents: a source that delivers all anew makes new records, and changes nothing.
func TestNewRecordsOfEqualContents(t *testing.T) {
	objects := []any{service("s", "10.0.0.1", nodePort(30080)), slice("s", "10.1.1.5")}
	first := Build(nil, newCluster(objects...).input(testFacts()))
	second := Build(first, newCluster(objects...).input(testFacts()))
	if first.States[proxy.IPv4] != second.States[proxy.IPv4] {
		t.Error("the State is not the same")
	}
	checkClaims(t, Build(nil, second.in), second)
}

func TestNodeChangesDoNotTouchServices(t *testing.T) {
	c := newCluster(service("s", "10.0.0.1"), slice("s", "10.1.1.5"))
	first := Build(nil, c.input(testFacts()))
	second := Build(first, c.input(with(testFacts(), func(f *Facts) {
		n := f.Node[proxy.IPv4]
		n.NodePorts = proxy.NodePorts{Any: true}
		f.Node[proxy.IPv4] = n
	})))
	a, b := first.States[proxy.IPv4], second.States[proxy.IPv4]
	if a == b || !b.Node.NodePorts.Any {
		t.Error("the State does not have the new Node")
	}
	if !a.Services.Same(b.Services) {
		t.Error("Services are not the same")
	}
	if first.States[proxy.IPv6] != second.States[proxy.IPv6] {
		t.Error("the State of the other family is not the same")
	}
}

// TestInputIsNotModified: Build shares nothing with its input that it writes to.
func TestInputIsNotModified(t *testing.T) {
	c := newCluster(service("s", "10.0.0.1", loadBalancer("192.0.2.1"), ranges("192.168.0.0/16", "203.0.113.0/24", "203.0.113.0/25")))
	in := c.input(testFacts())
	Build(nil, in)
	s, _ := in.Services.Get(proxy.ServiceName{Namespace: "default", Name: "s"})
	if got := showPrefixes(s.SourceRanges); got != "192.168.0.0/16 203.0.113.0/24 203.0.113.0/25" {
		t.Errorf("source ranges became %s", got)
	}
}
