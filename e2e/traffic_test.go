package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

// situation is a Service, and what becomes of connections to each of its addresses from each origin.
type situation struct {
	name    string
	service *v1.Service
	pods    []pod
	// internal is for the ClusterIP, external for all other addresses; by origin.
	internal, external map[string]expectation
}

// The origins of connections. The node itself and hosts outside are other origins to policies than pods.
const (
	localPod, remotePod, thisNode, outside = "pod-1", "pod-4", "n1", "client"
)

var origins = []string{localPod, remotePod, thisNode, outside}

// same expects the same whoever connects.
func same(e expectation) map[string]expectation {
	return map[string]expectation{localPod: e, remotePod: e, thisNode: e, outside: e}
}

// situations are the rows of the table of what happens to traffic; pod-2 is on the node, pod-5 on the other one.
func situations() []situation {
	both := []pod{on("pod-2"), on("pod-5")}
	none := on("pod-2", notReady)
	return []situation{
		{"policy Cluster", newService(1, "cluster"), both,
			map[string]expectation{localPod: kept("pod-2", "pod-5"), remotePod: kept("pod-2", "pod-5"),
				thisNode: masqueraded("pod-2", "pod-5"), outside: masqueraded("pod-2", "pod-5")},
			same(masqueraded("pod-2", "pod-5"))},
		{"policy Local, endpoint here", newService(2, "here", internalLocal, externalLocal), both,
			map[string]expectation{localPod: kept("pod-2"), remotePod: kept("pod-2"), thisNode: masqueraded("pod-2"), outside: masqueraded("pod-2")},
			map[string]expectation{localPod: unlessLimited("one-pool", kept("pod-2", "pod-5"), kept("pod-2")),
				remotePod: unlessLimited("one-pool", kept("pod-2", "pod-5"), kept("pod-2")),
				thisNode:  unlessLimited("one-pool", masqueraded("pod-2", "pod-5"), masqueraded("pod-2")), outside: kept("pod-2")}},
		{"policy Local, endpoints elsewhere only", newService(3, "elsewhere", internalLocal, externalLocal), []pod{on("pod-5"), on("n2")},
			same(dropped),
			map[string]expectation{localPod: kept("pod-5", "n2"), remotePod: kept("pod-5"),
				thisNode: masqueraded("pod-5", "n2"), outside: dropped}},
		{"policy Local inside only", newService(4, "inside", internalLocal), both,
			map[string]expectation{localPod: kept("pod-2"), remotePod: kept("pod-2"), thisNode: masqueraded("pod-2"), outside: masqueraded("pod-2")},
			same(masqueraded("pod-2", "pod-5"))},
		{"policy Cluster, no endpoint", newService(5, "none"), nil, same(refused), same(refused)},
		{"policy Local, no endpoint", newService(6, "none-local", internalLocal, externalLocal), nil, same(refused), same(refused)},
		{"no endpoint is ready", newService(7, "not-ready"), []pod{none}, same(refused), same(refused)},
	}
}

// TestTraffic sends packets from every origin to every kind of address in every situation.
func TestTraffic(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.symmetric()
	c.strays()
	c.serve("pod-2", "pod-5", "n2")
	table := situations()
	// Answers of n2 itself to its own pods do not pass through n1: remote pods get a Service without that endpoint.
	remote := newService(8, "elsewhere-pod", internalLocal, externalLocal)
	all := c.with(remote, on("pod-5"))
	for _, s := range table {
		all = append(all, c.with(s.service, s.pods...)...)
	}
	c.set(all...)
	c.start()
	var probes []probe
	for _, s := range table {
		for _, origin := range origins {
			service := s.service
			if service.Name == "elsewhere" && origin == remotePod {
				service = remote
			}
			for _, f := range proxy.Families {
				probes = append(probes, c.cells(s, service, origin, f)...)
			}
		}
	}
	c.probe(t, probes...)
}

// protocols are those that a cell of the table is tried with: the way through the rules is the same for all three, so some of
// the cells are enough for UDP and SCTP.
func protocols(k proxy.Kind, origin string) []proxy.Protocol {
	if (k == proxy.ClusterIP && origin == localPod) || (k == proxy.NodePort && origin == outside) {
		return []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP}
	}
	return []proxy.Protocol{proxy.TCP}
}

// cells are the probes of a situation, from one origin and in one family.
func (c *cluster) cells(s situation, service *v1.Service, origin string, f proxy.Family) (out []probe) {
	for _, kind := range []proxy.Kind{proxy.ClusterIP, proxy.NodePort, proxy.ExternalIP, proxy.LoadBalancerIP} {
		want := s.external[origin]
		if kind == proxy.ClusterIP {
			want = s.internal[origin]
		}
		for _, p := range protocols(kind, origin) {
			name := fmt.Sprintf("%s/%s/from %s/%s/%s", s.name, kind, origin, f, p)
			out = append(out, probe{name, c.from(origin), p, c.address(service, kind, f, p), want})
		}
	}
	return out
}

