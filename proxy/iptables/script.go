package iptables

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"

	"turnout/proxy"
)

// A script is the input of iptables-restore. Each of its sections is one table, which the kernel takes as a whole or not at all.
type script struct {
	sections []*section
}

// section is what happens to one table: chains are made, or emptied if they exist, then rules are added and deleted, then chains are deleted.
type section struct {
	table               string
	chains, rules, gone []line
	added               int // rules in our chains
}

// line is one line of the input, and the Service port that it is about; nil if none.
type line struct {
	text  string
	owner *proxy.ServicePortName
}

// section adds a section.
func (s *script) section(table string) *section {
	x := &section{table: table}
	s.sections = append(s.sections, x)
	return x
}

// declare makes a chain, or empties it.
func (x *section) declare(chain string, owner *proxy.ServicePortName) {
	x.chains = append(x.chains, line{":" + chain + " - [0:0]", owner})
}

func (x *section) chain(c *chain, owner *proxy.ServicePortName) {
	x.declare(c.name, owner)
	for _, r := range c.rules {
		x.append(c.name, r, owner)
	}
}

func (x *section) append(chain, rule string, owner *proxy.ServicePortName) {
	x.added++
	x.rules = append(x.rules, line{"-A " + chain + " " + rule, owner})
}

// insert adds a rule as the n-th of a chain, the first being 1.
func (x *section) insert(chain string, n int, rule string, owner *proxy.ServicePortName) {
	x.added++
	x.rules = append(x.rules, line{"-I " + chain + " " + strconv.Itoa(n) + " " + rule, owner})
}

// jump has one of the kernel's chains lead to ours, before all else that it does.
func (x *section) jump(j *Jump) {
	x.rules = append(x.rules, line{text: "-I " + j.From + " 1 " + j.rule()})
}

// remove deletes the first rule of a chain with just this text.
func (x *section) remove(chain, rule string, owner *proxy.ServicePortName) {
	x.rules = append(x.rules, line{"-D " + chain + " " + rule, owner})
}

// drop empties and deletes a chain that nothing leads to behind the rules of the section.
func (x *section) drop(chain string, owner *proxy.ServicePortName) {
	x.declare(chain, owner)
	x.gone = append(x.gone, line{"-X " + chain, owner})
}

func (x *section) operations() int { return len(x.chains) + len(x.rules) }

func (s *script) operations() (n int) {
	for _, x := range s.sections {
		n += x.operations()
	}
	return n
}

// text returns the input, and the owner of each of its lines.
func (s *script) text() ([]byte, []*proxy.ServicePortName) {
	var b bytes.Buffer
	var owners []*proxy.ServicePortName
	put := func(lines ...line) {
		for _, l := range lines {
			b.WriteString(l.text)
			b.WriteByte('\n')
			owners = append(owners, l.owner)
		}
	}
	for _, x := range s.sections {
		if x.operations() == 0 {
			continue
		}
		// iptables-nft keeps chains in a sorted list, from whose end it looks for the place of each: in any other order, time grows with the square of
		// their number.
		slices.SortFunc(x.chains, func(a, b line) int { return strings.Compare(a.text, b.text) })
		put(line{text: "*" + x.table})
		put(x.chains...)
		put(x.rules...)
		put(x.gone...)
		put(line{text: "COMMIT"})
	}
	return b.Bytes(), owners
}

// refused returns the line that a program did not accept, the table that it is about, and its owner; nothing if the error is another one, or does not tell, as that of
// iptables-legacy does not if it was the kernel that refused.
func (s *script) refused(err error) (table, text string, owner *proxy.ServicePortName) {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != Refused {
		return "", "", nil
	}
	input, owners := s.text()
	if table, text = lineOf(input, e.Line); text != "" {
		owner = owners[e.Line-1]
	}
	return table, text, owner
}

// lineOf returns a line of an input, the first being 1, and the table that it is about; nothing if there is no such line.
func lineOf(input []byte, n int) (table, text string) {
	lines := strings.Split(string(input), "\n")
	if n < 1 || n >= len(lines) {
		return "", ""
	}
	for _, l := range lines[:n] {
		if name, ok := strings.CutPrefix(l, "*"); ok {
			table = name
		}
	}
	return table, lines[n-1]
}
