package ipvs

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// Retire removes what no connection needs, once another mode serves: the kernel forwards a connection that IPVS has taken only as long as its
// virtual server, its destination and its address are there. left counts its connections, of any state, and the destinations that might have got one a moment
// ago; Retire is to be called again every now and then until it is 0, and nothing of ours is there any longer. A proxy that is started meanwhile finds what is left by the address of the interface and by the record. Apply takes
// everything back into use.
func (b *Backend) Retire(context.Context) (left int, err error) {
	b.Forget()
	// Before anything else: another mode's Services change, and this table would go on to reject and drop as it did.
	if err := b.kernel.gate.Disarm(); err != nil {
		return 0, err
	}
	nothing := &proxy.State{Family: b.options.Family, Node: &proxy.Node{}}
	if b.applied, err = b.read(nothing); err != nil {
		return 0, err
	}
	defer b.Forget()
	busy := map[netip.Addr]bool{}
	for _, key := range slices.SortedFunc(maps.Keys(b.applied.servers), genl.Key.Compare) {
		n, err := b.retireServer(key)
		if err != nil {
			return 0, err
		}
		left += n
		if n > 0 {
			busy[key.At.Addr()] = true
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(b.applied.addrs), netip.Addr.Compare) {
		if busy[addr] {
			continue
		}
		if err := b.do(&change{kind: deleteAddress, addr: addr}); err != nil {
			return 0, err
		}
	}
	if left > 0 {
		return left, nil
	}
	return 0, errors.Join(b.kernel.device.Remove(), b.kernel.gate.Cleanup())
}

// retireServer has the destinations of a virtual server get no new connections: those are the other mode's, which may serve the address no longer. The next time, those
// without connections are deleted, and the virtual server if none is left. Not at once: what was on its way when they were listed may be a connection by now.
func (b *Backend) retireServer(key genl.Key) (left int, err error) {
	v := b.applied.servers[key]
	list, err := b.kernel.servers.Destinations(key)
	if err != nil {
		return 0, err
	}
	for _, d := range list {
		c := change{kind: deleteDestination, Server: v.Server, destination: d}
		connections := int(d.Active + d.Inactive)
		switch {
		case d.Weight > 0:
			c.kind, c.destination.Weight = setDestination, 0
			left += max(connections, 1)
		case connections > 0:
			left += connections
			continue
		}
		if err := b.do(&c); err != nil {
			return 0, err
		}
	}
	if left > 0 {
		return left, nil
	}
	return 0, b.do(&change{kind: deleteServer, Server: v.Server})
}
