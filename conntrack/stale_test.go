package conntrack

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"turnout/proxy"
)

const (
	vip     = "10.96.0.10:53"
	podA    = "10.1.0.1:5353"
	podB    = "10.1.0.2:5353"
	nodeIP  = "192.0.2.1"
	otherIP = "192.0.2.99"
	client  = "10.1.9.9:40000"
)

// service makes a UDP Service; a frontend of address "" is a NodePort.
func service(name string, frontends []string, serving ...string) *proxy.Service {
	s := &proxy.Service{Name: proxy.ServicePortName{ServiceName: proxy.ServiceName{Namespace: "ns", Name: name}, Protocol: proxy.UDP}}
	for _, f := range frontends {
		if f[0] == ':' {
			s.Frontends = append(s.Frontends, proxy.Frontend{Kind: proxy.NodePort, Port: netip.MustParseAddrPort("0.0.0.0" + f).Port()})
			continue
		}
		a := netip.MustParseAddrPort(f)
		s.Frontends = append(s.Frontends, proxy.Frontend{Kind: proxy.ClusterIP, Addr: a.Addr(), Port: a.Port()})
	}
	for _, e := range serving {
		s.Serving = append(s.Serving, netip.MustParseAddrPort(e))
	}
	slices.SortFunc(s.Serving, netip.AddrPort.Compare)
	return s
}

func withProtocol(s *proxy.Service, p proxy.Protocol) *proxy.Service {
	s.Name.Protocol = p
	return s
}

// flow makes a UDP flow from the client to dst that from answers.
func flow(dst, from string) Flow {
	c, d, r := netip.MustParseAddrPort(client), netip.MustParseAddrPort(dst), netip.MustParseAddrPort(from)
	return Flow{Protocol: proxy.UDP, Original: Tuple{Src: c, Dst: d}, Reply: Tuple{Src: r, Dst: c}}
}

func TestStale(t *testing.T) {
	vips := []string{vip}
	node := []string{":30053"}
	dns := service("dns", vips, podA)
	tcp := flow(vip, podB)
	tcp.Protocol = proxy.TCP
	sctp := flow(vip, podB)
	sctp.Protocol = proxy.SCTP

	for _, tt := range []struct {
		name    string
		before  []Change // already cleaned
		changed []Change
		flow    Flow
		stale   bool
	}{
		{name: "endpoint that no longer serves", before: []Change{{New: service("dns", vips, podA, podB)}}, changed: []Change{{Old: service("dns", vips, podA, podB), New: dns}}, flow: flow(vip, podB), stale: true},
		{name: "endpoint that still serves", before: []Change{{New: service("dns", vips, podA, podB)}}, changed: []Change{{Old: service("dns", vips, podA, podB), New: dns}}, flow: flow(vip, podA)},
		{name: "same address, other port of an endpoint", changed: []Change{{New: dns}}, flow: flow(vip, "10.1.0.1:5354"), stale: true},
		{name: "no serving endpoint is left", before: []Change{{New: dns}}, changed: []Change{{Old: dns, New: service("dns", vips)}}, flow: flow(vip, podA), stale: true},
		{name: "flow that began before the service", changed: []Change{{New: dns}}, flow: flow(vip, vip), stale: true},
		{name: "flow that began before the service, which has no endpoints", changed: []Change{{New: service("dns", vips)}}, flow: flow(vip, vip), stale: true},
		{name: "external IP added, endpoints unchanged", before: []Change{{New: dns}}, changed: []Change{{Old: dns, New: service("dns", []string{vip, "198.51.100.7:53"}, podA)}}, flow: flow("198.51.100.7:53", "198.51.100.7:53"), stale: true},
		{name: "external IP removed, flow was translated", before: []Change{{New: service("dns", []string{vip, "198.51.100.7:53"}, podA)}}, changed: []Change{{Old: service("dns", []string{vip, "198.51.100.7:53"}, podA), New: dns}}, flow: flow("198.51.100.7:53", podA), stale: true},
		{name: "external IP removed, the other frontend's flow stays", before: []Change{{New: service("dns", []string{vip, "198.51.100.7:53"}, podA)}}, changed: []Change{{Old: service("dns", []string{vip, "198.51.100.7:53"}, podA), New: dns}}, flow: flow(vip, podA)},
		{name: "service deleted", before: []Change{{New: dns}}, changed: []Change{{Old: dns}}, flow: flow(vip, podA), stale: true},
		{name: "service deleted, flow bypassed it", before: []Change{{New: dns}}, changed: []Change{{Old: dns}}, flow: flow(vip, vip)},
		{name: "service deleted that was never seen", changed: []Change{{Old: dns}}, flow: flow(vip, podA), stale: true},
		{name: "frontend taken over, endpoint of the new owner", before: []Change{{New: dns}}, changed: []Change{{Old: dns}, {New: service("dns2", vips, podB)}}, flow: flow(vip, podB)},
		{name: "frontend taken over, endpoint of the old owner", before: []Change{{New: dns}}, changed: []Change{{Old: dns}, {New: service("dns2", vips, podB)}}, flow: flow(vip, podA), stale: true},
		{name: "taken over, in the other order, endpoint of the new owner", before: []Change{{New: dns}}, changed: []Change{{New: service("dns2", vips, podB)}, {Old: dns}}, flow: flow(vip, podB)},
		{name: "taken over, in the other order, endpoint of the old owner", before: []Change{{New: dns}}, changed: []Change{{New: service("dns2", vips, podB)}, {Old: dns}}, flow: flow(vip, podA), stale: true},
		{name: "taken over from a service that lives on", before: []Change{{New: dns}}, changed: []Change{{New: service("dns2", vips, podB)}, {Old: dns, New: service("dns", []string{"10.96.0.11:53"}, podA)}}, flow: flow(vip, podB)},
		{name: "taken over with the same endpoint", before: []Change{{New: dns}}, changed: []Change{{Old: dns}, {New: service("dns2", vips, podA)}}, flow: flow(vip, podA)},

		{name: "node port added, flow to the node bypassed it", before: []Change{{New: dns}}, changed: []Change{{Old: dns, New: service("dns", []string{vip, ":30053"}, podA)}}, flow: flow(nodeIP+":30053", nodeIP+":30053"), stale: true},
		{name: "node port, endpoint gone", before: []Change{{New: service("dns", node, podA, podB)}}, changed: []Change{{New: service("dns", node, podA)}}, flow: flow(nodeIP+":30053", podB), stale: true},
		{name: "node port, endpoint serves", changed: []Change{{New: service("dns", node, podA)}}, flow: flow(nodeIP+":30053", podA)},
		{name: "node port, no serving endpoint", changed: []Change{{New: service("dns", node)}}, flow: flow(nodeIP+":30053", podA), stale: true},
		{name: "port of a node port, but of another machine", changed: []Change{{New: service("dns", node, podA)}}, flow: flow(otherIP+":30053", otherIP+":30053")},
		{name: "port of a node port without endpoints, of another machine", changed: []Change{{New: service("dns", node)}}, flow: flow(otherIP+":30053", otherIP+":30053")},
		{name: "node port removed, flow was translated", before: []Change{{New: service("dns", node, podA)}}, changed: []Change{{Old: service("dns", node, podA), New: dns}}, flow: flow(nodeIP+":30053", podA), stale: true},
		{name: "node port removed, a local program answers", before: []Change{{New: service("dns", node, podA)}}, changed: []Change{{Old: service("dns", node, podA), New: dns}}, flow: flow(nodeIP+":30053", nodeIP+":30053")},
		{name: "endpoint in the host's network on the node port itself", changed: []Change{{New: service("dns", node, nodeIP+":30053")}}, flow: flow(nodeIP+":30053", nodeIP+":30053")},
		{name: "node port changes, the flow is another service's external IP", before: []Change{{New: service("ext", []string{nodeIP + ":30053"}, podB)}}, changed: []Change{{New: service("dns", node, podA)}}, flow: flow(nodeIP+":30053", podB)},
		{name: "external IP on the node goes, the node port behind it serves", before: []Change{{New: service("ext", []string{nodeIP + ":30053"}, podB)}, {New: service("dns", node, podA)}}, changed: []Change{{Old: service("ext", []string{nodeIP + ":30053"}, podB)}}, flow: flow(nodeIP+":30053", podA)},
		{name: "external IP on the node goes, the node port behind it does not know the endpoint", before: []Change{{New: service("ext", []string{nodeIP + ":30053"}, podB)}, {New: service("dns", node, podA)}}, changed: []Change{{Old: service("ext", []string{nodeIP + ":30053"}, podB)}}, flow: flow(nodeIP+":30053", podB), stale: true},

		{name: "node port on a loopback address, endpoint gone", changed: []Change{{New: service("dns", node, podA)}}, flow: flow("127.0.0.1:30053", podB), stale: true},
		{name: "node port on a loopback address, endpoint serves", changed: []Change{{New: service("dns", node, podA)}}, flow: flow("127.0.0.2:30053", podA)},
		{name: "node port on a loopback address, no serving endpoint", changed: []Change{{New: service("dns", node)}}, flow: flow("127.0.0.1:30053", podA), stale: true},
		{name: "node port on a loopback address removed", before: []Change{{New: service("dns", node, podA)}}, changed: []Change{{Old: service("dns", node, podA), New: dns}}, flow: flow("127.0.0.1:30053", podA), stale: true},
		{name: "node port on a loopback address added, flow bypassed it", changed: []Change{{New: service("dns", node, podA)}}, flow: flow("127.0.0.1:30053", "127.0.0.1:30053"), stale: true},
		{name: "another port of a loopback address", changed: []Change{{New: service("dns", node, podA)}}, flow: flow("127.0.0.1:30054", "127.0.0.1:30054")},

		{name: "address of no service", changed: []Change{{New: dns}}, flow: flow("8.8.8.8:53", "8.8.8.8:53")},
		{name: "other port of a service's address", changed: []Change{{New: dns}}, flow: flow("10.96.0.10:54", "10.96.0.10:54")},
		{name: "straight to a pod", changed: []Change{{New: dns}}, flow: flow(podB, podB)},
		{name: "unchanged service", before: []Change{{New: dns}}, changed: []Change{{New: service("web", []string{"10.96.0.20:80"})}}, flow: flow(vip, podB)},
		{name: "TCP flow to the same address and port", changed: []Change{{New: service("dns", vips)}}, flow: tcp},
		{name: "SCTP flow to the same address and port", changed: []Change{{New: service("dns", vips)}}, flow: sctp},
		{name: "TCP service", changed: []Change{{New: withProtocol(service("dns", vips), proxy.TCP)}}, flow: tcp},
		{name: "SCTP service", changed: []Change{{New: withProtocol(service("dns", vips), proxy.SCTP)}}, flow: sctp},
		{name: "TCP service goes, UDP service on the same address stays", before: []Change{{New: service("dns", vips, podB)}}, changed: []Change{{Old: withProtocol(service("dns", vips, podA), proxy.TCP)}}, flow: flow(vip, podB)},
		{name: "nothing at all", changed: []Change{{}}, flow: flow(vip, podB)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newIndex()
			x.setNodeAddrs([]netip.Addr{netip.MustParseAddr(nodeIP)})
			x.update(tt.before)
			clear(x.dirty)
			x.update(tt.changed)
			if got := x.stale(tt.flow); got != tt.stale {
				t.Errorf("%s: stale %t, want %t", tt.flow, got, tt.stale)
			}
		})
	}
}