// TestNoSuchPort sends packets to ports that a ClusterIP does not have, and to addresses that no Service has.
func TestNoSuchPort(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.strays()
	c.serve("pod-2")
	s := newService(1, "web")
	c.set(c.with(s, on("pod-2"))...)
	c.start()
	at := func(text string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(text), port)
	}
	var probes []probe
	for _, row := range []struct {
		name    string
		origins []string
		to      [2]string
		port    uint16
		want    expectation
	}{
		{"undefined port of a ClusterIP", origins, [2]string{"10.96.0.1", "fd00:10:96::1"}, 81, refused},
		{"port of another protocol", origins, [2]string{"10.96.0.1", "fd00:10:96::1"}, uint16(ports[proxy.SCTP]), refused},
		{"address that no Service has", origins, [2]string{"10.96.0.200", "fd00:10:96::c8"}, 80, dropped},
		// Only ClusterIPs belong to the proxy as a whole. Other addresses may be served by others, too, so packets go where routes lead.
		{"undefined port of a load-balancer IP", insiders, [2]string{"192.168.60.1", "fd60::1"}, 81, unlessLimited("undefined-ports", passed(), refused)},
		{"undefined node port", origins, [2]string{"192.168.50.1", "fd50::1"}, 30999, refused},
	} {
		for _, origin := range row.origins {
			for i, f := range proxy.Families {
				for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
					if p == proxy.UDP && len(row.want.Servers) > 0 {
						continue
					}
					name := fmt.Sprintf("%s/from %s/%s/%s", row.name, origin, f, p)
					probes = append(probes, probe{name, c.from(origin), p, at(row.to[i], row.port), row.want})
				}
			}
		}
	}
	c.probe(t, probes...)
}

// TestSourceRanges connects to a load-balancer IP from inside and outside of its source ranges, and to the other addresses, for
// which ranges do not count.
func TestSourceRanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.symmetric()
	c.strays()
	c.serve("pod-2")
	ranges := sourceRanges("192.168.50.1/32", "192.168.50.100/32", "10.244.1.2/32", "fd50::1/128", "fd50::100/128", " fd00:10:244:1::2/128")
	s, local, empty := newService(1, "cluster", ranges), newService(2, "local", ranges, externalLocal), newService(3, "empty", ranges)
	all, half := newService(4, "everybody", sourceRanges("203.0.113.0/24", "0.0.0.0/0", "::/0")), newService(5, "v4", sourceRanges("203.0.113.0/24"))
	var list []metav1.Object
	for _, service := range []*v1.Service{s, local, all, half} {
		list = append(list, c.with(service, on("pod-2"))...)
	}
	c.set(append(list, c.with(empty)...)...)
	c.start()
	another := client{Host: c.Client(), source: 1}
	var probes []probe
	for _, row := range []struct {
		name    string
		service *v1.Service
		kind    proxy.Kind
		from    client
		want    expectation
	}{
		{"allowed", s, proxy.LoadBalancerIP, c.from(outside), masqueraded("pod-2")},
		{"another address", s, proxy.LoadBalancerIP, another, dropped},
		{"allowed pod", s, proxy.LoadBalancerIP, c.from(localPod), masqueraded("pod-2")},
		{"another pod", s, proxy.LoadBalancerIP, c.from("pod-3"), dropped},
		{"remote pod", s, proxy.LoadBalancerIP, c.from(remotePod), dropped},
		{"the node", s, proxy.LoadBalancerIP, c.from(thisNode), masqueraded("pod-2")},
		{"ClusterIP", s, proxy.ClusterIP, another, masqueraded("pod-2")},
		{"external IP", s, proxy.ExternalIP, another, masqueraded("pod-2")},
		{"NodePort", s, proxy.NodePort, another, masqueraded("pod-2")},
		{"policy Local, allowed", local, proxy.LoadBalancerIP, c.from(outside), kept("pod-2")},
		{"policy Local, another address", local, proxy.LoadBalancerIP, another, dropped},
		{"no endpoint, allowed", empty, proxy.LoadBalancerIP, c.from(outside), refused},
		{"no endpoint, another address", empty, proxy.LoadBalancerIP, another, dropped},
		{"a range of everything", all, proxy.LoadBalancerIP, another, masqueraded("pod-2")},
	} {
		for _, f := range proxy.Families {
			probes = append(probes, probe{row.name + "/" + f.String(), row.from, proxy.TCP, c.address(row.service, row.kind, f, proxy.TCP), row.want})
		}
	}
	const oneFamily = "ranges of one family leave the other alone/"
	probes = append(probes,
		probe{oneFamily + "IPv4", c.from(outside), proxy.TCP, c.address(half, proxy.LoadBalancerIP, proxy.IPv4, proxy.TCP), dropped},
		probe{oneFamily + "IPv6", c.from(outside), proxy.TCP, c.address(half, proxy.LoadBalancerIP, proxy.IPv6, proxy.TCP), masqueraded("pod-2")})
	c.probe(t, probes...)
}
