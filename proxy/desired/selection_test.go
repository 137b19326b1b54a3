package desired

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// TestSelection is about which endpoints the pools have. The Service uses both: internal policy Cluster, external Local.
func TestSelection(t *testing.T) {
	tests := []struct {
		name           string
		noZone         bool
		endpoints      []string
		cluster, local string
	}{
		{name: "Cluster set: ready endpoints", endpoints: []string{"10.1.1.1", "10.1.1.2 unready", "10.1.1.3 unready unserving"},
			cluster: "10.1.1.1"},
		{name: "Cluster set: ready wins over serving and terminating", cluster: "10.1.1.1",
			endpoints: []string{"10.1.1.1", "10.1.1.2 unready terminating"}},
		{name: "Cluster set: without ready ones, serving and terminating ones anywhere", cluster: "10.1.0.2* 10.1.1.1", local: "10.1.0.2*",
			endpoints: []string{"10.1.1.1 unready terminating", "10.1.0.2 local unready terminating", "10.1.1.3 unready unserving terminating"}},
		{name: "serving but neither ready nor terminating is no endpoint", endpoints: []string{"10.1.1.1 unready"}},
		{name: "terminating but ready is ready (publishNotReadyAddresses)", cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 terminating", "10.1.1.2", "10.1.1.3 unready terminating"}},
		{name: "Local set: local ready ones", cluster: "10.1.0.1* 10.1.1.2", local: "10.1.0.1*",
			endpoints: []string{"10.1.0.1 local", "10.1.1.2", "10.1.0.3 local unready terminating"}},
		{name: "Local set: falls back to terminating independently of the Cluster set", cluster: "10.1.1.2", local: "10.1.0.3*",
			endpoints: []string{"10.1.1.2", "10.1.0.3 local unready terminating"}},
		{name: "zone hints on every ready endpoint, one for this zone", cluster: "10.1.1.1",
			endpoints: []string{"10.1.1.1 zone=z1", "10.1.1.2 zone=z2"}},
		{name: "an endpoint may be meant for several zones", cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 zone=z1", "10.1.1.2 zone=z2 zone=z1", "10.1.1.3 zone=z3"}},
		{name: "zone hints that one ready endpoint lacks are ignored", cluster: "10.1.1.1 10.1.1.2 10.1.1.3",
			endpoints: []string{"10.1.1.1 zone=z1", "10.1.1.2 zone=z2", "10.1.1.3"}},
		{name: "hints that an endpoint lacks that is not ready do not matter", cluster: "10.1.1.1",
			endpoints: []string{"10.1.1.1 zone=z1", "10.1.1.2 zone=z2", "10.1.1.3 unready terminating"}},
		{name: "zone hints of which none is for this zone are ignored", cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 zone=z3", "10.1.1.2 zone=z2"}},
		{name: "zone hints are ignored if the node has no zone", noZone: true, cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 zone=z1", "10.1.1.2 zone=z2"}},
		{name: "no zone is not a zone", noZone: true, cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 zone=", "10.1.1.2 zone=z2"}},
		{name: "node hints win over zone hints", cluster: "10.1.1.2",
			endpoints: []string{"10.1.1.1 zone=z1 node=n2", "10.1.1.2 zone=z2 node=n1"}},
		{name: "node hints of which none is for this node leave it to zone hints", cluster: "10.1.1.1",
			endpoints: []string{"10.1.1.1 zone=z1 node=n2", "10.1.1.2 zone=z2 node=n3"}},
		{name: "node hints that one ready endpoint lacks are ignored", cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 node=n1", "10.1.1.2"}},
		{name: "hints are ignored when falling back to terminating endpoints", cluster: "10.1.1.1 10.1.1.2",
			endpoints: []string{"10.1.1.1 unready terminating zone=z1", "10.1.1.2 unready terminating zone=z2"}},
		{name: "hints do not apply to Local sets", cluster: "10.1.1.2", local: "10.1.0.1*",
			endpoints: []string{"10.1.0.1 local zone=z2", "10.1.1.2 zone=z1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := testFacts()
			if tt.noZone {
				f.Zone = ""
			}
			s := only(t, Build(nil, newCluster(service("s", "10.0.0.1", nodePort(30080), externalLocal), slice("s", tt.endpoints...)).input(f)))
			if d := cmp.Diff([2]string{tt.cluster, tt.local}, [2]string{showPool(s.Cluster), showPool(s.Local)}); d != "" {
				t.Errorf("pools Cluster, Local: -want +got:\n%s", d)
			}
			if elsewhere := s.Frontends[1].Actions[proxy.FromElsewhere]; (elsewhere.Verdict == proxy.Forward) != (tt.local != "") {
				t.Errorf("the Local pool is %q, but connections from elsewhere have %v", tt.local, elsewhere)
			}
			if internal := s.Frontends[0].Actions[proxy.FromPod]; (internal.Verdict == proxy.Forward) != (tt.cluster != "") {
				t.Errorf("the Cluster pool is %q, but connections from pods have %v", tt.cluster, internal)
			}
		})
	}
}

// only returns the single Service of the IPv4 State.
func only(t *testing.T, r *Result) *proxy.Service {
	t.Helper()
	all := r.States[proxy.IPv4].Services
	if all.Len() != 1 {
		t.Fatalf("got %d Services, want 1", all.Len())
	}
	for _, s := range all.All() {
		return s
	}
	return nil
}

func TestServing(t *testing.T) {
	s := only(t, Build(nil, newCluster(service("s", "10.0.0.1"), slice("s", "10.1.1.5 unready unserving terminating", "10.1.1.4 unready",
		"10.1.1.1", "10.1.1.2 unready terminating", "10.1.1.3 unserving", "10.1.1.6 unready unserving")).input(testFacts())))
	var got []string
	for _, a := range s.Serving {
		got = append(got, a.String())
	}
	want := []string{"10.1.1.1:8080", "10.1.1.2:8080", "10.1.1.3:8080", "10.1.1.4:8080"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestAffinity(t *testing.T) {
	clientIP := func(seconds int32) func(*v1.Service) {
		return func(s *v1.Service) {
			s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	tests := []struct {
		name   string
		change func(*v1.Service)
		want   time.Duration
	}{
		{"none", func(*v1.Service) {}, 0},
		{"ClientIP with a timeout", clientIP(17), 17 * time.Second},
		{"ClientIP without a timeout", func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP }, 3 * time.Hour},
		{"a timeout without ClientIP", func(s *v1.Service) { clientIP(17)(s); s.Spec.SessionAffinity = v1.ServiceAffinityNone }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := only(t, Build(nil, newCluster(service("s", "10.0.0.1", tt.change)).input(testFacts()))).Affinity; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestHealthCheck(t *testing.T) {
	port := func(n int32) func(*v1.Service) { return func(s *v1.Service) { s.Spec.HealthCheckNodePort = n } }
	eps := slice("s", "10.1.0.1 local", "10.1.0.2 local", "10.1.0.3 local unready terminating", "10.1.0.4 local terminating", "10.1.1.5")
	other, number := "other", int32(9090)
	more := eps.Ports[0]
	more.Name, more.Port = &other, &number
	eps.Ports = append(eps.Ports, more)
	tests := []struct {
		name   string
		change []func(*v1.Service)
		slice  any
		want   string // of both families, "-" for none
	}{
		{"type LoadBalancer with policy Local counts addresses, all ports merged, terminating ones never",
			[]func(*v1.Service){loadBalancer(), externalLocal, port(32000)}, eps, "32000 2, -"},
		{"no endpoints are 0 endpoints", []func(*v1.Service){loadBalancer(), externalLocal, port(32000)}, slice("t"), "32000 0, -"},
		{"one for each family", []func(*v1.Service){loadBalancer(), externalLocal, port(32000), dual("fd00:1::1")}, eps, "32000 2, 32000 0"},
		{"policy Cluster has none", []func(*v1.Service){loadBalancer(), port(32000)}, eps, "-, -"},
		{"type NodePort has none", []func(*v1.Service){nodePort(30080), externalLocal, port(32000)}, eps, "-, -"},
		{"a Service without ports has none",
			[]func(*v1.Service){loadBalancer(), externalLocal, port(32000), func(s *v1.Service) { s.Spec.Ports = nil }}, eps, "-, -"},
		{"port 0 has none", []func(*v1.Service){loadBalancer(), externalLocal}, eps, "-, -"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Build(nil, newCluster(service("s", "10.0.0.1", tt.change...), tt.slice).input(testFacts()))
			got := showHealth(r.States[proxy.IPv4]) + ", " + showHealth(r.States[proxy.IPv6])
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
