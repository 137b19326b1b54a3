package ipvs

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// read finds what of ours is in the kernel: the addresses of the interface; the virtual servers at these; those that are recorded; and those that a State
// wants, whoever made them. What is excluded is not ours unless the State wants it. Destinations of weight 0 are on their way out, from before a restart.
func (b *Backend) read(s *proxy.State) (*applied, error) {
	a := &applied{state: &proxy.State{Family: s.Family, Node: &proxy.Node{}}, claims: map[proxy.FrontendKey]claim{},
		servers: map[genl.Key]*virtual{}, draining: map[genl.Key]bool{}, addrs: map[netip.Addr]bool{}, uses: map[netip.Addr]int{}}
	on, others, err := b.kernel.device.Addresses()
	if err != nil {
		return nil, err
	}
	a.own = others
	ours, err := recorded(b.kernel.gate)
	if err != nil {
		return nil, err
	}
	maps.Copy(ours, b.known)
	wanted, addrs := b.wanted(s)
	for addr := range on {
		if addrs[addr] || !b.options.excluded(addr) {
			a.addrs[addr] = true
		}
	}
	list, err := b.kernel.servers.Servers(s.Family)
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		addr := x.At.Addr()
		if !wanted[x.Key] && (b.options.excluded(addr) || !ours[x.Key] && !on[addr]) {
			continue // somebody else's
		}
		v, err := b.readServer(x)
		if err != nil {
			return nil, err
		}
		a.servers[x.Key] = v
		if v.drains() {
			a.draining[x.Key] = true
		}
	}
	return a, nil
}

// wanted are the virtual servers that a State wants, and the addresses besides those of NodePorts.
func (b *Backend) wanted(s *proxy.State) (keys map[genl.Key]bool, addrs map[netip.Addr]bool) {
	keys, addrs = map[genl.Key]bool{}, map[netip.Addr]bool{}
	r := newRenderer(&b.options, s.Node)
	for _, service := range s.Services.All() {
		for i := range service.Frontends {
			f := &service.Frontends[i]
			for _, addr := range r.addrs(f) {
				keys[genl.Key{Protocol: service.Name.Protocol, At: netip.AddrPortFrom(addr, f.Port)}] = true
			}
			if f.Kind != proxy.NodePort {
				addrs[f.Addr] = true
			}
		}
	}
	return keys, addrs
}

func (b *Backend) readServer(x genl.Server) (*virtual, error) {
	v := &virtual{Server: x, weights: map[netip.AddrPort]uint32{}}
	destinations, err := b.kernel.servers.Destinations(x.Key)
	if err != nil {
		return nil, err
	}
	for _, d := range destinations {
		v.weights[d.At] = d.Weight
	}
	return v, nil
}

// recorded returns the virtual servers of the frontends that the table in the kernel knows.
func recorded(g gate) (map[genl.Key]bool, error) {
	frontends, addrs, err := g.Record()
	if err != nil {
		return nil, fmt.Errorf("read what was served before: %w", err)
	}
	out := map[genl.Key]bool{}
	for _, f := range frontends {
		at := []netip.Addr{f.Addr}
		if !f.Addr.IsValid() {
			at = addrs
		}
		for _, a := range at {
			out[genl.Key{Protocol: f.Protocol, At: netip.AddrPortFrom(a, f.Port)}] = true
		}
	}
	return out, nil
}

// prune deletes what was found and a State does not want. It goes before the gate's table is replaced, which is the record of it: nothing is lost track of, wherever the
// process is stopped.
func (b *Backend) prune(s *proxy.State) (operations int, err error) {
	a := b.applied
	keys, addrs := b.wanted(s)
	for _, addr := range slices.SortedFunc(maps.Keys(a.addrs), netip.Addr.Compare) {
		if addrs[addr] && !a.own[addr] || b.options.excluded(addr) {
			continue
		}
		if err := b.do(&change{kind: deleteAddress, addr: addr}); err != nil {
			return operations, err
		}
		operations++
	}
	for _, key := range slices.SortedFunc(maps.Keys(a.servers), genl.Key.Compare) {
		if keys[key] {
			continue
		}
		if err := b.do(&change{kind: deleteServer, Server: a.servers[key].Server}); err != nil {
			return operations, err
		}
		operations++
	}
	return operations, nil
}

// do makes one change and notes that it was made.
func (b *Backend) do(c *change) error {
	a, k := b.applied, b.kernel
	v := a.servers[c.Key]
	switch c.kind {
	case addServer:
		if err := k.servers.AddServer(c.Server); err != nil {
			return err
		}
		a.servers[c.Key] = &virtual{Server: c.Server, owner: c.owner, weights: map[netip.AddrPort]uint32{}}
		return nil
	case setServer:
		if err := k.servers.SetServer(c.Server); err != nil {
			return err
		}
		v.Server = c.Server
		return nil
	case deleteServer:
		if err := k.servers.DeleteServer(c.Key); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		delete(a.servers, c.Key)
		delete(a.draining, c.Key)
		return nil
	case addAddress:
		if err := k.device.Add(c.addr); err != nil {
			return err
		}
		a.addrs[c.addr] = true
		return nil
	case deleteAddress:
		if err := k.device.Delete(c.addr); err != nil {
			return err
		}
		delete(a.addrs, c.addr)
		return nil
	}
	return b.doDestination(c, v)
}

func (b *Backend) doDestination(c *change, v *virtual) error {
	if v == nil {
		return fmt.Errorf("virtual server %s was not made", c.Key)
	}
	d, k := c.destination, b.kernel.servers
	switch c.kind {
	case addDestination:
		if err := k.AddDestination(c.Key, d); err != nil {
			return err
		}
		v.weights[d.At] = d.Weight
	case setDestination:
		if err := k.SetDestination(c.Key, d); err != nil {
			return err
		}
		v.weights[d.At] = d.Weight
		if d.Weight == 0 {
			b.applied.draining[c.Key] = true
		}
	default:
		if err := k.DeleteDestination(c.Key, d.At); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		delete(v.weights, d.At)
	}
	return nil
}
