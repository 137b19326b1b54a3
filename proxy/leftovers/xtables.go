package leftovers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"turnout/proxy"
)

// An xtable is a table of iptables-legacy as the kernel takes and gives it: one blob for all programs that have rules in it (struct ipt_replace
// and ip6t_replace). Its entries lead to each other by their place in the blob, so to take some out means to write all of it anew.
type xtable struct {
	name       string
	family     proxy.Family
	hooks      uint32 // bits of those that the table is at
	entry, end [5]uint32
	number     uint32 // of entries
	blob       []byte
}

// An xentry is one rule, the head of a chain, or the end of the table.
type xentry struct {
	at      int    // in the blob
	bytes   []byte // part of the blob
	target  int    // where the target begins in bytes
	chain   string // the chain that it begins; "" if none
	in      string // the chain that it is in; "" for chains of the kernel itself
	verdict int    // place of the entry that it leads to; -1 if to none
}

var errBlob = errors.New("the table is not laid out as expected")

// parse splits the blob.
func (t *xtable) parse() ([]xentry, error) {
	// struct ipt_entry and ip6t_entry: where the offsets of the target and of the next entry stand, as two u16.
	at := 88
	if t.family == proxy.IPv6 {
		at = 140
	}
	var out []xentry
	chain := ""
	for place := 0; place < len(t.blob); {
		b := t.blob[place:]
		if len(b) < at+4 {
			return nil, errBlob
		}
		target, next := int(binary.NativeEndian.Uint16(b[at:])), int(binary.NativeEndian.Uint16(b[at+2:]))
		if next > len(b) || target+targetHeader+4 > next {
			return nil, errBlob
		}
		e := xentry{at: place, bytes: b[:next], target: target, verdict: -1}
		switch text(b[target+2 : target+targetHeader-1]) {
		case errorTarget:
			if e.chain = text(b[target+targetHeader : next]); e.chain == errorTarget {
				e.chain, chain = "", "" // the end of the table
			} else {
				chain = e.chain
			}
		case "": // the kernel's own: a verdict, or a place to go on
			e.verdict = int(int32(binary.NativeEndian.Uint32(b[target+targetHeader:])))
		}
		e.in = chain
		out = append(out, e)
		place += next
	}
	return out, nil
}

// chains lists the chains that programs made.
func chains(entries []xentry) (out []string) {
	for _, e := range entries {
		if e.chain != "" {
			out = append(out, e.chain)
		}
	}
	return out
}

// without returns the table without the chains in scope and the rules of kube-proxy's that lead to them, which of its entries are in what it
// returns, and the chains that are not. A chain that another program's chain leads to is kept, with all that it leads to itself.
//
// With first set it is only without the rules by which new connections come to these chains, which are to go before what becomes of such connections on their way
// out.
func (t *xtable) without(s Scope, first bool) (out *xtable, kept []bool, gone map[string]bool, err error) {
	entries, err := t.parse()
	if err != nil {
		return nil, nil, nil, err
	}
	s = s.beside(chains(entries))
	owned := func(chain string) bool { return s.owns(t.name, chain) }
	gone = droppable(entries, owned, t.ofKubeProxy)
	if first {
		gone = nil
	}
	kept = make([]bool, len(entries))
	places := make(map[int]int, len(entries)+1) // from old to new; what is dropped is the next that is not
	size := 0
	for i, e := range entries {
		places[e.at] = size
		jump := owned(leadsTo(entries, e)) && !owned(e.in) && t.ofKubeProxy(e.in) && (!first || t.translates(e))
		if kept[i] = !gone[e.in] && !jump; kept[i] {
			size += len(e.bytes)
		}
	}
	out = &xtable{name: t.name, family: t.family, hooks: t.hooks, blob: make([]byte, 0, size)}
	for i, e := range entries {
		if !kept[i] {
			continue
		}
		at := len(out.blob)
		out.blob = append(out.blob, e.bytes...)
		out.number++
		if e.verdict >= 0 {
			to, ok := places[e.verdict]
			if !ok {
				return nil, nil, nil, fmt.Errorf("%w: a rule leads to %d, where no rule begins", errBlob, e.verdict)
			}
			binary.NativeEndian.PutUint32(out.blob[at+e.target+targetHeader:], uint32(to))
		}
	}
	for h := range t.entry {
		if t.hooks&(1<<h) == 0 {
			continue
		}
		entry, known := places[int(t.entry[h])]
		end, both := places[int(t.end[h])]
		if !known || !both { // its head was read before somebody changed it
			return nil, nil, nil, fmt.Errorf("%w: the chain of hook %d begins at %d and ends at %d, where no rule begins", errBlob, h, t.entry[h], t.end[h])
		}
		out.entry[h], out.end[h] = uint32(entry), uint32(end)
	}
	return out, kept, gone, nil
}

// translates tells that an entry is in a chain that packets meet where their destination is translated.
func (t *xtable) translates(e xentry) bool {
	const prerouting, output = 0, 3 // NF_INET_PRE_ROUTING and NF_INET_LOCAL_OUT
	for _, h := range []int{prerouting, output} {
		if t.hooks&(1<<h) != 0 && e.at >= int(t.entry[h]) && e.at <= int(t.end[h]) {
			return t.name == "nat"
		}
	}
	return false
}

// leadsTo is the chain that a rule leads to; "" if none. A rule without a target leads to the next one.
func leadsTo(entries []xentry, e xentry) string {
	if e.verdict < 0 || e.verdict == e.at+len(e.bytes) {
		return ""
	}
	// A jump leads to the first rule behind the head.
	i, ok := slices.BinarySearchFunc(entries, e.verdict, func(x xentry, place int) int { return x.at - place })
	if !ok {
		return ""
	}
	return entries[i].in
}

// ofKubeProxy tells whose the rules of a chain are that lead to kube-proxy's chains: kube-proxy's in the kernel's own chains, and in those that it has in other
// modes.
func (t *xtable) ofKubeProxy(chain string) bool {
	return chain == "" || ofKubeProxy.owns(t.name, chain)
}

// droppable tells of each chain whether it can be taken out.
func droppable(entries []xentry, owned, ofKubeProxy func(string) bool) map[string]bool {
	drop, uses := map[string]bool{}, map[string][]string{}
	for _, e := range entries {
		if e.chain != "" && owned(e.chain) {
			drop[e.chain] = true
		}
		if to := leadsTo(entries, e); to != "" && e.in != "" {
			uses[e.in] = append(uses[e.in], to)
		}
	}
	var keep func(chain string)
	keep = func(chain string) {
		if drop[chain] {
			delete(drop, chain)
			for _, to := range uses[chain] {
				keep(to)
			}
		}
	}
	for from, list := range uses {
		if !owned(from) && !ofKubeProxy(from) {
			for _, to := range list {
				keep(to)
			}
		}
	}
	return drop
}
