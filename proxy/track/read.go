package track

import (
	"net/netip"
	"strconv"

	v1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"

	"turnout/proxy"
)

// addr reads an address that clients send to or that is forwarded to. If it cannot be used, remedy says why.
func addr(s string) (a netip.Addr, remedy string) {
	a, ok := parseAddr(s)
	switch {
	case !ok:
		return a, "is not an IP address; write it like 192.0.2.1 or 2001:db8::1"
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast():
		return a, "is an unspecified, loopback or multicast address, which cannot be load-balanced; use a unicast address"
	}
	return a, ""
}

// parseAddr also takes what old API servers let pass: numbers with leading zeros, which mean decimal (CVE-2021-29923), and
// IPv4-mapped IPv6 addresses, which mean IPv4.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		var ok bool
		if a, ok = netip.AddrFromSlice(netutils.ParseIPSloppy(s)); !ok {
			return netip.Addr{}, false
		}
	}
	return a.Unmap(), a.Zone() == ""
}

// mapped is the length of the prefix ::ffff:0:0, in which IPv4-mapped IPv6 addresses lie.
const mapped = 96

// parsePrefix reads a prefix as leniently as parseAddr; bits beyond its length are cleared.
func parsePrefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		_, n, err := netutils.ParseCIDRSloppy(s)
		if err != nil {
			return netip.Prefix{}, false
		}
		a, _ := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		p = netip.PrefixFrom(a, ones)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < mapped {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), true
}

// protocol reads a protocol; the API's default is TCP.
func protocol(p v1.Protocol) (proxy.Protocol, bool) {
	switch p {
	case v1.ProtocolTCP, "":
		return proxy.TCP, true
	case v1.ProtocolUDP:
		return proxy.UDP, true
	case v1.ProtocolSCTP:
		return proxy.SCTP, true
	}
	return 0, false
}

const (
	protocolRemedy = "is not a protocol that can be load-balanced; use TCP, UDP or SCTP"
	portRemedy     = "is not a port number; use 1 to 65535"
)

// port reads a port number, 1 to 65535.
func port(n int32) (uint16, bool) {
	return uint16(n), n >= 1 && n <= 65535
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }
