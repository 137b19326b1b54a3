package e2e

import (
	"fmt"
	"net/http"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

// everyKind are the kinds of addresses.
var everyKind = []proxy.Kind{proxy.ClusterIP, proxy.NodePort, proxy.ExternalIP, proxy.LoadBalancerIP}

// TestHairpin has a pod reach itself through its own Service: masqueraded, or it would answer itself directly.
func TestHairpin(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-1", "pod-5")
	alone, local, both := newService(1, "alone"), newService(2, "local", internalLocal, externalLocal), newService(3, "both", internalLocal, externalLocal)
	c.set(append(append(c.with(alone, on("pod-1")), c.with(local, on("pod-1"))...), c.with(both, on("pod-1"), on("pod-5"))...)...)
	c.start()
	var probes []probe
	for _, s := range []*v1.Service{alone, local} {
		for _, k := range everyKind {
			probes = append(probes, c.bothFamilies(s.Name+"/"+k.String(), c.from("pod-1"), c.of(s, k), masqueraded("pod-1"))...)
			// A neighbour is no hairpin.
			want := kept("pod-1")
			if k != proxy.ClusterIP && s == alone {
				want = masqueraded("pod-1")
			}
			probes = append(probes, c.bothFamilies(s.Name+"/"+k.String()+" from a neighbour", c.from("pod-2"), c.of(s, k), want)...)
		}
	}
	c.probe(t, probes...)
	t.Run("others keep the source", func(t *testing.T) {
		for _, f := range proxy.Families {
			self, other := false, false
			for range attempts {
				got := dial(c.from("pod-1"), proxy.TCP, c.address(both, proxy.LoadBalancerIP, f, proxy.TCP), 0)
				switch {
				case got.Server == "pod-1" && got.SeenSource == c.gateway("pod-1", f):
					self = true
				case got.Server == "pod-5" && got.SeenSource == c.from("pod-1").addr(f):
					other = true
				default:
					t.Fatalf("%s: %v", f, got)
				}
			}
			if !self || other == limited("one-pool") {
				t.Errorf("%s: reached itself: %t, the other endpoint: %t", f, self, other)
			}
		}
	})
}

// TestHostNetwork sends connections to endpoints that use the host's network.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("n1", "n2")
	here, there, local := newService(1, "here"), newService(2, "there"), newService(3, "local", internalLocal, externalLocal)
	c.set(append(append(c.with(here, on("n1")), c.with(there, on("n2"))...), c.with(local, on("n1"), on("n2"))...)...)
	c.start()
	var probes []probe
	for _, k := range everyKind {
		far := masqueraded("n2")
		if k == proxy.ClusterIP {
			far = kept("n2")
		}
		probes = append(probes, c.bothFamilies(k.String()+" on the other node", c.from(localPod), c.of(there, k), far)...)
		probes = append(probes, c.bothFamilies(k.String()+" on the other node from outside", c.from(outside), c.of(there, k), masqueraded("n2"))...)
		// What is delivered on the node itself leaves through no interface, so the source is never replaced.
		probes = append(probes, c.bothFamilies(k.String()+" on this node", c.from(localPod), c.of(here, k), kept("n1"))...)
		probes = append(probes, c.bothFamilies(k.String()+" on this node from outside", c.from(outside), c.of(here, k), kept("n1"))...)
		probes = append(probes, c.bothFamilies(k.String()+" of policy Local from outside", c.from(outside), c.of(local, k), kept("n1"))...)
	}
	c.probe(t, probes...)
	t.Run("from the node to itself", func(t *testing.T) {
		for _, k := range everyKind {
			for _, f := range proxy.Families {
				if got := dial(client{Host: c.Node(), any: true}, proxy.TCP, c.address(here, k, f, proxy.TCP), 0); got.Server != "n1" {
					t.Errorf("%s over %s: %v", k, f, got)
				}
			}
		}
	})
}

