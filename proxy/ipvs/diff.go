package ipvs

import (
	"maps"
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/ipvs/genl"
)

// applied is what we believe the kernel to hold of ours.
type applied struct {
	state   *proxy.State
	servers map[genl.Key]*virtual
	// addrs are those on the interface.
	addrs map[netip.Addr]bool
	// uses counts the frontends at each address that the interface should have.
	uses map[netip.Addr]int
	// own are the node's addresses on other interfaces. None of them is put on ours: it would stay when the node loses it.
	own map[netip.Addr]bool
	// draining are the virtual servers with destinations on their way out.
	draining map[genl.Key]bool
}

// virtual is a virtual server as it is.
type virtual struct {
	genl.Server
	owner   proxy.ServicePortName
	weights map[netip.AddrPort]uint32 // 0 for a destination on its way out
}

// drains tells whether any destination is on its way out.
func (v *virtual) drains() bool {
	for _, w := range v.weights {
		if w == 0 {
			return true
		}
	}
	return false
}

// A change is one step of the way from one State to the next.
type change struct {
	kind  kind
	owner proxy.ServicePortName
	genl.Server
	destination genl.Destination
	addr        netip.Addr
}

// kind says what a change does. Changes are carried out in this order: an address leads traffic to its virtual servers, so it comes after them and goes
// before them, and new destinations come before others go.
type kind uint8

const (
	addServer kind = iota
	setServer
	addDestination
	setDestination
	deleteDestination
	addAddress
	deleteAddress
	deleteServer
)

// plan collects changes.
type plan struct {
	changes []change
	wanted  map[genl.Key]server
	gone    map[genl.Key]bool
	touched map[netip.Addr]proxy.ServicePortName // a Service that uses the address, or did
}

// diff returns what leads from what is applied to another State of the same Node, and takes that for applied. The work is in proportion to what changed.
func (a *applied) diff(o *Options, next *proxy.State) []change {
	p := &plan{wanted: map[genl.Key]server{}, gone: map[genl.Key]bool{}, touched: map[netip.Addr]proxy.ServicePortName{}}
	r := newRenderer(o, next.Node)
	var old, fresh []server
	for _, c := range hamt.Diff(a.state.Services, next.Services, func(x, y *proxy.Service) bool { return x == y }) {
		old, fresh = r.render(old, c.Old), r.render(fresh, c.New)
	}
	a.use(p, old, -1)
	a.use(p, fresh, 1)
	a.state = next
	return a.resolve(o, p)
}

// use adds virtual servers to a plan, as wanted or as gone.
func (a *applied) use(p *plan, servers []server, by int) {
	for _, x := range servers {
		if x.address && !a.own[x.At.Addr()] {
			a.uses[x.At.Addr()] += by
			p.touched[x.At.Addr()] = x.owner
		}
		if by > 0 {
			p.wanted[x.Key] = x
		} else {
			p.gone[x.Key] = true
		}
	}
}

// resolve turns a plan into changes, in the order in which they are to be made.
func (a *applied) resolve(o *Options, p *plan) []change {
	for _, key := range slices.SortedFunc(maps.Keys(p.wanted), genl.Key.Compare) {
		p.server(p.wanted[key], a.servers[key])
	}
	for _, addr := range slices.SortedFunc(maps.Keys(p.touched), netip.Addr.Compare) {
		switch {
		case a.uses[addr] > 0 && !a.addrs[addr]:
			p.changes = append(p.changes, change{kind: addAddress, owner: p.touched[addr], addr: addr})
		case a.uses[addr] == 0 && a.addrs[addr] && !o.excluded(addr):
			p.changes = append(p.changes, change{kind: deleteAddress, addr: addr})
		}
		if a.uses[addr] == 0 {
			delete(a.uses, addr)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(p.gone), genl.Key.Compare) {
		_, wanted := p.wanted[key]
		if v := a.servers[key]; v != nil && !wanted && !o.excluded(key.At.Addr()) {
			p.changes = append(p.changes, change{kind: deleteServer, owner: v.owner, Server: v.Server})
		}
	}
	slices.SortStableFunc(p.changes, func(x, y change) int { return int(x.kind) - int(y.kind) })
	return p.changes
}

// server appends what leads from a virtual server as it is, nil if there is none, to how it should be.
func (p *plan) server(want server, is *virtual) {
	add := func(k kind, at netip.AddrPort, weight uint32) {
		p.changes = append(p.changes, change{kind: k, owner: want.owner, Server: want.Server, destination: genl.Destination{At: at, Weight: weight}})
	}
	if is == nil {
		add(addServer, netip.AddrPort{}, 0)
		is = &virtual{}
	} else if is.Server != want.Server {
		add(setServer, netip.AddrPort{}, 0)
	}
	is.owner = want.owner
	for _, at := range want.pool {
		if weight, ok := is.weights[at]; !ok {
			add(addDestination, at, 1)
		} else if weight != 1 {
			add(setDestination, at, 1)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(is.weights), netip.AddrPort.Compare) {
		if _, wanted := slices.BinarySearchFunc(want.pool, at, netip.AddrPort.Compare); wanted {
			continue
		}
		if !want.keeps(at) {
			add(deleteDestination, at, 0)
		} else if is.weights[at] != 0 {
			add(setDestination, at, 0)
		}
	}
}
