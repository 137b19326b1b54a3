package track

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"turnout/proxy"
)

// merge makes one record of all the slices of a Service. The result does not depend on the order of the slices, nor on the
// order within them.
func merge(name proxy.ServiceName, list []*slice) *Endpoints {
	e := &Endpoints{Name: name}
	for _, s := range list {
		for _, p := range s.ports {
			to := &e.port(p).Families[index(s.family)]
			*to = slices.Grow(*to, len(s.endpoints))
			for _, ep := range s.endpoints {
				ep.Addr = netip.AddrPortFrom(ep.Addr.Addr(), p.port)
				*to = append(*to, ep)
			}
		}
		e.Problems = append(e.Problems, s.problems...)
	}
	for i := range e.Ports {
		for f, eps := range e.Ports[i].Families {
			e.Ports[i].Families[f] = unite(eps)
		}
	}
	slices.SortFunc(e.Ports, comparePorts)
	slices.SortStableFunc(e.Problems, func(a, b Problem) int { return strings.Compare(a.Slice, b.Slice) })
	return e
}

// port returns the entry of a port, adding it if needed.
func (e *Endpoints) port(p slicePort) *EndpointPort {
	for i := range e.Ports {
		if e.Ports[i].Name == p.name && e.Ports[i].Protocol == p.protocol {
			return &e.Ports[i]
		}
	}
	e.Ports = append(e.Ports, EndpointPort{Name: p.name, Protocol: p.protocol})
	return &e.Ports[len(e.Ports)-1]
}

// unite sorts endpoints and leaves the preferred one of those with the same address and port.
func unite(eps []Endpoint) []Endpoint {
	slices.SortFunc(eps, func(a, b Endpoint) int { return cmp.Or(a.Addr.Compare(b.Addr), prefer(&a, &b)) })
	return slices.CompactFunc(eps, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

// prefer orders entries of the same address and port, best first. A pod's address may be used again while slices still list
// the old pod as terminating, so that a living entry comes before a terminating one. While an endpoint moves between slices,
// both list it, and one may be outdated: the one that lets traffic through comes first, then the one on this node, then
// the one with hints. What is left orders by the text of the hints, only to be the same each time.
func prefer(a, b *Endpoint) int {
	if *a == *b {
		return 0
	}
	x, y := a.Hints.value(), b.Hints.value()
	return cmp.Or(
		first(!a.Terminating, !b.Terminating), first(a.Ready, b.Ready), first(a.Serving, b.Serving), first(a.Local, b.Local),
		first(x.nodes != "", y.nodes != ""), first(x.zones != "", y.zones != ""),
		strings.Compare(x.nodes, y.nodes), strings.Compare(x.zones, y.zones))
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
