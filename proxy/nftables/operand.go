package nftables

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// An operand is one thing that a rule reads: it knows its spelling in nft, its type, how to load it into registers, and how to
// describe itself in a set's user data, which is what nft calls typeof.
type operand struct {
	text   string
	typ    datatype
	load   func(register uint32) []expression
	typeof []byte
}

// Registers of 4 bytes start at number 8 (NFT_REG32_00). Every rule of ours loads from there on.
const firstRegister = unix.NFT_REG32_00

// The numbers below identify expressions, protocols and header fields in the user data of sets. They are nft's own and have
// been stable since typeof exists (nft 0.9.4).
const (
	typeofPayload, typeofMeta, typeofConcat, typeofNumgen = 7, 9, 13, 23

	typeofTransport, typeofIP, typeofIP6 = 11, 12, 13
	typeofSaddr4, typeofDaddr4           = 11, 12
	typeofSaddr6, typeofDaddr6           = 8, 9
	typeofDport                          = 2
	typeofKey, typeofData                = 3, 4
)

// nft: ip saddr
func saddr(f proxy.Family) operand {
	if f == proxy.IPv6 {
		return header("ip6 saddr", typeAddr, expr.PayloadBaseNetworkHeader, 8, 16, describePayload(typeofIP6, typeofSaddr6))
	}
	return header("ip saddr", typeAddr, expr.PayloadBaseNetworkHeader, 12, 4, describePayload(typeofIP, typeofSaddr4))
}

// nft: ip daddr
func daddr(f proxy.Family) operand {
	if f == proxy.IPv6 {
		return header("ip6 daddr", typeAddr, expr.PayloadBaseNetworkHeader, 24, 16, describePayload(typeofIP6, typeofDaddr6))
	}
	return header("ip daddr", typeAddr, expr.PayloadBaseNetworkHeader, 16, 4, describePayload(typeofIP, typeofDaddr4))
}

// nft: th dport
//
// TCP, UDP and SCTP have the destination port at the same place. For other protocols it reads something else, which is
// harmless: it is always looked up together with the protocol.
func dport() operand {
	return header("th dport", typePort, expr.PayloadBaseTransportHeader, 2, 2, describePayload(typeofTransport, typeofDport))
}

func header(text string, typ datatype, base expr.PayloadBase, offset, length uint32, typeof []byte) operand {
	return operand{text: text, typ: typ, typeof: typeof, load: func(r uint32) []expression {
		return library(&expr.Payload{DestRegister: r, Base: base, Offset: offset, Len: length})
	}}
}

// nft: meta l4proto
//
// No byteorder expression follows, although nft itself puts one there in some places: newer kernels refuse it on one byte.
func l4proto() operand {
	return operand{text: "meta l4proto", typ: typeProto, load: func(r uint32) []expression {
		return library(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r})
	}}
}

// nft: meta priority
func priority() operand {
	return operand{text: "meta priority", typ: typeClass, typeof: describe(typeofMeta, u32(0, unix.NFT_META_PRIORITY)),
		load: func(r uint32) []expression {
			return library(&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: r})
		}}
}

// nft: meta priority & f:ffff
func priorityBits(mask uint32) operand {
	o := priority()
	o.text += " & " + classid(mask)
	o.load = func(r uint32) []expression {
		return append(priority().load(r), bitwise(r, mask, 0)...)
	}
	return o
}

// nft: numgen random mod 3
func slot(n int) operand {
	return operand{text: fmt.Sprintf("numgen random mod %d", n), typ: typeSlot,
		typeof: describe(typeofNumgen, u32(0, unix.NFT_NG_RANDOM), u32(1, uint32(n)), u32(2, 0)),
		load: func(r uint32) []expression {
			return library(&expr.Numgen{Register: r, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM})
		}}
}

// nft: ct original ip daddr
func originalDaddr(f proxy.Family) operand {
	text, key := "ct original ip daddr", uint32(unix.NFT_CT_DST_IP)
	if f == proxy.IPv6 {
		text, key = "ct original ip6 daddr", unix.NFT_CT_DST_IP6
	}
	return operand{text: text, typ: typeAddr, load: func(r uint32) []expression {
		return []expression{ctOriginal{key: key, register: r}}
	}}
}

// nft: ct original proto-dst
func originalDport() operand {
	return operand{text: "ct original proto-dst", typ: typePort, load: func(r uint32) []expression {
		return []expression{ctOriginal{key: unix.NFT_CT_PROTO_DST, register: r}}
	}}
}

// concat loads operands side by side and returns the first register behind them. Each field starts at a register of its own.
//
// nft: ip daddr . meta l4proto . th dport
func concat(f proxy.Family, first uint32, operands []operand) (text string, load []expression, next uint32) {
	texts, r := make([]string, len(operands)), first
	for i, o := range operands {
		texts[i] = o.text
		load = append(load, o.load(r)...)
		r += uint32(padded(o.typ.width(f)) / 4)
	}
	return strings.Join(texts, " . "), load, r
}

func typeofEndpoints(f proxy.Family) (key, value []operand) {
	return []operand{priority(), slot(2)}, []operand{daddr(f), dport()}
}

func typeofAffinity(f proxy.Family) (key, value []operand) {
	return []operand{priority(), saddr(f)}, []operand{daddr(f), dport()}
}

// describeConcat describes a concatenation of operands.
func describeConcat(operands []operand) []byte {
	var fields []byte
	for i, o := range operands {
		fields = nest(fields, userdata.Type(i), o.typeof)
	}
	return describe(typeofConcat, fields)
}

// describe returns the user data of an expression: its kind, and what else nft needs to know of it.
func describe(kind uint32, attributes ...[]byte) []byte {
	var data []byte
	for _, a := range attributes {
		data = append(data, a...)
	}
	return nest(u32(0, kind), 1, data)
}

func describePayload(protocol, field uint32) []byte {
	return describe(typeofPayload, u32(0, protocol), u32(1, field))
}

func u32(typ userdata.Type, v uint32) []byte { return userdata.AppendUint32(nil, typ, v) }

func nest(to []byte, typ userdata.Type, data []byte) []byte { return userdata.Append(to, typ, data) }

// classid spells a packet priority as nft does.
func classid(v uint32) string { return fmt.Sprintf("%x:%x", v>>16, v&0xffff) }
