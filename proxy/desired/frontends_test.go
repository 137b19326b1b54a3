package desired

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

func TestSourceRanges(t *testing.T) {
	tests := []struct {
		name   string
		ranges []string
		v4, v6 string // "all" for everybody
	}{
		{"none", nil, "all", "all"},
		{"of one family: the other family is unrestricted", []string{"203.0.113.0/24"}, "203.0.113.0/24", "all"},
		{"split by family", []string{"203.0.113.0/24", "2001:db8:1::/48"}, "203.0.113.0/24", "2001:db8:1::/48"},
		{"white space around them is allowed", []string{" 203.0.113.0/24 "}, "203.0.113.0/24", "all"},
		{"a /0 of the family is unrestricted", []string{"0.0.0.0/0", "203.0.113.0/24", "2001:db8:1::/48"}, "all", "2001:db8:1::/48"},
		{"masked, sorted, contained ones removed", []string{"203.0.113.77/24", "198.51.100.1/32", "203.0.113.128/25", "203.0.113.0/24"},
			"198.51.100.1/32 203.0.113.0/24", "all"},
		{"with the node's own address, the load-balancer address is allowed", []string{"192.168.0.0/16", "203.0.113.0/24"},
			"192.0.2.1/32 192.168.0.0/16 203.0.113.0/24", "all"},
		{"of both families", []string{"192.168.0.1/32", "fd00::/16"}, "192.0.2.1/32 192.168.0.1/32", "2001:db8::1/128 fd00::/16"},
		{"the load-balancer address is not added where a range has it", []string{"192.0.0.0/8"}, "192.0.0.0/8", "all"},
		{"an unreadable one is left out", []string{"203.0.113.0/33", "203.0.113.0/24"}, "203.0.113.0/24", "all"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := service("s", "10.0.0.1", dual("fd00:1::1"), nodePort(30080), externalIPs("192.0.2.9", "2001:db8::9"),
				loadBalancer("192.0.2.1", "2001:db8::1"), ranges(tt.ranges...))
			r := Build(nil, newCluster(s).input(testFacts()))
			for fam, want := range map[proxy.Family]string{proxy.IPv4: tt.v4, proxy.IPv6: tt.v6} {
				checkSources(t, r.States[fam], want)
			}
		})
	}
}

// checkSources compares the sources that the load-balancer address allows, and that all other Frontends allow everybody.
func checkSources(t *testing.T, s *proxy.State, want string) {
	t.Helper()
	svc, _ := s.Services.Get(proxy.ServicePortName{ServiceName: proxy.ServiceName{Namespace: "default", Name: "s"}, Protocol: proxy.TCP})
	if len(svc.Frontends) != 4 {
		t.Fatalf("%s: got %d Frontends, want 4", s.Family, len(svc.Frontends))
	}
	for _, f := range svc.Frontends {
		got := "all"
		if f.AllowedSources != nil {
			got = showPrefixes(f.AllowedSources)
		}
		if f.Kind != proxy.LoadBalancerIP && got != "all" || f.Kind == proxy.LoadBalancerIP && got != want {
			t.Errorf("%s: %s allows %q, want %q for load-balancer IPs", s.Family, f.Kind, got, want)
		}
		if f.Actions[proxy.FromElsewhere].Verdict != proxy.Reject {
			t.Errorf("%s: %s without endpoints has %v, want reject", s.Family, f.Kind, f.Actions)
		}
	}
}

func showPrefixes(ps []netip.Prefix) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, " ")
}

