package track

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"turnout/proxy"
)

// Endpoints is the merged record of all EndpointSlices of one Service, for both families. It is immutable.
type Endpoints struct {
	Name proxy.ServiceName
	// Ports are sorted by name, then protocol; no two have both the same.
	Ports []EndpointPort
	// Problems are what is wrong with the slices, sorted by slice name.
	Problems []Problem
}

// EndpointPort has the endpoints of one port name and protocol.
type EndpointPort struct {
	Name     string
	Protocol proxy.Protocol
	// Families has the endpoints of IPv4 and of IPv6, each sorted by address and port; no two have both the same.
	Families [2][]Endpoint
}

// Endpoint is one pod address and port with its conditions.
type Endpoint struct {
	Addr  netip.AddrPort
	Hints Hints
	// Ready, Serving and Terminating are the conditions of the API; a missing one is true, true and false.
	Ready, Serving, Terminating bool
	// Local tells that the endpoint is on this node.
	Local bool
}

// Hints are the zones and nodes whose clients an endpoint is meant for. The zero Hints are none. Equal ones are ==.
type Hints struct {
	set unique.Handle[hints] // shared by all endpoints that have the same, which are many
}

// hints has each list sorted, every name followed by a NUL.
type hints struct{ zones, nodes string }

func newHints(zones, nodes []string) Hints {
	h := hints{zones: join(zones), nodes: join(nodes)}
	if h == (hints{}) {
		return Hints{}
	}
	return Hints{set: unique.Make(h)}
}

func join(names []string) string {
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "\x00") + "\x00"
}

func (h Hints) value() hints {
	if h == (Hints{}) {
		return hints{}
	}
	return h.set.Value()
}

// HasZones tells whether there is a hint for any zone.
func (h Hints) HasZones() bool { return h.value().zones != "" }

// HasNodes tells whether there is a hint for any node.
func (h Hints) HasNodes() bool { return h.value().nodes != "" }

// Zone tells whether there is a hint for a zone.
func (h Hints) Zone(name string) bool { return has(h.value().zones, name) }

// Node tells whether there is a hint for a node.
func (h Hints) Node(name string) bool { return has(h.value().nodes, name) }

func has(list, name string) bool {
	for list != "" {
		one, rest, _ := strings.Cut(list, "\x00")
		if one == name {
			return true
		}
		list = rest
	}
	return false
}

// String returns the names for debugging, such as "zones=a,b nodes=n1".
func (h Hints) String() string {
	show := func(list string) string { return strings.ReplaceAll(strings.TrimSuffix(list, "\x00"), "\x00", ",") }
	v := h.value()
	return "zones=" + show(v.zones) + " nodes=" + show(v.nodes)
}

// Port returns the endpoints of a port of the Service in one family; nil if there are none.
func (e *Endpoints) Port(name string, p proxy.Protocol, f proxy.Family) []Endpoint {
	if e == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(e.Ports, EndpointPort{Name: name, Protocol: p}, comparePorts)
	if !ok {
		return nil
	}
	return e.Ports[i].Family(f)
}

// Family returns the endpoints of one family.
func (p *EndpointPort) Family(f proxy.Family) []Endpoint { return p.Families[index(f)] }

func comparePorts(a, b EndpointPort) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
}

// Equal compares contents; nil equals only nil.
func (e *Endpoints) Equal(o *Endpoints) bool {
	if e == nil || o == nil {
		return e == o
	}
	return e.Name == o.Name && slices.Equal(e.Problems, o.Problems) &&
		slices.EqualFunc(e.Ports, o.Ports, func(a, b EndpointPort) bool {
			return comparePorts(a, b) == 0 && slices.Equal(a.Families[0], b.Families[0]) && slices.Equal(a.Families[1], b.Families[1])
		})
}

// String returns the name and a line for each endpoint, for debugging; its form may change.
func (e *Endpoints) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s problems=%d\n", e.Name, len(e.Problems))
	for _, p := range e.Ports {
		for _, list := range p.Families {
			for _, ep := range list {
				fmt.Fprintf(&b, "  %s/%s %s ready=%t serving=%t terminating=%t local=%t %s\n",
					p.Name, p.Protocol, ep.Addr, ep.Ready, ep.Serving, ep.Terminating, ep.Local, ep.Hints)
			}
		}
	}
	return b.String()
}
