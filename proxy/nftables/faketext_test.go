package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// dump is our table as nft would list it, made of what arrived; "" if there is none.
func (k *fakeKernel) dump() string {
	t := k.tables[TableName]
	if t == nil {
		return ""
	}
	var b strings.Builder
	p := printer{Builder: &b, family: k.family}
	fmt.Fprintf(&b, "table %s %s {\n\tcomment %q\n", familyWord(k.family), TableName, t.comment)
	for i, s := range t.sets {
		if i > 0 {
			b.WriteString("\n")
		}
		s.write(p)
	}
	for _, c := range t.chains {
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *fakeSet) write(p printer) {
	def := definition(s.name)
	kind := map[bool]string{false: "set", true: "map"}[def.isMap()]
	fmt.Fprintf(p, "\t%s %s {\n\t\t%s\n", kind, s.name, p.setType(def))
	if s.size > 0 {
		fmt.Fprintf(p, "\t\tsize %d\n", s.size)
	}
	if def.interval {
		p.WriteString("\t\tflags interval\n")
	}
	if s.timeout > 0 {
		fmt.Fprintf(p, "\t\tflags dynamic,timeout\n\t\ttimeout %s\n", nftDuration(s.timeout))
	}
	fmt.Fprintf(p, "\t\tcomment %q\n", s.comment)
	if texts := s.texts(p, def); len(texts) > 0 {
		fmt.Fprintf(p, "\t\telements = {\n\t\t\t%s\n\t\t}\n", strings.Join(texts, ",\n\t\t\t"))
	}
	p.WriteString("\t}\n")
}

func (s *fakeSet) texts(p printer, def *set) (out []string) {
	all := s.sorted()
	for i, e := range all {
		if e.last {
			continue
		}
		first, last := e.key, e.end
		if def.interval && len(def.key) == 1 {
			if last = highest(len(first)); i+1 < len(all) && all[i+1].last {
				last = netipBytes(all[i+1].key).Prev().AsSlice()
			}
		}
		text := p.fields(def.key, first)
		if last != nil {
			n := len(first) - p.family.Bits()/8
			text = strings.TrimSuffix(text, netipBytes(first[n:]).String()) + rangeText(netipBytes(first[n:]), netipBytes(last[n:]))
		}
		if e.comment != "" {
			text += fmt.Sprintf(" comment %q", e.comment)
		}
		if e.chain != "" {
			text += " : goto " + e.chain
		} else if e.value != nil {
			text += " : " + p.fields(def.value, e.value)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func netipBytes(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func highest(n int) []byte { return []byte(strings.Repeat("\xff", n)) }

// rangeText spells a range as nft does: as a prefix if it is one.
func rangeText(first, last netip.Addr) string {
	for bits := first.BitLen(); bits >= 0; bits-- {
		x := netip.PrefixFrom(first, bits)
		if x.Masked().Addr() != first || lastAddr(x) != last {
			continue
		}
		if bits == first.BitLen() {
			return first.String()
		}
		return x.String()
	}
	return first.String() + "-" + last.String()
}

// definition finds the fields of a set by its name.
func definition(name string) *set {
	for _, s := range newSets(capacity{}).all() {
		if s.name == name {
			return s
		}
	}
	frontends, nodeports := stickySets(0)
	switch {
	case strings.HasPrefix(name, "sticky-nodeports-"):
		return nodeports
	case strings.HasPrefix(name, "sticky-"):
		return frontends
	}
	panic("unknown set " + name)
}

func (c *fakeChain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n\tchain %s {\n", c.name)
	if c.comment != "" {
		fmt.Fprintf(b, "\t\tcomment %q\n", c.comment)
	}
	if c.hook != "" {
		hook := binary.BigEndian.Uint32([]byte(c.hook[4:]))
		priority := int32(binary.BigEndian.Uint32([]byte(c.hook[12:])))
		names := []string{"prerouting", "input", "forward", "output", "postrouting"}
		spelling := fmt.Sprint(priority)
		if priority == priorityDstNAT && hook == 0 {
			spelling = "dstnat"
		} else if priority == prioritySrcNAT && hook == 4 {
			spelling = "srcnat"
		}
		fmt.Fprintf(b, "\t\ttype nat hook %s priority %s; policy accept;\n", names[hook], spelling)
	}
	for _, r := range c.rules {
		b.WriteString("\t\t" + r.text + "\n")
	}
	b.WriteString("\t}\n")
}
