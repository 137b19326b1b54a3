package compare

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// packet is the first packet of a connection that is sent in both labs.
type packet struct {
	proxytest.Packet
	// service is the name of whose address it is sent to, "" if it is nobody's; kind says which of its addresses.
	service, kind string
	sticky        bool // the Service has session affinity
	foreign       bool // it is another proxy's
	restricted    bool // it has source ranges
	// ambiguous tells that an endpoint of the Service is listed twice, in different words; contested that another Service has the same
	// address and port.
	ambiguous, contested bool
}

func (p packet) family() proxy.Family { return proxy.FamilyOf(p.Destination) }

// String returns "client 192.168.50.100 -> 10.96.0.1:80/TCP, ClusterIP of ns/web".
func (p packet) String() string {
	if p.service == "" {
		return p.Packet.String() + ", " + p.kind
	}
	return fmt.Sprintf("%s, %s of %s", p.Packet, p.kind, p.service)
}

// Kinds of packets that no Service is meant to get.
const (
	undefined = "undefined port of the ClusterIP"
	nobody    = "ClusterIP of nobody"
)

// packets returns those to every address that objects name, from everybody: whether a proxy should serve the address or not. There
// are also some to ports and addresses that no Service has. Which packets these are does not depend on any proxy's opinion.
func packets(c *proxytest.Cluster, objects []metav1.Object) []packet {
	twice, endpoints := listedTwice(objects), endpointsOf(objects)
	var out []packet
	owners := map[target]map[string]bool{}
	for _, o := range objects {
		s, ok := o.(*v1.Service)
		if !ok {
			continue
		}
		name := s.Namespace + "/" + s.Name
		for _, t := range targets(c, s) {
			t.service, t.sticky, t.ambiguous = name, s.Spec.SessionAffinity == v1.ServiceAffinityClientIP, twice[name]
			t.foreign, t.restricted = foreign(s), len(s.Spec.LoadBalancerSourceRanges) > 0
			if owners[t.target()] == nil {
				owners[t.target()] = map[string]bool{}
			}
			owners[t.target()][name] = true
			out = append(out, fromEverybody(c, t, endpoints[name])...)
		}
	}
	for _, f := range proxy.Families {
		for _, t := range []packet{
			{Packet: proxytest.Packet{Destination: nobodys[f], Port: 80, Protocol: proxy.TCP}, kind: nobody},
			{Packet: proxytest.Packet{Destination: nobodys[f], Port: 53, Protocol: proxy.UDP}, kind: nobody},
			{Packet: proxytest.Packet{Destination: c.Hosts[0].Addr(f), Port: 32767, Protocol: proxy.TCP}, kind: "NodePort of nobody"},
		} {
			out = append(out, fromEverybody(c, t, nil)...)
		}
	}
	for i := range out {
		out[i].contested = len(owners[out[i].target()]) > 1
	}
	return out
}

// target is where packets are sent to.
type target struct {
	addr     netip.AddrPort
	protocol proxy.Protocol
}

func (p packet) target() target { return target{netip.AddrPortFrom(p.Destination, p.Port), p.Protocol} }

// nobodys are addresses of the ServiceCIDRs that no Service has.
var nobodys = map[proxy.Family]netip.Addr{proxy.IPv4: netip.MustParseAddr("10.96.200.1"), proxy.IPv6: netip.MustParseAddr("fd00:10:96::c801")}

// targets are where packets to a Service are sent to.
func targets(c *proxytest.Cluster, s *v1.Service) (out []packet) {
	for _, port := range s.Spec.Ports {
		protocol := protocols[port.Protocol]
		add := func(kind string, number int32, addrs ...string) {
			for _, text := range addrs {
				if a, err := netip.ParseAddr(text); err == nil && number != 0 {
					to := proxytest.Packet{Destination: a, Port: uint16(number), Protocol: protocol}
					out = append(out, packet{Packet: to, kind: kind})
				}
			}
		}
		add("ClusterIP", port.Port, s.Spec.ClusterIPs...)
		add("external IP", port.Port, s.Spec.ExternalIPs...)
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			add("load-balancer IP", port.Port, ingress.IP)
		}
		for _, a := range c.NodeAddrs {
			add("NodePort", port.NodePort, a.String())
		}
	}
	for _, text := range s.Spec.ClusterIPs[:min(1, len(s.Spec.ClusterIPs))] {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, packet{Packet: proxytest.Packet{Destination: a, Port: 81, Protocol: proxy.TCP}, kind: undefined})
		}
	}
	return out
}

var protocols = map[v1.Protocol]proxy.Protocol{v1.ProtocolTCP: proxy.TCP, v1.ProtocolUDP: proxy.UDP, v1.ProtocolSCTP: proxy.SCTP}

// fromEverybody sends a packet from each host, and from each address of the outside client, to a Service with some endpoints.
func fromEverybody(c *proxytest.Cluster, to packet, endpoints []string) (out []packet) {
	f := to.family()
	to.NodeAddrs = proxytest.AddrsOf(f, c.NodeAddrs)
	for _, h := range c.Hosts {
		if unanswerable(c, h, endpoints) {
			continue
		}
		sources := proxytest.AddrsOf(f, h.Addrs)
		if h.Node != "" {
			sources = sources[:1]
		}
		for _, source := range sources {
			p := to
			p.From, p.Source, p.Interface = h.Name, source, h.Interface
			out = append(out, p)
		}
	}
	return out
}

// unanswerable tells that some answers to a host would not come back through n1, whatever the proxy there does: n2 has no proxy, so its
// Services are reached through n1, but what it and its pods answer to each other stays on n2, and so does what a pod sends to itself.
func unanswerable(c *proxytest.Cluster, h proxytest.Host, endpoints []string) bool {
	if h.Node != "n2" {
		return false
	}
	for _, there := range c.Hosts {
		if there.Node != "n2" || h.Pod && there.Pod && there.Name != h.Name {
			continue
		}
		for _, a := range there.Addrs {
			if slices.Contains(endpoints, a.String()) {
				return true
			}
		}
	}
	return false
}

// endpointsOf returns the addresses in all EndpointSlices of each Service.
func endpointsOf(objects []metav1.Object) map[string][]string {
	out := map[string][]string{}
	for _, o := range objects {
		if slice, ok := o.(*discovery.EndpointSlice); ok {
			name := slice.Namespace + "/" + slice.Labels[discovery.LabelServiceName]
			for _, e := range slice.Endpoints {
				out[name] = append(out[name], e.Addresses[0])
			}
		}
	}
	return out
}

// listedTwice returns the names of Services of which EndpointSlices say different things about an address that are not settled by
// one of them saying that the endpoint terminates.
func listedTwice(objects []metav1.Object) map[string]bool {
	first := map[string]discovery.Endpoint{}
	out := map[string]bool{}
	for _, o := range objects {
		slice, ok := o.(*discovery.EndpointSlice)
		if !ok {
			continue
		}
		name := slice.Namespace + "/" + slice.Labels[discovery.LabelServiceName]
		for _, e := range slice.Endpoints {
			key := fmt.Sprint(name, e.Addresses[0], terminates(e))
			other, again := first[key]
			if !again {
				first[key] = e
			} else if cmp.Diff(e, other) != "" {
				out[name] = true
			}
		}
	}
	return out
}

func terminates(e discovery.Endpoint) bool {
	return e.Conditions.Terminating != nil && *e.Conditions.Terminating
}

// nameOf tells objects apart.
func nameOf(o metav1.Object) string { return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName()) }
