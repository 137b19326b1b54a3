package proxytest

import (
	"cmp"
	"net/netip"
	"slices"

	"turnout/proxy"
)

// Packets returns the packets that a State decides on in some interesting way: from each host (and each address of the
// outside client) to each frontend, to ports that a ClusterIP does not have, to an address that no Service has, and to NodePorts
// on every address of the node. Two of each kind are enough for the last three, so the list grows with the frontends only.
func Packets(s *proxy.State, c *Cluster) []Packet {
	var targets []target
	ports := map[netip.Addr][]proxy.FrontendKey{} // of ClusterIPs
	for _, service := range s.Services.All() {
		for i := range service.Frontends {
			f := &service.Frontends[i]
			if f.Kind == proxy.ClusterIP {
				ports[f.Addr] = append(ports[f.Addr], service.Key(f))
			}
			if f.Kind != proxy.NodePort {
				targets = append(targets, target{f.Addr, f.Port, service.Name.Protocol})
				continue
			}
			for _, a := range AddrsOf(s.Family, c.NodeAddrs) {
				targets = append(targets, target{a, f.Port, service.Name.Protocol})
			}
		}
	}
	targets = append(targets, undefinedPorts(ports)...)
	for _, p := range s.Node.ServiceCIDRs {
		if a, ok := unallocated(p, ports); ok {
			targets = append(targets, target{a, 80, proxy.TCP}, target{a, 53, proxy.UDP})
		}
	}
	slices.SortFunc(targets, func(a, b target) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), cmp.Compare(a.protocol, b.protocol))
	})
	return fromEverybody(s.Family, c, targets)
}

// target is what a packet is sent to.
type target struct {
	addr     netip.Addr
	port     uint16
	protocol proxy.Protocol
}

// undefinedPorts returns a target for each of two ClusterIPs and each protocol, at a port that nobody has.
func undefinedPorts(ports map[netip.Addr][]proxy.FrontendKey) []target {
	ips := make([]netip.Addr, 0, len(ports))
	for a := range ports {
		ips = append(ips, a)
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	var out []target
	for _, a := range ips[:min(2, len(ips))] {
		for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
			port := uint16(7)
			for slices.Contains(ports[a], proxy.FrontendKey{Addr: a, Port: port, Protocol: p}) {
				port++
			}
			out = append(out, target{a, port, p})
		}
	}
	return out
}

// unallocated returns an address of a prefix that is nobody's ClusterIP; the first one, which is the network's, is not used.
func unallocated(p netip.Prefix, taken map[netip.Addr][]proxy.FrontendKey) (netip.Addr, bool) {
	for a := p.Addr().Next(); p.Contains(a); a = a.Next() {
		if _, ok := taken[a]; !ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func fromEverybody(f proxy.Family, c *Cluster, targets []target) []Packet {
	nodeAddrs := AddrsOf(f, c.NodeAddrs)
	var out []Packet
	for _, h := range c.Hosts {
		sources := AddrsOf(f, h.Addrs)
		if h.Node != "" { // only outside of the cluster do the other addresses make a difference
			sources = sources[:1]
		}
		for _, source := range sources {
			for _, t := range targets {
				out = append(out, Packet{From: h.Name, Source: source, Interface: h.Interface, Protocol: t.protocol,
					Destination: t.addr, Port: t.port, NodeAddrs: nodeAddrs})
			}
		}
	}
	return out
}
