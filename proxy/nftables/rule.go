package nftables

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// A chain is a chain of the table with its rules.
type chain struct {
	name    string
	comment string
	hook    *hook // nil for a chain that is only jumped to
	rules   []rule
}

// A hook is where a base chain is attached. All of ours have type nat and policy accept.
type hook struct {
	name     string
	number   uint32
	priority int32
	spelling string // of the priority
}

// A rule is a list of expressions, and its text as nft lists it.
type rule struct {
	text        string
	expressions []expression
}

// A part is a piece of a rule: a match, a statement or a verdict.
type part = rule

// join makes a rule of parts.
func join(parts ...part) rule {
	var r rule
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		texts = append(texts, p.text)
		r.expressions = append(r.expressions, p.expressions...)
	}
	r.text = strings.Join(texts, " ")
	return r
}

// writer builds the parts of one family's rules.
type writer struct {
	family proxy.Family
	mark   uint32 // the bit that asks for masquerading
}

// nft: ip saddr @pod-cidrs
func (w writer) in(s *set, key ...operand) part { return w.lookup(s, false, key) }

// nft: ip saddr != @pod-cidrs
func (w writer) notIn(s *set, key ...operand) part { return w.lookup(s, true, key) }

func (w writer) lookup(s *set, invert bool, key []operand) part {
	text, load, _ := concat(w.family, firstRegister, key)
	op := " @"
	if invert {
		op = " != @"
	}
	return part{text + op + s.name, append(load, library(&expr.Lookup{SourceRegister: firstRegister, SetName: s.name, Invert: invert})...)}
}

// load looks key up in a map and leaves the value in the registers from the first one on. The rule ends if there is none.
func (w writer) load(s *set, key []operand) (text string, load []expression) {
	text, load, _ = concat(w.family, firstRegister, key)
	return text + " map @" + s.name, append(load, library(&expr.Lookup{SourceRegister: firstRegister, SetName: s.name, IsDestRegSet: true, DestRegister: firstRegister})...)
}

// nft: meta priority set ip daddr . meta l4proto . th dport map @frontends
func (w writer) setPriorityFrom(s *set, key ...operand) part {
	text, load := w.load(s, key)
	return part{"meta priority set " + text, append(load, setMeta(expr.MetaKeyPRIORITY)...)}
}

// nft: meta priority set meta priority & 7:ffff
func (w writer) keepPriority(mask uint32) part {
	o := priorityBits(mask)
	return part{"meta priority set " + o.text, append(o.load(firstRegister), setMeta(expr.MetaKeyPRIORITY)...)}
}

// nft: meta priority set none
func (w writer) clearPriority() part {
	return part{"meta priority set none", append(library(&expr.Immediate{Register: firstRegister, Data: host(0)}), setMeta(expr.MetaKeyPRIORITY)...)}
}

func setMeta(key expr.MetaKey) []expression {
	return library(&expr.Meta{Key: key, SourceRegister: true, Register: firstRegister})
}

// nft: meta priority & 8:0 == none
func (w writer) priorityHasNot(bit uint32) part {
	o := priorityBits(bit)
	return part{o.text + " == none", append(o.load(firstRegister), library(&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: host(0)})...)}
}

// nft: dnat ip to meta priority & f:ffff . numgen random mod 3 map @endpoints
func (w writer) dnat(s *set, key ...operand) part {
	text, load := w.load(s, key)
	port := uint32(firstRegister + padded(typeAddr.width(w.family))/4)
	ip := "ip"
	if w.family == proxy.IPv6 {
		ip = "ip6"
	}
	return part{"dnat " + ip + " to " + text, append(load, library(&expr.NAT{Type: expr.NATTypeDestNAT,
		Family: uint32(nfproto(w.family)), RegAddrMin: firstRegister, RegProtoMin: port})...)}
}

// nft: meta priority & fff0:0 vmap @dispatch
func (w writer) vmap(s *set, key operand) part {
	return part{key.text + " vmap @" + s.name, append(key.load(firstRegister),
		library(&expr.Lookup{SourceRegister: firstRegister, SetName: s.name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})...)}
}

// nft: update @affinity { meta priority . ip saddr timeout 3h : ip daddr . th dport }
func (w writer) update(s *set, timeout time.Duration, key, value []operand) part {
	keyText, load, next := concat(w.family, firstRegister, key)
	valueText, loadValue, _ := concat(w.family, next, value)
	return part{fmt.Sprintf("update @%s { %s timeout %s : %s }", s.name, keyText, nftDuration(timeout), valueText),
		slices.Concat(load, loadValue, library(&expr.Dynset{SrcRegKey: firstRegister, SrcRegData: next, SetName: s.name,
			Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout}))}
}

