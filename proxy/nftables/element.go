package nftables

import (
	"encoding/binary"
	"net/netip"
	"time"

	"turnout/proxy"
)

// maxComment is the length up to which nft accepts comments (NFTNL_UDATA_COMMENT_MAXLEN, with the final NUL).
const maxComment = 127

// An element is one member of a set or map. Its bytes are as the kernel keeps them: fields in registers of 4 bytes. There are hundreds
// of thousands in a large table, so what most do not need stands apart.
type element struct {
	set   *set
	key   []byte
	value []byte
	owner int32 // index of the Service that it belongs to in the transaction, or -1
	named bool  // the comment is the owner's name
	more  *details
}

// details are what only some elements have.
type details struct {
	keyEnd  []byte        // last key of a range of concatenated fields
	last    bool          // marks the end of a range of single fields
	chain   string        // the verdict "goto chain", in a map of verdicts
	timeout time.Duration // how long the element lives, and
	expires time.Duration // how long from now on; 0 for ever
}

// detail returns the details; zero ones if there are none.
func (e *element) detail() details {
	if e.more == nil {
		return details{}
	}
	return *e.more
}

// An arena hands out the bytes of keys and values, to spare an allocation for each.
type arena struct {
	block []byte
	// Fields are appended to the tail of the block by one builder at a time.
	start int
}

const arenaBlock = 64 << 10

// take ends the bytes that were appended since the last call.
func (a *arena) take() []byte {
	b := a.block[a.start:len(a.block):len(a.block)]
	a.start = len(a.block)
	return b
}

// reserve makes room for a key or value, so that appending does not move what was taken.
func (a *arena) reserve() {
	if cap(a.block)-len(a.block) < longest {
		a.block, a.start = make([]byte, 0, arenaBlock), 0
	}
}

func (a *arena) addr(v netip.Addr) {
	if v.Is4() {
		b := v.As4()
		a.block = append(a.block, b[:]...)
		return
	}
	b := v.As16()
	a.block = append(a.block, b[:]...)
}

func (a *arena) proto(p proxy.Protocol) { a.block = append(a.block, byte(p), 0, 0, 0) }

func (a *arena) port(p uint16) { a.block = append(a.block, byte(p>>8), byte(p), 0, 0) }

// number appends a number as the kernel keeps it in a register, in host byte order.
func (a *arena) number(v uint32) { a.block = binary.NativeEndian.AppendUint32(a.block, v) }

// longest is the length of the longest key: a tuple and a source address in IPv6.
const longest = 40

// tuple is the key of a frontend: address (unless it is a NodePort), protocol, port.
func (a *arena) tuple(k proxy.FrontendKey) []byte {
	a.reserve()
	a.putTuple(k)
	return a.take()
}

func (a *arena) putTuple(k proxy.FrontendKey) {
	if k.Addr.IsValid() {
		a.addr(k.Addr)
	}
	a.proto(k.Protocol)
	a.port(k.Port)
}

// source is the key of an allowed source: a tuple and an address.
func (a *arena) source(k proxy.FrontendKey, src netip.Addr) []byte {
	a.reserve()
	a.putTuple(k)
	a.addr(src)
	return a.take()
}

func (a *arena) numberKey(v uint32) []byte {
	a.reserve()
	a.number(v)
	return a.take()
}

func (a *arena) slotKey(number, slot uint32) []byte {
	a.reserve()
	a.number(number)
	a.number(slot)
	return a.take()
}

func (a *arena) endpointKey(number uint32, v netip.AddrPort) []byte {
	a.reserve()
	a.number(number)
	a.addr(v.Addr())
	a.port(v.Port())
	return a.take()
}

func (a *arena) addrKey(v ...netip.Addr) []byte {
	a.reserve()
	for _, x := range v {
		a.addr(x)
	}
	return a.take()
}

func (a *arena) addrPort(v netip.AddrPort) []byte {
	a.reserve()
	a.addr(v.Addr())
	a.port(v.Port())
	return a.take()
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if bits := p.Bits() - 8*i; bits <= 0 {
			b[i] = 0xff
		} else if bits < 8 {
			b[i] |= 0xff >> bits
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// prefixElements covers a prefix in an interval set of addresses: its first address, and the address behind it as the end. A prefix
// that reaches the highest address has no end.
func (a *arena) prefixElements(s *set, p netip.Prefix) []element {
	out := []element{{set: s, key: a.addrKey(p.Masked().Addr()), owner: -1}}
	if end := lastAddr(p.Masked()).Next(); end.IsValid() {
		out = append(out, element{set: s, key: a.addrKey(end), more: &details{last: true}, owner: -1})
	}
	return out
}

// comment shortens a Service's name to what nft accepts. Bytes are cut, not characters: names are ASCII (RFC 1123).
func comment(n proxy.ServicePortName) string {
	s := n.String()
	if len(s) > maxComment {
		s = s[:maxComment-3] + "..."
	}
	return s
}
