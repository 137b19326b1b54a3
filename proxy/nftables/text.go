package nftables

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"turnout/proxy"
)

// WriteText writes the table that a node without one would be given for a State, as nft lists it: no kernel is asked. Elements stand
// one a line, sorted. The error is that of w; Services that a table cannot hold are named in a comment.
func WriteText(w io.Writer, s *proxy.State) error {
	t := newTable(s, nil, map[proxy.ServicePortName]error{})
	tx := t.build(replace)
	var b strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(t.excluded), proxy.ServicePortName.Compare) {
		fmt.Fprintf(&b, "# %s is left out: %v\n", name, t.excluded[name])
	}
	p := printer{Builder: &b, family: s.Family, owners: tx.owners}
	p.table(TableName, tx)
	_, err := io.WriteString(w, b.String())
	return err
}

// A printer writes parts of a table in nft's language.
type printer struct {
	*strings.Builder
	family proxy.Family
	owners []proxy.ServicePortName
}

func (p printer) table(name string, tx *transaction) {
	ip := "ip"
	if p.family == proxy.IPv6 {
		ip = "ip6"
	}
	fmt.Fprintf(p, "table %s %s {\n\tcomment %q\n", ip, name, layoutComment)
	for i, s := range tx.sets {
		if i > 0 {
			p.WriteString("\n")
		}
		p.set(s, tx.new.of(s))
	}
	for i := range tx.chains {
		p.chain(&tx.chains[i], tx.rules)
	}
	p.WriteString("}\n")
}

func (p printer) set(s *set, elements []element) {
	kind := "set"
	if s.isMap() {
		kind = "map"
	}
	fmt.Fprintf(p, "\t%s %s {\n\t\t%s\n", kind, s.name, p.setType(s))
	if s.size > 0 {
		fmt.Fprintf(p, "\t\tsize %d\n", s.size)
	}
	switch {
	case s.interval:
		p.WriteString("\t\tflags interval\n")
	case s.timeout > 0:
		fmt.Fprintf(p, "\t\tflags dynamic,timeout\n\t\ttimeout %s\n", nftDuration(s.timeout))
	}
	fmt.Fprintf(p, "\t\tcomment %q\n", s.comment)
	if texts := p.elements(s, elements); len(texts) > 0 {
		fmt.Fprintf(p, "\t\telements = {\n\t\t\t%s\n\t\t}\n", strings.Join(texts, ",\n\t\t\t"))
	}
	p.WriteString("\t}\n")
}

func (p printer) setType(s *set) string {
	if s.typeof != nil {
		key, value := s.typeof(p.family)
		return "typeof " + concatText(p.family, key) + " : " + concatText(p.family, value)
	}
	text := "type " + p.fieldTypes(s.key)
	if s.isMap() {
		text += " : " + p.fieldTypes(s.value)
	}
	return text
}

func concatText(f proxy.Family, operands []operand) string {
	text, _, _ := concat(f, firstRegister, operands)
	return text
}

func (p printer) fieldTypes(fields []datatype) string {
	names := make([]string, len(fields))
	for i, t := range fields {
		names[i] = t.nft(p.family).Name
	}
	return strings.Join(names, " . ")
}

func (p printer) elements(s *set, list []element) []string {
	out := make([]string, 0, len(list))
	for i := range list {
		e := &list[i]
		var text string
		switch {
		case e.detail().last:
			continue // belongs to the element before
		case s.interval && len(s.key) == 1:
			text = p.prefix(e, list[i+1:])
		case e.detail().keyEnd != nil:
			text = p.source(e)
		default:
			text = p.fields(s.key, e.key)
		}
		if e.named {
			text += fmt.Sprintf(" comment %q", comment(p.owners[e.owner]))
		}
		if s.verdicts() {
			text += " : goto " + e.detail().chain
		} else if s.isMap() {
			text += " : " + p.fields(s.value, e.value)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// prefix spells a range of addresses whose end, if it has one, is the next element.
func (p printer) prefix(e *element, rest []element) string {
	first, _ := netip.AddrFromSlice(e.key)
	for bits := range p.family.Bits() + 1 {
		x := netip.PrefixFrom(first, bits)
		if x.Masked().Addr() != first {
			continue
		}
		end := lastAddr(x).Next()
		if !end.IsValid() && (len(rest) == 0 || !rest[0].detail().last) || end.IsValid() && len(rest) > 0 && rest[0].detail().last && string(rest[0].key) == string(end.AsSlice()) {
			return prefixText(x)
		}
	}
	return first.String()
}

func prefixText(x netip.Prefix) string {
	if x.IsSingleIP() {
		return x.Addr().String()
	}
	return x.String()
}

// source spells an allowed source: a frontend and the prefix that its clients are in.
func (p printer) source(e *element) string {
	n := len(e.key) - p.family.Bits()/8
	first, _ := netip.AddrFromSlice(e.key[n:])
	tuple := []datatype{typeAddr, typeProto, typePort}
	for bits := range p.family.Bits() + 1 {
		if x := netip.PrefixFrom(first, bits); x.Masked().Addr() == first && string(lastAddr(x).AsSlice()) == string(e.detail().keyEnd[n:]) {
			return p.fields(tuple, e.key[:n]) + " . " + prefixText(x)
		}
	}
	return p.fields(tuple, e.key[:n]) + " . " + first.String()
}

// fields spells concatenated fields.
func (p printer) fields(types []datatype, b []byte) string {
	texts := make([]string, len(types))
	for i, t := range types {
		texts[i] = p.field(t, b)
		b = b[padded(t.width(p.family)):]
	}
	return strings.Join(texts, " . ")
}

func (p printer) field(t datatype, b []byte) string {
	switch t {
	case typeAddr:
		a, _ := netip.AddrFromSlice(b[:t.width(p.family)])
		return a.String()
	case typeProto:
		return strings.ToLower(proxy.Protocol(b[0]).String())
	case typePort:
		return fmt.Sprint(binary.BigEndian.Uint16(b))
	case typeSlot:
		return fmt.Sprint(binary.NativeEndian.Uint32(b))
	default:
		return classid(binary.NativeEndian.Uint32(b))
	}
}

func (p printer) chain(c *chain, appended []appendedRule) {
	fmt.Fprintf(p, "\n\tchain %s {\n", c.name)
	if c.comment != "" {
		fmt.Fprintf(p, "\t\tcomment %q\n", c.comment)
	}
	if c.hook != nil {
		fmt.Fprintf(p, "\t\ttype nat hook %s priority %s; policy accept;\n", c.hook.name, c.hook.spelling)
	}
	for _, r := range c.rules {
		p.WriteString("\t\t" + r.text + "\n")
	}
	for _, r := range appended {
		if r.chain == c.name {
			p.WriteString("\t\t" + r.rule.text + "\n")
		}
	}
	p.WriteString("\t}\n")
}
