package genl

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// What is used of the family (include/uapi/linux/ip_vs.h).
const (
	familyName, version = "IPVS", 1

	commandNewService, commandSetService, commandDelService, commandGetService = 1, 2, 3, 4
	commandNewDest, commandSetDest, commandDelDest, commandGetDest             = 5, 6, 7, 8
	commandSetConfig, commandGetConfig                                         = 12, 13

	attrService, attrDest                             = 1, 2
	attrTimeoutTCP, attrTimeoutTCPFin, attrTimeoutUDP = 4, 5, 6

	attrAF, attrProtocol, attrAddr, attrPort                   = 1, 2, 3, 4
	attrScheduler, attrFlags, attrPersistence, attrMask        = 6, 7, 8, 9
	destAddr, destPort, destForward, destWeight                = 1, 2, 3, 4
	destUpper, destLower, destActive, destInactive             = 5, 6, 7, 8
	destFamily                                                 = 11
	forwardMasquerade                                   uint32 = 0
)

// encodeKey is what names the virtual server in a request.
func encodeKey(k Key) *nl.RtAttr {
	service := nl.NewRtAttr(attrService|unix.NLA_F_NESTED, nil)
	service.AddRtAttr(attrAF, nl.Uint16Attr(addressFamily(k.Family())))
	service.AddRtAttr(attrProtocol, nl.Uint16Attr(uint16(k.Protocol)))
	service.AddRtAttr(attrAddr, address(k.At.Addr()))
	service.AddRtAttr(attrPort, binary.BigEndian.AppendUint16(nil, k.At.Port()))
	return service
}

func encodeServer(x Server) *nl.RtAttr {
	service := encodeKey(x.Key)
	flags, mask := x.Flags, uint32(0xffffffff)
	if x.Persistence > 0 {
		flags |= flagPersistent
	}
	if x.Family() == proxy.IPv6 {
		mask = 128 // a length: persistence is by single addresses
	}
	service.AddRtAttr(attrScheduler, nl.ZeroTerminated(x.Scheduler))
	// Flags, and which of them are meant.
	service.AddRtAttr(attrFlags, binary.NativeEndian.AppendUint32(nl.Uint32Attr(flags), 0xffffffff))
	service.AddRtAttr(attrPersistence, nl.Uint32Attr(uint32(x.Persistence/time.Second)))
	service.AddRtAttr(attrMask, nl.Uint32Attr(mask))
	return service
}

func encodeDestination(d Destination) *nl.RtAttr {
	dest := nl.NewRtAttr(attrDest|unix.NLA_F_NESTED, nil)
	dest.AddRtAttr(destAddr, address(d.At.Addr()))
	dest.AddRtAttr(destPort, binary.BigEndian.AppendUint16(nil, d.At.Port()))
	dest.AddRtAttr(destForward, nl.Uint32Attr(forwardMasquerade))
	dest.AddRtAttr(destWeight, nl.Uint32Attr(d.Weight))
	dest.AddRtAttr(destUpper, nl.Uint32Attr(0))
	dest.AddRtAttr(destLower, nl.Uint32Attr(0))
	dest.AddRtAttr(destFamily, nl.Uint16Attr(addressFamily(proxy.FamilyOf(d.At.Addr()))))
	return dest
}

func addressFamily(f proxy.Family) uint16 {
	if f == proxy.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// address is an address as union nf_inet_addr.
func address(a netip.Addr) []byte {
	b := make([]byte, 16)
	copy(b, a.AsSlice())
	return b
}

func parseAddress(b []byte, f proxy.Family) (netip.Addr, bool) {
	n := f.Bits() / 8
	if len(b) < n {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(slices.Clone(b[:n]))
}

// parseServer reads a virtual server; false if it is one for a firewall mark, or of a protocol that is not proxied.
func parseServer(b []byte) (x Server, ok bool) {
	a, err := nested(b, attrService)
	if err != nil || len(a[attrPort].Value) != 2 {
		return x, false
	}
	f := proxy.IPv4
	if number16(a[attrAF].Value) == unix.AF_INET6 {
		f = proxy.IPv6
	}
	ip, ok := parseAddress(a[attrAddr].Value, f)
	x.Protocol = proxy.Protocol(number16(a[attrProtocol].Value))
	if !ok || !slices.Contains([]proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP}, x.Protocol) {
		return x, false
	}
	x.At = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(a[attrPort].Value))
	x.Scheduler = strings.TrimRight(string(a[attrScheduler].Value), "\x00")
	flags := number32(a[attrFlags].Value)
	x.Flags = flags & schedulerFlags
	if flags&flagPersistent != 0 {
		x.Persistence = time.Duration(number32(a[attrPersistence].Value)) * time.Second
	}
	return x, true
}

func parseDestination(b []byte, f proxy.Family) (d Destination, ok bool) {
	a, err := nested(b, attrDest)
	if err != nil || len(a[destPort].Value) != 2 {
		return d, false
	}
	ip, ok := parseAddress(a[destAddr].Value, f)
	d = Destination{At: netip.AddrPortFrom(ip, binary.BigEndian.Uint16(a[destPort].Value)), Weight: number32(a[destWeight].Value),
		Active: number32(a[destActive].Value), Inactive: number32(a[destInactive].Value)}
	return d, ok
}

// nested returns what is inside the attribute of a type.
func nested(b []byte, typ uint16) (map[uint16]syscall.NetlinkRouteAttr, error) {
	outer, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	for _, a := range outer {
		if a.Attr.Type&^unix.NLA_F_NESTED == typ {
			return nl.ParseRouteAttrAsMap(a.Value)
		}
	}
	return nil, nil
}

// number16 reads a number; 0 if it is missing.
func number16(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

// number32 reads a number, or the first of several; 0 if it is missing.
func number32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
