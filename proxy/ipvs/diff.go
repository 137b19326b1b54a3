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
	// claims has the frontends of the State.
	claims map[proxy.FrontendKey]claim
	// addrs are those on the interface.
	addrs map[netip.Addr]bool
	// uses counts the frontends at each address but for NodePorts.
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

// A claim is a frontend and its Service.
type claim struct {
	service  *proxy.Service
	frontend *proxy.Frontend
}

// A change is one step of the way from one State to the next.
type change struct {
	kind  kind
	owner proxy.ServicePortName // of a virtual server
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

// plan collects changes, and what they are about.
type plan struct {
	changes []change
	keys    map[genl.Key]bool
	addrs   map[netip.Addr]bool
}

// diff returns what leads from what is applied to another State of the same Node, and takes that for applied. The work is in proportion to what changed.
func (a *applied) diff(o *Options, next *proxy.State) []change {
	p, r := &plan{keys: map[genl.Key]bool{}, addrs: map[netip.Addr]bool{}}, newRenderer(o, next.Node)
	changes := hamt.Diff(a.state.Services, next.Services, func(x, y *proxy.Service) bool { return x == y })
	for _, c := range changes {
		a.use(p, r, c.Old, -1)
	}
	for _, c := range changes {
		a.use(p, r, c.New, 1)
	}
	a.state = next
	return a.resolve(o, p, r)
}

// use adds the frontends of a Service, which may be nil, to those of the State, or takes them away.
func (a *applied) use(p *plan, r *renderer, s *proxy.Service, by int) {
	if s == nil {
		return
	}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		if by > 0 {
			a.claims[s.Key(f)] = claim{s, f}
		} else {
			delete(a.claims, s.Key(f))
		}
		for _, addr := range r.addrs(f) {
			p.keys[genl.Key{Protocol: s.Name.Protocol, At: netip.AddrPortFrom(addr, f.Port)}] = true
		}
		if f.Kind != proxy.NodePort {
			a.uses[f.Addr] += by
			p.addrs[f.Addr] = true
		}
	}
}

// claimant finds the frontend that a virtual server is made for, if any. One with the address goes before a NodePort, as in the gate's table.
func (a *applied) claimant(r *renderer, key genl.Key) (c claim, ok bool) {
	f := proxy.FrontendKey{Addr: key.At.Addr(), Port: key.At.Port(), Protocol: key.Protocol}
	if c, ok = a.claims[f]; ok || !slices.Contains(r.nodePorts, f.Addr) {
		return c, ok
	}
	f.Addr = netip.Addr{}
	c, ok = a.claims[f]
	return c, ok
}

// resolve turns a plan into changes, in the order in which they are to be made. What is excluded from deletion is not ours any longer.
func (a *applied) resolve(o *Options, p *plan, r *renderer) []change {
	for _, key := range slices.SortedFunc(maps.Keys(p.keys), genl.Key.Compare) {
		c, wanted := a.claimant(r, key)
		v := a.servers[key]
		switch {
		case wanted:
			p.server(r.server(c.service, c.frontend, key.At.Addr()), v)
		case v != nil && o.excluded(key.At.Addr()):
			delete(a.servers, key)
			delete(a.draining, key)
		case v != nil:
			p.changes = append(p.changes, change{kind: deleteServer, owner: v.owner, Server: v.Server})
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(p.addrs), netip.Addr.Compare) {
		used := a.uses[addr] > 0
		if !used {
			delete(a.uses, addr)
		}
		switch {
		case used && !a.own[addr] && !a.addrs[addr]:
			p.changes = append(p.changes, change{kind: addAddress, addr: addr})
		case !used && o.excluded(addr):
			delete(a.addrs, addr)
		case !used && a.addrs[addr]:
			p.changes = append(p.changes, change{kind: deleteAddress, addr: addr})
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
