package desired

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

func showProblems(r *Result) []string {
	var out []string
	for _, list := range r.Problems.All() {
		for _, p := range list {
			out = append(out, p.String())
		}
	}
	slices.SortFunc(out, func(a, b string) int { // Services before slices
		return strings.Compare(strings.Replace(a, "Service", "A", 1), strings.Replace(b, "Service", "A", 1))
	})
	return out
}

// owners lists the frontends of the IPv4 State as "key name".
func owners(r *Result) []string {
	var out []string
	for _, s := range r.States[proxy.IPv4].Services.All() {
		for i := range s.Frontends {
			out = append(out, s.Key(&s.Frontends[i]).String()+" "+s.Name.Name+":"+s.Name.Port)
		}
	}
	slices.Sort(out)
	return out
}

func TestConflicts(t *testing.T) {
	secondPort := func(s *v1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "second", Port: 80, Protocol: v1.ProtocolTCP})
	}
	tests := []struct {
		name     string
		services []*v1.Service
		want     []string // frontends other than those of ClusterIPs that nobody else claims
		problem  string   // what it starts with
	}{
		{"the older Service gets an external IP",
			[]*v1.Service{service("a", "10.0.0.1", externalIPs("192.0.2.1"), created(20)),
				service("b", "10.0.0.2", externalIPs("192.0.2.1"), created(10))},
			[]string{"10.0.0.1:80/TCP a:", "10.0.0.2:80/TCP b:", "192.0.2.1:80/TCP b:"},
			`Service default/a: spec.externalIPs "192.0.2.1:80/TCP": is served for default/b/TCP (older, or first by name); `},
		{"of the same age, the first by name",
			[]*v1.Service{service("b", "10.0.0.2", nodePort(30080)), service("a", "10.0.0.1", nodePort(30080))},
			[]string{"10.0.0.1:80/TCP a:", "10.0.0.2:80/TCP b:", "nodeport:30080/TCP a:"},
			`Service default/b: spec.ports[name=""].nodePort "nodeport:30080/TCP": is served for default/a/TCP `},
		{"a ClusterIP wins over an older Service's external IP",
			[]*v1.Service{service("a", "10.0.0.1", externalIPs("10.0.0.2"), created(1)), service("b", "10.0.0.2", created(2))},
			[]string{"10.0.0.1:80/TCP a:", "10.0.0.2:80/TCP b:"},
			`Service default/a: spec.externalIPs "10.0.0.2:80/TCP": is served for default/b/TCP (a ClusterIP, which comes first); `},
		{"a ClusterIP wins over an older Service's load-balancer IP",
			[]*v1.Service{service("a", "10.0.0.1", loadBalancer("10.0.0.2"), created(1)), service("b", "10.0.0.2", created(2))},
			[]string{"10.0.0.1:80/TCP a:", "10.0.0.2:80/TCP b:"},
			`Service default/a: status.loadBalancer.ingress "10.0.0.2:80/TCP": is served for default/b/TCP `},
		{"a Service that loses all is not in the State",
			[]*v1.Service{service("b", "10.0.0.1"), service("a", "10.0.0.1")},
			[]string{"10.0.0.1:80/TCP a:"},
			`Service default/b: spec.clusterIPs "10.0.0.1:80/TCP": is served for default/a/TCP `},
		{"of two ports of one Service, the first by name",
			[]*v1.Service{service("a", "10.0.0.1", secondPort)},
			[]string{"10.0.0.1:80/TCP a:"},
			`Service default/a: spec.clusterIPs "10.0.0.1:80/TCP": is served for default/a/TCP `},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster()
			for _, s := range tt.services {
				c.set(s)
			}
			r := Build(nil, c.input(testFacts()))
			if d := cmp.Diff(tt.want, owners(r)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			if ps := showProblems(r); len(ps) != 1 || !strings.HasPrefix(ps[0], tt.problem) {
				t.Errorf("got problems %q, want one starting with %q", ps, tt.problem)
			}
		})
	}
}

// TestConflictLife follows one address from Service to Service as claims come and go; after each step the result is the same
// as from scratch.
func TestConflictLife(t *testing.T) {
	c, r := newCluster(), (*Result)(nil)
	step := func(what, owner string, losers ...string) {
		t.Helper()
		in := c.input(testFacts())
		r = Build(r, in)
		var got string
		for _, o := range owners(r) {
			if key, name, _ := strings.Cut(o, " "); key == "192.0.2.1:80/TCP" {
				got += strings.TrimSuffix(name, ":")
			}
		}
		var lost []string
		for name := range r.Problems.All() {
			lost = append(lost, name.Name)
		}
		slices.Sort(lost)
		if got != owner || !slices.Equal(lost, losers) {
			t.Errorf("%s: owner %q, losers %q, want %q, %q", what, got, lost, owner, losers)
		}
		if d := cmp.Diff(showProblems(Build(nil, in)), showProblems(r)); d != "" {
			t.Errorf("%s: -from scratch +got:\n%s", what, d)
		}
	}
	a := service("a", "10.0.0.1", externalIPs("192.0.2.1"), created(10))
	c.set(a)
	step("one claims", "a")
	c.set(service("b", "10.0.0.2", externalIPs("192.0.2.1"), created(20)))
	step("a younger one comes", "a", "b")
	c.set(service("c", "10.0.0.3", loadBalancer("192.0.2.1"), created(5)))
	step("an older one comes", "c", "a", "b")
	c.services.Delete(proxy.ServiceName{Namespace: "default", Name: "a"})
	step("a loser goes", "c", "b")
	c.set(a)
	c.set(service("c", "10.0.0.3", created(5)))
	step("the winner no longer claims and another comes, at once", "a", "b")
	c.services.Delete(proxy.ServiceName{Namespace: "default", Name: "a"})
	step("the winner goes", "b")
	c.set(service("d", "192.0.2.1", created(30)))
	step("a ClusterIP comes", "d", "b")
	c.services.Delete(proxy.ServiceName{Namespace: "default", Name: "d"})
	c.set(service("b", "10.0.0.2", externalIPs("192.0.2.2"), created(20)))
	step("nobody claims", "")
}

// TestExternalIPsGate: an address that the gate takes from one Service goes to another that has it as load-balancer IP.
func TestExternalIPsGate(t *testing.T) {
	c := newCluster(service("a", "10.0.0.1", externalIPs("192.0.2.1")), service("b", "10.0.0.2", loadBalancer("192.0.2.1")))
	on := Build(nil, c.input(testFacts()))
	off := Build(on, c.input(with(testFacts(), func(f *Facts) { f.ExternalIPs = false })))
	if d := cmp.Diff([]string{"10.0.0.1:80/TCP a:", "10.0.0.2:80/TCP b:", "192.0.2.1:80/TCP b:"}, owners(off)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff([]string(nil), showProblems(off), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	back := Build(off, c.input(testFacts()))
	if d := cmp.Diff(owners(on), owners(back)); d != "" {
		t.Errorf("back on: -want +got:\n%s", d)
	}
}