func TestFrontendsOfOneService(t *testing.T) {
	ext := " pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade"
	in := " pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade"
	pool := "s/TCP pool cluster 10.1.1.5"
	testPolicies(t, []policyCase{
		{
			name: "an address that is external and load-balancer IP keeps its source ranges",
			objects: []any{slice("s", "10.1.1.5"),
				service("s", "10.0.0.1", externalIPs("192.0.2.1"), loadBalancer("192.0.2.1"), ranges("203.0.113.0/24"))},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in, "s/TCP LoadBalancerIP 192.0.2.1:80/TCP" + ext + " from=[203.0.113.0/24]"},
		}, {
			name: "an address that is ClusterIP and load-balancer IP keeps its source ranges",
			objects: []any{slice("s", "10.1.1.5"),
				service("s", "10.0.0.1", loadBalancer("10.0.0.1"), ranges("203.0.113.0/24"))},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in + " from=[203.0.113.0/24]"},
		}, {
			name:    "an address that is ClusterIP and external IP is a ClusterIP",
			objects: []any{slice("s", "10.1.1.5"), service("s", "10.0.0.1", externalIPs("10.0.0.1"))},
			want:    []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in},
		}, {
			name:    "source ranges of which none can be read allow nobody",
			objects: []any{slice("s", "10.1.1.5"), service("s", "10.0.0.1", loadBalancer("192.0.2.1"), ranges("everywhere"))},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in,
				"s/TCP LoadBalancerIP 192.0.2.1:80/TCP pod=drop node=drop elsewhere=drop"},
		}, {
			name: "ipMode Proxy and host names make no rules",
			objects: []any{slice("s", "10.1.1.5"), service("s", "10.0.0.1", loadBalancer("192.0.2.1"), func(s *v1.Service) {
				proxied, vip := v1.LoadBalancerIPModeProxy, v1.LoadBalancerIPModeVIP
				in := &s.Status.LoadBalancer.Ingress
				(*in)[0].IPMode = &proxied
				*in = append(*in, v1.LoadBalancerIngress{Hostname: "lb.example"}, v1.LoadBalancerIngress{IP: "192.0.2.2", IPMode: &vip})
			})},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in, "s/TCP LoadBalancerIP 192.0.2.2:80/TCP" + ext},
		}, {
			name: "bad addresses are skipped and the rest is served",
			objects: []any{slice("s", "10.1.1.5"),
				service("s", "10.0.0.1", externalIPs("192.0.2", "192.0.2.2", "127.0.0.1"), loadBalancer("0.0.0.0", "192.0.2.3"))},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in, "s/TCP ExternalIP 192.0.2.2:80/TCP" + ext,
				"s/TCP LoadBalancerIP 192.0.2.3:80/TCP" + ext},
		}, {
			name: "a second port of the same name and protocol is left out",
			objects: []any{slice("s", "10.1.1.5"), service("s", "10.0.0.1", func(s *v1.Service) {
				s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Port: 81}, v1.ServicePort{Port: 80})
			})},
			want: []string{pool, "s/TCP ClusterIP 10.0.0.1:80/TCP" + in},
		},
	})
}

// TestProblems: every problem of the objects behind a Service is in the Result, until it is solved.
func TestProblems(t *testing.T) {
	c := newCluster(service("s", "10.0.0.1", externalIPs("192.0.2")), slice("s", "10.1.1.5", "10.1.1"), slice("unserved", "10.1.2"))
	r := Build(nil, c.input(testFacts()))
	want := []string{
		`Service default/s: spec.externalIPs[0] "192.0.2": is not an IP address; write it like 192.0.2.1 or 2001:db8::1`,
		`EndpointSlice default/s-1: endpoints[1].addresses[0] "10.1.1": is not an IP address; write it like 192.0.2.1 or 2001:db8::1`,
	}
	if d := cmp.Diff(want, showProblems(r)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	again := Build(r, c.input(testFacts()))
	if !again.Problems.Same(r.Problems) {
		t.Error("unchanged problems are not the same map")
	}
	c.set(service("s", "10.0.0.1"))
	c.set(slice("s", "10.1.1.5"))
	if d := cmp.Diff([]string(nil), showProblems(Build(r, c.input(testFacts()))), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("after solving them: -want +got:\n%s", d)
	}
}
