package node

import (
	"fmt"
	"net/netip"

	"turnout/proxy"
)

// Address is an entry of a Node's status.addresses as the API gives it.
type Address struct {
	Type string // only "InternalIP" and "ExternalIP" count
	Addr string
}

// IPs are the node's own main addresses: NodePorts of the keyword "primary" are served there.
type IPs struct {
	// Primary is the node's main family. It is that of the bind address or of the Node's first address.
	Primary proxy.Family
	// V4 and V6 are invalid if the node has no known address of the family.
	V4, V6 netip.Addr
}

// Of returns the address of a family, invalid if it is not known.
func (n IPs) Of(f proxy.Family) netip.Addr {
	if f == proxy.IPv6 {
		return n.V6
	}
	return n.V4
}

// OrLoopback returns the address of a family, or its loopback address if it is not known.
func (n IPs) OrLoopback(f proxy.Family) netip.Addr {
	switch a := n.Of(f); {
	case a.IsValid():
		return a
	case f == proxy.IPv6:
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (n *IPs) set(a netip.Addr) {
	if proxy.FamilyOf(a) == proxy.IPv6 {
		n.V6 = a
	} else {
		n.V4 = a
	}
}

// DetectIPs finds the node's addresses. The first InternalIP leads, else the first ExternalIP; it and the first one of the
// other family are taken. A bind address other than 0.0.0.0 and :: replaces the address of its family and makes that the
// primary one. Without any, IPv4 is primary unless the bind address is ::. The warnings are for the log.
func DetectIPs(bind netip.Addr, addresses []Address) (IPs, []string) {
	var warnings []string
	n := IPs{Primary: proxy.IPv4}
	if bind.IsValid() {
		n.Primary = proxy.FamilyOf(bind)
	}
	found := false
	for _, kind := range []string{"InternalIP", "ExternalIP"} {
		for _, entry := range addresses {
			if entry.Type != kind {
				continue
			}
			a, err := netip.ParseAddr(entry.Addr)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("Node status has the %s %q, which is not an IP address; it is ignored", kind, entry.Addr))
				continue
			}
			a = a.Unmap()
			if !found {
				n.Primary, found = proxy.FamilyOf(a), true
			}
			if !n.Of(proxy.FamilyOf(a)).IsValid() {
				n.set(a)
			}
		}
	}
	if bind.IsValid() && !bind.Unmap().IsUnspecified() {
		n.Primary = proxy.FamilyOf(bind)
		n.set(bind.Unmap())
	}
	if !n.Of(n.Primary).IsValid() || n.Of(n.Primary).IsLoopback() {
		warnings = append(warnings, fmt.Sprintf("the node's IP address is not known, so %s is assumed: the Node object has no InternalIP or ExternalIP; "+
			"set bindAddress (--bind-address) if the node has another address", n.OrLoopback(n.Primary)))
	}
	return n, warnings
}
