package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// stays is how often a client connects to show that it stays with its endpoint: of three endpoints, chance alone would choose the
// same one once in half a million times.
const stays = 12

// server connects once and returns who answered; anything but a connection ends the test.
func server(t *testing.T, from client, p proxy.Protocol, to netip.AddrPort) string {
	t.Helper()
	got := dial(from, p, to, lab.Connected)
	if got.Result != lab.Connected {
		t.Fatalf("%s to %s/%s: %v", from.Name, to, p, got)
	}
	return got.Server
}

// sticks connects many times and returns the one server that answered; it ends the test if there are several.
func sticks(t *testing.T, from client, p proxy.Protocol, to netip.AddrPort) string {
	t.Helper()
	first := server(t, from, p, to)
	for range stays {
		if next := server(t, from, p, to); next != first {
			t.Fatalf("%s to %s/%s: first %s, then %s", from.Name, to, p, first, next)
		}
	}
	return first
}

// TestAffinity has clients stay with their endpoints, whichever address of a Service they use.
func TestAffinity(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pods := []pod{on("pod-2"), on("pod-3"), on("pod-5")}
	c.serve("pod-2", "pod-3", "pod-5")
	web, local := newService(1, "web", sticky(600)), newService(2, "local", sticky(10800), externalLocal)
	c.set(append(c.with(web, pods...), c.with(local, pods...)...)...)
	p := c.start()
	for _, f := range proxy.Families {
		for i := range 3 {
			from := client{Host: c.Client(), source: i}
			t.Run(fmt.Sprintf("one endpoint for all addresses/%s/client %d", f, i), func(t *testing.T) {
				first := sticks(t, from, proxy.TCP, c.address(web, proxy.NodePort, f, proxy.TCP))
				for _, k := range everyKind {
					if next := sticks(t, from, proxy.TCP, c.address(web, k, f, proxy.TCP)); next != first && !limited("affinity") {
						t.Errorf("NodePort leads to %s, %s to %s", first, k, next)
					}
				}
			})
		}
		t.Run("another protocol/"+f.String(), func(t *testing.T) {
			for _, protocol := range []proxy.Protocol{proxy.UDP, proxy.SCTP} {
				sticks(t, c.from(localPod), protocol, c.address(web, proxy.ClusterIP, f, protocol))
			}
		})
		t.Run("policy Local/"+f.String(), func(t *testing.T) {
			if got := sticks(t, c.from(outside), proxy.TCP, c.address(local, proxy.LoadBalancerIP, f, proxy.TCP)); got == "pod-5" {
				t.Errorf("led to %s on the other node", got)
			}
			inside := sticks(t, c.from(localPod), proxy.TCP, c.address(local, proxy.LoadBalancerIP, f, proxy.TCP))
			if next := sticks(t, c.from(localPod), proxy.TCP, c.address(local, proxy.ClusterIP, f, proxy.TCP)); next != inside && !limited("affinity") {
				t.Errorf("a pod is led to %s through the load-balancer IP, to %s through the ClusterIP", inside, next)
			}
		})
	}
	t.Run("changes", func(t *testing.T) { c.affinityOverChanges(t, p, web) })
}

// affinityOverChanges adds and removes endpoints of a sticky Service.
func (c *cluster) affinityOverChanges(t *testing.T, p *process, s *v1.Service) {
	to, from := c.address(s, proxy.NodePort, proxy.IPv4, proxy.TCP), c.from(outside)
	first := sticks(t, from, proxy.TCP, to)
	var others []pod
	for _, name := range []string{"pod-2", "pod-3", "pod-5"} {
		if name != first {
			others = append(others, on(name))
		}
	}
	c.serve("pod-4")
	c.set(c.endpoints(s, append(others, on(first), on("pod-4"))...)...)
	p.follow()
	if got := sticks(t, from, proxy.TCP, to); got != first {
		t.Errorf("an endpoint was added: moved from %s to %s", first, got)
	}
	c.set(c.endpoints(s, on(first), others[0])...)
	p.follow()
	if got := sticks(t, from, proxy.TCP, to); got != first {
		t.Errorf("other endpoints were removed: moved from %s to %s", first, got)
	}
	c.set(c.endpoints(s, others...)...)
	p.follow()
	second := sticks(t, from, proxy.TCP, to)
	if second == first {
		t.Errorf("%s is no endpoint any longer and still answers", first)
	}
	c.set(c.endpoints(s, append(others, on(first))...)...)
	p.follow()
	if got := sticks(t, from, proxy.TCP, to); got != second {
		t.Errorf("an endpoint came back: moved from %s to %s", second, got)
	}
}

// TestAffinityWithinPool remembers clients of the ClusterIP for the endpoint on this node, which policy Cluster does not use: hints
// leave it to another zone. Connections that policy Cluster is about must not follow the memory.
func TestAffinityWithinPool(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-2", "pod-5")
	s := newService(1, "web", sticky(600), internalLocal)
	c.set(c.with(s, on("pod-2", forZone("zone-b")), on("pod-5", forZone("zone-a")))...)
	c.start()
	for _, f := range proxy.Families {
		for range 3 {
			c.check(t, c.from(outside), proxy.TCP, c.address(s, proxy.ClusterIP, f, proxy.TCP), masqueraded("pod-2"))
			c.check(t, c.from(outside), proxy.TCP, c.address(s, proxy.NodePort, f, proxy.TCP), masqueraded("pod-5"))
		}
	}
}

// TestAffinityEnds lets a client be forgotten after the Service's timeout without a new connection.
func TestAffinityEnds(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-1", "pod-2", "pod-3", "pod-5")
	s := newService(1, "web", sticky(1))
	c.set(c.with(s, on("pod-1"), on("pod-2"), on("pod-3"), on("pod-5"))...)
	c.start()
	to := c.address(s, proxy.ClusterIP, proxy.IPv4, proxy.TCP)
	first := server(t, c.from(outside), proxy.TCP, to)
	for range 20 { // chance chooses the same one of four each time once in 10^12 times
		time.Sleep(1500 * time.Millisecond)
		if server(t, c.from(outside), proxy.TCP, to) != first {
			return
		}
	}
	t.Errorf("the client still is with %s", first)
}

// TestAffinityOff has connections balanced again once a Service does not ask for affinity any longer.
func TestAffinityOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-2", "pod-3")
	s := newService(1, "web", sticky(3600))
	c.set(c.with(s, on("pod-2"), on("pod-3"))...)
	p := c.start()
	to := c.address(s, proxy.ExternalIP, proxy.IPv6, proxy.TCP)
	sticks(t, c.from(outside), proxy.TCP, to)
	c.set(newService(1, "web"))
	p.follow()
	c.check(t, c.from(outside), proxy.TCP, to, masqueraded("pod-2", "pod-3"))
	c.set(s)
	p.follow()
	sticks(t, c.from(outside), proxy.TCP, to)
}
