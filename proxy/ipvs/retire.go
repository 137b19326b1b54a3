package ipvs

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// Retire removes what no connection needs, once another mode serves: the kernel forwards a connection that IPVS has taken only as long as its
// virtual server, its destination and its address are there. connections is how many are left, of any state; Retire is to be called again every now and then until it
// is 0, and nothing of ours is there any longer. A proxy that is started meanwhile finds what is left by the address of the interface and by the record. Apply takes
// everything back into use.
func (b *Backend) Retire(context.Context) (connections int, err error) {
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
		connections += n
		if n > 0 {
			busy[key.At.Addr()] = true
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(b.applied.addrs), netip.Addr.Compare) {
		if busy[addr] || b.options.excluded(addr) {
			continue
		}
		if err := b.do(&change{kind: deleteAddress, addr: addr}); err != nil {
			return 0, err
		}
	}
	if connections > 0 {
		return connections, nil
	}
	return 0, errors.Join(b.kernel.device.Remove(), b.kernel.gate.Cleanup())
}

// retireServer deletes the destinations of a virtual server that have no connections, and the virtual server if none is left. The others get no new
// connections: those are the other mode's, which may serve the address no longer.
func (b *Backend) retireServer(key genl.Key) (connections int, err error) {
	if b.options.excluded(key.At.Addr()) {
		return 0, nil
	}
	v := b.applied.servers[key]
	list, err := b.kernel.servers.Destinations(key)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, err
	}
	for _, d := range list {
		c := change{kind: deleteDestination, Server: v.Server, destination: d}
		if n := int(d.Active + d.Inactive); n > 0 {
			connections += n
			if d.Weight == 0 {
				continue
			}
			c.kind, c.destination.Weight = setDestination, 0
		}
		if err := b.do(&c); err != nil {
			return 0, err
		}
	}
	if connections > 0 {
		return connections, nil
	}
	return 0, b.do(&change{kind: deleteServer, Server: v.Server})
}