// TestEndpointSelection sends connections to those endpoints that conditions and hints leave. The node is in zone-a.
func TestEndpointSelection(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-2", "pod-3", "pod-5", "n2")
	rows := []struct {
		name string
		pods []pod
		// inside and outside are the servers reached through the ClusterIP by a pod, and through a NodePort of policy Local.
		inside, outside []string
	}{
		{"all ready", []pod{on("pod-2"), on("pod-3"), on("pod-5")}, []string{"pod-2", "pod-3", "pod-5"}, []string{"pod-2", "pod-3"}},
		{"one is not ready", []pod{on("pod-2"), on("pod-3", notReady), on("pod-5", notReady)}, []string{"pod-2"}, []string{"pod-2"}},
		{"terminating beside ready", []pod{on("pod-2", terminating), on("pod-3"), on("pod-5")}, []string{"pod-3", "pod-5"}, []string{"pod-3"}},
		{"all terminating", []pod{on("pod-2", terminating), on("pod-5", terminating)}, []string{"pod-2", "pod-5"}, []string{"pod-2"}},
		{"terminating here, ready elsewhere", []pod{on("pod-2", terminating), on("pod-5")}, []string{"pod-5"}, []string{"pod-2"}},
		{"ready here, terminating elsewhere", []pod{on("pod-2"), on("pod-5", terminating)}, []string{"pod-2"}, []string{"pod-2"}},
		{"hints for zones", []pod{on("pod-2", forZone("zone-b")), on("pod-3", forZone("zone-a")), on("pod-5", forZone("zone-a"))},
			[]string{"pod-3", "pod-5"}, []string{"pod-2", "pod-3"}}, // policy Local does not look at hints
		{"one without a hint", []pod{on("pod-2", forZone("zone-a")), on("pod-3"), on("pod-5", forZone("zone-b"))},
			[]string{"pod-2", "pod-3", "pod-5"}, []string{"pod-2", "pod-3"}},
		{"no hint for this zone", []pod{on("pod-2", forZone("zone-b")), on("pod-5", forZone("zone-c"))}, []string{"pod-2", "pod-5"}, []string{"pod-2"}},
		{"hints for nodes", []pod{on("pod-2", forNode("n1"), forZone("zone-a")), on("pod-5", forNode("n2"), forZone("zone-a"))}, []string{"pod-2"}, []string{"pod-2"}},
		{"no hint for this node", []pod{on("pod-2", forNode("n2"), forZone("zone-b")), on("pod-5", forNode("n3"), forZone("zone-a"))}, []string{"pod-5"}, []string{"pod-2"}},
		{"hinted endpoint not ready", []pod{on("pod-2", forZone("zone-a"), notReady), on("pod-5", forZone("zone-b"))}, []string{"pod-5"}, nil},
		{"terminating without regard to hints", []pod{on("pod-2", terminating, forZone("zone-b")), on("pod-5", terminating, forZone("zone-a"))},
			[]string{"pod-2", "pod-5"}, []string{"pod-2"}},
	}
	var all []metav1.Object
	var probes []probe
	for i, row := range rows {
		s := newService(i+1, fmt.Sprintf("row-%d", i), externalLocal, healthCheck(int32(31000+i)))
		all = append(all, c.with(s, row.pods...)...)
		external := dropped
		if row.outside != nil {
			external = kept(row.outside...)
		}
		probes = append(probes, c.bothFamilies(row.name+"/ClusterIP", c.from(localPod), c.of(s, proxy.ClusterIP), kept(row.inside...))...)
		probes = append(probes, c.bothFamilies(row.name+"/NodePort of policy Local", c.from(outside), c.of(s, proxy.NodePort), external)...)
	}
	c.set(all...)
	c.start()
	c.probe(t, probes...)
}

// TestOneFamily leaves the family alone that a Service does not have.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	for _, own := range proxy.Families {
		t.Run(own.String(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.serve("pod-2")
			whole, s := newService(1, "web"), newService(1, "web", only(own))
			c.set(c.with(s, on("pod-2"))...)
			c.start()
			var probes []probe
			for _, k := range everyKind {
				for _, f := range proxy.Families {
					want := masqueraded("pod-2")
					switch {
					case f == own:
					case k == proxy.NodePort:
						want = refused // by the node, which has no server there
					default:
						want = dropped
					}
					probes = append(probes, probe{k.String() + "/" + f.String(), c.from(outside), proxy.TCP, c.address(whole, k, f, proxy.TCP), want})
				}
			}
			c.probe(t, probes...)
		})
	}
}

// TestHealthCheckNodePort asks the node, as a load balancer does, whether it has endpoints.
func TestHealthCheckNodePort(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newService(1, "web", externalLocal, healthCheck(31111))
	body := func(n int) string {
		return fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": true\n}", n)
	}
	c.set(c.with(s, on("pod-2"), on("pod-3"), on("pod-5"))...)
	p := c.start()
	for _, row := range []struct {
		name   string
		pods   []pod
		local  int
		status int
	}{
		{"two here", []pod{on("pod-2"), on("pod-3"), on("pod-5")}, 2, http.StatusOK},
		{"one terminates", []pod{on("pod-2", terminating), on("pod-3"), on("pod-5")}, 1, http.StatusOK},
		{"one is not ready, one terminates", []pod{on("pod-2", terminating), on("pod-3", notReady), on("pod-5")}, 0, http.StatusServiceUnavailable},
		{"one came back", []pod{on("pod-2")}, 1, http.StatusOK},
		{"none", nil, 0, http.StatusServiceUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			c.set(c.endpoints(s, row.pods...)...)
			p.follow()
			for _, address := range []string{"192.168.50.1:31111", "[fd50::1]:31111"} {
				// The servers are told right after the kernel.
				var got *response
				defer func() {
					if t.Failed() {
						t.Logf("%s: last answer %+v", address, got)
					}
				}()
				eventually(t, "answered as it should be", func() bool {
					var err error
					if got, err = fetch(c.Client(), http.MethodGet, address, "/anything", nil); err != nil {
						t.Fatal(err)
					}
					return got.body == body(row.local)
				})
				if got.status != row.status {
					t.Errorf("%s: status %d, want %d", address, got.status, row.status)
				}
				for name, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff",
					"X-Load-Balancing-Endpoint-Weight": fmt.Sprint(row.local)} {
					if got.header.Get(name) != want {
						t.Errorf("%s: header %s is %q, want %q", address, name, got.header.Get(name), want)
					}
				}
			}
		})
	}
	t.Run("no longer asked for", func(t *testing.T) {
		c.set(newService(1, "web"))
		p.follow()
		eventually(t, "closed", func() bool {
			_, err := fetch(c.Client(), http.MethodGet, "192.168.50.1:31111", "/", nil)
			return err != nil
		})
	})
}