// nft: meta mark set meta mark | 0x00004000
func (w writer) setMark() part {
	return part{fmt.Sprintf("meta mark set meta mark | 0x%08x", w.mark), w.changeMark(^w.mark, w.mark)}
}

// nft: meta mark set meta mark & 0xffffbfff
func (w writer) clearMark() part {
	return part{fmt.Sprintf("meta mark set meta mark & 0x%08x", ^w.mark), w.changeMark(^w.mark, 0)}
}

func (w writer) changeMark(mask, xor uint32) []expression {
	return slices.Concat(library(&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister}),
		bitwise(firstRegister, mask, xor), setMeta(expr.MetaKeyMARK))
}

// nft: meta mark & 0x00004000 == 0x00000000
func (w writer) unmarked() part {
	return part{fmt.Sprintf("meta mark & 0x%08x == 0x00000000", w.mark), slices.Concat(
		library(&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister}), bitwise(firstRegister, w.mark, 0),
		library(&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: host(0)}))}
}

// ipsDstNAT is the conntrack status bit of connections whose destination was translated (IPS_DST_NAT).
const ipsDstNAT = 1 << 5

// nft: ct status dnat
func (w writer) translated() part { return w.status("ct status dnat", expr.CmpOpNeq) }

// nft: ct status ! dnat
func (w writer) untranslated() part { return w.status("ct status ! dnat", expr.CmpOpEq) }

func (w writer) status(text string, op expr.CmpOp) part {
	return part{text, slices.Concat(library(&expr.Ct{Key: expr.CtKeySTATUS, Register: firstRegister}), bitwise(firstRegister, ipsDstNAT, 0),
		library(&expr.Cmp{Op: op, Register: firstRegister, Data: host(0)}))}
}

// nft: fib saddr type local
func (w writer) fromNode() part {
	return part{"fib saddr type local", library(&expr.Fib{Register: firstRegister, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: host(unix.RTN_LOCAL)})}
}

// nft: fib daddr type local
func (w writer) toNode() part { return w.toNodeIf("fib daddr type local", expr.CmpOpEq) }

// nft: fib daddr type != local
func (w writer) notToNode() part { return w.toNodeIf("fib daddr type != local", expr.CmpOpNeq) }

func (w writer) toNodeIf(text string, op expr.CmpOp) part {
	return part{text, library(&expr.Fib{Register: firstRegister, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: firstRegister, Data: host(unix.RTN_LOCAL)})}
}

// nft: ip daddr != 127.0.0.0/8
func (w writer) notToLoopback() part {
	if w.family == proxy.IPv6 {
		loopback := make([]byte, 16)
		loopback[15] = 1
		return part{"ip6 daddr != ::1", append(daddr(w.family).load(firstRegister),
			library(&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: loopback})...)}
	}
	return part{"ip daddr != 127.0.0.0/8", library(
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: []byte{127}})}
}

// nft: iifname "cbr0"
func (w writer) inInterface(name string) part {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return w.iifname(name, data)
}

// nft: iifname "veth*"
func (w writer) inInterfacePrefix(prefix string) part { return w.iifname(prefix+"*", []byte(prefix)) }

func (w writer) iifname(spelled string, data []byte) part {
	return part{fmt.Sprintf("iifname %q", spelled), library(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: data})}
}

// nft: reject with tcp reset
//
// nft lists it without the protocol test in front that it implies.
func (w writer) resetTCP() part {
	return part{"reject with tcp reset", library(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})}
}

// nft: reject
//
// The answer is ICMP or ICMPv6 port unreachable.
func (w writer) unreachable() part {
	code := uint8(3) // ICMP_PORT_UNREACH
	if w.family == proxy.IPv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return part{"reject", library(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})}
}

// nft: masquerade fully-random
func (w writer) masquerade() part {
	return part{"masquerade fully-random", library(&expr.Masq{FullyRandom: true})}
}

func verdict(text string, kind expr.VerdictKind, chain string) part {
	return part{strings.TrimSpace(text + " " + chain), library(&expr.Verdict{Kind: kind, Chain: chain})}
}

func gotoChain(name string) part { return verdict("goto", expr.VerdictGoto, name) }
func jump(name string) part      { return verdict("jump", expr.VerdictJump, name) }
func drop() part                 { return verdict("drop", expr.VerdictDrop, "") }
func returnPart() part           { return verdict("return", expr.VerdictReturn, "") }

// nftDuration spells a duration as nft does: 3h, 1d2h, 90s as 1m30s.
func nftDuration(d time.Duration) string {
	var b strings.Builder
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
