package nftables

import (
	"net/netip"

	"turnout/proxy"
)

// assign gives each endpoint of a pool a slot, moving as few as possible: those that stay keep theirs, new ones take the slots
// of those that went, and remaining holes are filled from the end. The result has no holes and no duplicates.
func assign(old []netip.AddrPort, pool []proxy.Endpoint) []netip.AddrPort {
	if unchanged(old, pool) {
		return old
	}
	if len(old) == 0 {
		slots := make([]netip.AddrPort, len(pool))
		for i := range pool {
			slots[i] = pool[i].Addr
		}
		return slots
	}
	wanted := make(map[netip.AddrPort]bool, len(pool))
	for _, e := range pool {
		wanted[e.Addr] = true
	}
	slots := make([]netip.AddrPort, len(pool))
	var moved []netip.AddrPort
	for i, a := range old {
		switch {
		case !wanted[a]:
			continue
		case i < len(slots):
			slots[i] = a
		default:
			moved = append(moved, a)
		}
		delete(wanted, a)
	}
	for _, e := range pool {
		if wanted[e.Addr] {
			moved = append(moved, e.Addr)
			delete(wanted, e.Addr)
		}
	}
	for i := range slots {
		if !slots[i].IsValid() {
			slots[i], moved = moved[0], moved[1:]
		}
	}
	return slots
}

func unchanged(old []netip.AddrPort, pool []proxy.Endpoint) bool {
	if len(old) != len(pool) {
		return false
	}
	for i, e := range pool {
		if old[i] != e.Addr {
			return false
		}
	}
	return true
}
