package conntrack

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Attributes that package nl does not name; see the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleZone       = 3
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
)

// Bits of ctaFilterOrigFlags: which fields of the original tuple a dump compares (include/net/netfilter/nf_internals.h of the
// kernel's source, since 5.8).
const (
	filterDstAddr  = 1 << 1
	filterProtocol = 1 << 3
	filterDstPort  = 1 << 5
)

const attrHeader = 4

// attributes yields the type, without flags, and the value of each netlink attribute; it stops at one that is cut off.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHeader {
			n := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) & nl.NLA_TYPE_MASK
			if n < attrHeader || n > len(b) || !yield(kind, b[attrHeader:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):] // attributes begin at multiples of 4
		}
	}
}

// parseFlow reads a flow from a message of the kernel, which begins with the netfilter header. It returns false if the
// message has not both tuples with addresses and ports.
func parseFlow(b []byte) (Flow, bool) {
	var f Flow
	if len(b) < nl.SizeofNfgenmsg {
		return f, false
	}
	for kind, v := range attributes(b[nl.SizeofNfgenmsg:]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			f.Original, f.Protocol, f.OriginalZone = parseTuple(v)
		case nl.CTA_TUPLE_REPLY:
			f.Reply, _, _ = parseTuple(v)
		case nl.CTA_ZONE:
			f.Zone = port(v)
		case nl.CTA_ID:
			if len(v) == 4 {
				f.ID = binary.BigEndian.Uint32(v)
			}
		}
	}
	return f, f.Original.valid() && f.Reply.valid()
}

func (t Tuple) valid() bool { return t.Src.IsValid() && t.Dst.IsValid() }

func parseTuple(b []byte) (t Tuple, p proxy.Protocol, zone uint16) {
	var src, dst netip.Addr
	var sport, dport uint16
	for kind, v := range attributes(b) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			src, dst = parseAddrs(v)
		case nl.CTA_TUPLE_PROTO:
			p, sport, dport = parseProto(v)
		case ctaTupleZone:
			zone = port(v)
		}
	}
	return Tuple{Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport)}, p, zone
}

func parseAddrs(b []byte) (src, dst netip.Addr) {
	for kind, v := range attributes(b) {
		switch kind {
		case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
			src, _ = netip.AddrFromSlice(v)
		case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
			dst, _ = netip.AddrFromSlice(v)
		}
	}
	return src, dst
}

func parseProto(b []byte) (p proxy.Protocol, sport, dport uint16) {
	for kind, v := range attributes(b) {
		switch kind {
		case nl.CTA_PROTO_NUM:
			if len(v) == 1 {
				p = proxy.Protocol(v[0])
			}
		case nl.CTA_PROTO_SRC_PORT:
			sport = port(v)
		case nl.CTA_PROTO_DST_PORT:
			dport = port(v)
		}
	}
	return p, sport, dport
}

// port reads a 16 bit number in network order, 0 if the value has another size.
func port(v []byte) uint16 {
	if len(v) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

func nested(kind int, children ...*nl.RtAttr) *nl.RtAttr {
	a := nl.NewRtAttr(unix.NLA_F_NESTED|kind, nil)
	for _, c := range children {
		a.AddChild(c)
	}
	return a
}

// deleteAttributes names exactly one flow: a deletion without the original tuple would flush the whole table.
func deleteAttributes(f Flow) []*nl.RtAttr {
	srcKind, dstKind := nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	if f.Original.Src.Addr().Is4() {
		srcKind, dstKind = nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	}
	tuple := nested(nl.CTA_TUPLE_ORIG,
		nested(nl.CTA_TUPLE_IP,
			nl.NewRtAttr(srcKind, f.Original.Src.Addr().AsSlice()),
			nl.NewRtAttr(dstKind, f.Original.Dst.Addr().AsSlice())),
		nested(nl.CTA_TUPLE_PROTO,
			nl.NewRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(uint8(f.Protocol))),
			nl.NewRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(f.Original.Src.Port())),
			nl.NewRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(f.Original.Dst.Port()))))
	if f.OriginalZone != 0 {
		tuple.AddChild(nl.NewRtAttr(ctaTupleZone, nl.BEUint16Attr(f.OriginalZone)))
	}
	out := []*nl.RtAttr{tuple}
	if f.Zone != 0 {
		out = append(out, nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(f.Zone)))
	}
	if f.ID != 0 {
		out = append(out, nl.NewRtAttr(nl.CTA_ID, nl.BEUint32Attr(f.ID)))
	}
	return out
}

// filterAttributes makes the kernel leave out of a dump what the filter does not want. Kernels before 5.8 ignore it.
func filterAttributes(f filter) []*nl.RtAttr {
	flags := uint32(filterProtocol)
	proto := nested(nl.CTA_TUPLE_PROTO, nl.NewRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(uint8(f.protocol))))
	if f.port != 0 {
		flags |= filterDstPort
		proto.AddChild(nl.NewRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(f.port)))
	}
	tuple := nested(nl.CTA_TUPLE_ORIG)
	if f.addr.IsValid() {
		flags |= filterDstAddr
		kind := nl.CTA_IP_V6_DST
		if f.addr.Is4() {
			kind = nl.CTA_IP_V4_DST
		}
		tuple.AddChild(nested(nl.CTA_TUPLE_IP, nl.NewRtAttr(kind, f.addr.AsSlice())))
	}
	tuple.AddChild(proto)
	return []*nl.RtAttr{tuple, nested(ctaFilter, nl.NewRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(flags)))}
}