func TestChangesThatFlowsDoNotDependOnAskNothing(t *testing.T) {
	table := &fakeTable{}
	c := table.cleaner(proxy.IPv4)
	old := service("dns", []string{vip, ":30053"}, podA)
	node := []netip.Addr{netip.MustParseAddr(nodeIP)}
	if r, err := c.Clean(context.Background(), node, []Change{{New: old}}); err != nil || !r.Ran {
		t.Fatalf("first: %+v, %v", r, err)
	}
	next := service("dns", []string{vip, ":30053"}, podA)
	next.Cluster = []proxy.Endpoint{{Addr: netip.MustParseAddrPort(podA)}} // became ready
	web := withProtocol(service("web", []string{"10.96.0.20:80"}, podA), proxy.TCP)
	for _, tt := range []struct {
		name    string
		changed []Change
	}{
		{"readiness", []Change{{Old: old, New: next}}},
		{"new owner with the same endpoints", []Change{{New: service("dns2", []string{vip, ":30053"}, podA)}, {Old: next}}},
		{"TCP service", []Change{{New: web}}},
		{"end of a TCP service", []Change{{Old: web}}},
		{"none", nil},
	} {
		if r, err := c.Clean(context.Background(), node, tt.changed); err != nil || r.Ran {
			t.Errorf("%s: %+v, %v, want no run", tt.name, r, err)
		}
	}
	if table.opens != 1 {
		t.Errorf("kernel was asked %d times, want 1", table.opens)
	}
}

func TestNewNodeAddressMakesNodePortsDirty(t *testing.T) {
	bypass := flow(otherIP+":30053", otherIP+":30053")
	table := &fakeTable{flows: []Flow{bypass, flow(vip, podB)}}
	c := table.cleaner(proxy.IPv4)
	first := []netip.Addr{netip.MustParseAddr(nodeIP)}
	if _, err := c.Clean(context.Background(), first, []Change{{New: service("dns", []string{vip, ":30053"}, podA)}}); err != nil {
		t.Fatal(err)
	}
	if want := bypass.String() + "\n"; table.String() != want {
		t.Fatalf("before: %s, want %s", table, want)
	}
	both := append(first, netip.MustParseAddr(otherIP))
	r, err := c.Clean(context.Background(), both, nil)
	if err != nil || r.Deleted != 1 || len(table.flows) != 0 {
		t.Fatalf("address added: %+v, %v, left: %s", r, err, table)
	}
	if r, err = c.Clean(context.Background(), first, nil); err != nil || r.Ran {
		t.Fatalf("address removed: %+v, %v, want no run", r, err)
	}
}

func TestFilterIsAsNarrowAsTheChange(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name      string
		frontends []string
		want      filter
	}{
		{"one frontend", []string{vip}, filter{addr: addr("10.96.0.10"), port: 53}},
		{"two ports of an address", []string{vip, "10.96.0.10:54"}, filter{addr: addr("10.96.0.10")}},
		{"two addresses, one port", []string{vip, "198.51.100.7:53"}, filter{port: 53}},
		{"node port", []string{":30053"}, filter{port: 30053}},
		{"address and node port of the same number", []string{"10.96.0.10:30053", ":30053"}, filter{port: 30053}},
		{"address and node port", []string{vip, ":30053"}, filter{}},
		{"nothing in common, in three", []string{vip, "10.96.0.11:54", "10.96.0.11:55"}, filter{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newIndex()
			x.update([]Change{{New: service("dns", tt.frontends, podA)}})
			tt.want.family, tt.want.protocol = proxy.IPv4, proxy.UDP
			if got := x.filter(proxy.IPv4); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
