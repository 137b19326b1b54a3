package desired

import (
	"net/netip"
	"slices"

	"turnout/proxy"
)

// allowedSources returns who may connect to a load-balancer address: everybody (nil) if no range is of its family, or if one
// is all of it. If the node itself may, so may the address, which is the source of connections from the node to it where it
// is one of the node's own. The ranges are sorted; the result is too, and no prefix in it contains another.
func allowedSources(ranges []netip.Prefix, addr netip.Addr, nodeIPs []netip.Addr) []netip.Prefix {
	var own []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is4() == addr.Is4() {
			own = append(own, r)
		}
	}
	if len(own) == 0 || own[0].Bits() == 0 { // 0.0.0.0/0 and ::/0 sort first
		return nil
	}
	if slices.ContainsFunc(nodeIPs, func(ip netip.Addr) bool { return contain(own, ip.Unmap()) }) {
		own = append(own, netip.PrefixFrom(addr, proxy.FamilyOf(addr).Bits()))
		slices.SortFunc(own, netip.Prefix.Compare)
	}
	return outermost(own)
}

func contain(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// outermost leaves out the prefixes that lie in another one; sorted prefixes have the outer one right before them.
func outermost(ps []netip.Prefix) []netip.Prefix {
	out := ps[:0]
	for _, p := range ps {
		if n := len(out); n == 0 || !out[n-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return slices.Clip(out)
}
