package compare

import (
	"fmt"
	"net/netip"
	"slices"

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
}

func (p packet) family() proxy.Family { return proxy.FamilyOf(p.Destination) }

// String returns "client 192.168.50.100 -> 10.96.0.1:80/TCP, ClusterIP of ns/web".
func (p packet) String() string {
	if p.service == "" {
		return p.Packet.String() + ", " + p.kind
	}
	return fmt.Sprintf("%s, %s of %s", p.Packet, p.kind, p.service)
}

// packets returns those to every address that objects name, from everybody: whether a proxy should serve the address or not. There
// are also some to ports and addresses that no Service has. Which packets these are does not depend on any proxy's opinion.
func packets(c *proxytest.Cluster, objects []metav1.Object) []packet {
	abroad := withEndpointsOn("n2", c, objects)
	var out []packet
	for _, o := range objects {
		s, ok := o.(*v1.Service)
		if !ok {
			continue
		}
		name := s.Namespace + "/" + s.Name
		for _, t := range targets(c, s) {
			t.service, t.sticky = name, s.Spec.SessionAffinity == v1.ServiceAffinityClientIP
			out = append(out, fromEverybody(c, t, abroad[name])...)
		}
	}
	for _, f := range proxy.Families {
		for _, t := range []packet{
			{Packet: proxytest.Packet{Destination: nobodys[f], Port: 80, Protocol: proxy.TCP}, kind: "ClusterIP of nobody"},
			{Packet: proxytest.Packet{Destination: nobodys[f], Port: 53, Protocol: proxy.UDP}, kind: "ClusterIP of nobody"},
			{Packet: proxytest.Packet{Destination: c.Hosts[0].Addr(f), Port: 32767, Protocol: proxy.TCP}, kind: "NodePort of nobody"},
		} {
			out = append(out, fromEverybody(c, t, false)...)
		}
	}
	return out
}

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
			out = append(out, packet{Packet: proxytest.Packet{Destination: a, Port: 81, Protocol: proxy.TCP}, kind: "undefined port of the ClusterIP"})
		}
	}
	return out
}

var protocols = map[v1.Protocol]proxy.Protocol{v1.ProtocolTCP: proxy.TCP, v1.ProtocolUDP: proxy.UDP, v1.ProtocolSCTP: proxy.SCTP}

// fromEverybody sends a packet from each host, and from each address of the outside client. The node n2 is left out where it has
// endpoints: it has no proxy in the lab and reaches Services through n1, but what its own pods answer does not come back through n1.
func fromEverybody(c *proxytest.Cluster, to packet, abroad bool) (out []packet) {
	f := to.family()
	to.NodeAddrs = proxytest.AddrsOf(f, c.NodeAddrs)
	for _, h := range c.Hosts {
		if h.Name == "n2" && abroad {
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

// withEndpointsOn returns the names of Services that have endpoints on a node.
func withEndpointsOn(node string, c *proxytest.Cluster, objects []metav1.Object) map[string]bool {
	var addrs []string
	for _, h := range c.Hosts {
		if h.Node == node {
			for _, a := range h.Addrs {
				addrs = append(addrs, a.String())
			}
		}
	}
	out := map[string]bool{}
	for _, o := range objects {
		slice, ok := o.(*discovery.EndpointSlice)
		if !ok {
			continue
		}
		for _, e := range slice.Endpoints {
			if slices.Contains(addrs, e.Addresses[0]) {
				out[slice.Namespace+"/"+slice.Labels[discovery.LabelServiceName]] = true
			}
		}
	}
	return out
}

// nameOf tells objects apart.
func nameOf(o metav1.Object) string { return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName()) }
