package conntrack

import (
	"fmt"
	"net/netip"

	"turnout/proxy"
)

// Flow is one record of the kernel's connection tracking table.
type Flow struct {
	Protocol proxy.Protocol
	// Original is how the first packet looked before any address translation; Reply is how answers look when they arrive:
	// Reply.Src is who really receives the packets.
	Original, Reply Tuple
	// Zone is the conntrack zone of both directions, OriginalZone that of a flow whose original direction alone has one
	// (nft: ct original zone set). At most one is not 0.
	Zone, OriginalZone uint16
	// ID tells flows apart that have the same tuples at different times; 0 if unknown.
	ID uint32
}

// Tuple is one direction of a Flow.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// String returns "10.0.0.9:4000 -> 10.96.0.10:53/UDP, answered by 10.1.0.5:53".
func (f Flow) String() string {
	return fmt.Sprintf("%s -> %s/%s, answered by %s", f.Original.Src, f.Original.Dst, f.Protocol, f.Reply.Src)
}

// filter says which flows a dump is wanted for. The kernel may deliver more.
type filter struct {
	family   proxy.Family
	protocol proxy.Protocol
	addr     netip.Addr // original destination; any if invalid
	port     uint16     // original destination port; any if 0
}
