package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// check has iptables-restore look for a rule.
func (x *section) check(chain, rule string) {
	x.rules = append(x.rules, line{text: "-C " + chain + " " + rule})
}

// Check tells whether what Apply wrote is still there: the chains, what leads to them, and the rules that hold for all Services. It runs one program at
// most; with iptables-nft none, and costs nothing as long as nobody changed any rule of the node since the last time. damage says what is missing, "" if nothing is: Forget and
// Apply mend it. Before the first Apply, and after Forget, there is nothing to look for. What keeps the programs from reading tables is told to Options.Obstructed in
// any case.
func (b *Backend) Check(ctx context.Context) (damage string, err error) {
	obstacles := b.tellObstacles()
	if b.rules == nil {
		return "", obstacles
	}
	damage, err = b.kernel.damage(ctx, b.rules.expectation())
	switch {
	case err != nil:
		return "", fmt.Errorf("look for the rules of %s: %w", b.options.Family, err)
	case damage != "": // which is more urgent
		return damage, nil
	}
	return "", obstacles
}

// expectation lists the rules that no Service changes.
func (t *rules) expectation() *expectation {
	e := &expectation{rules: map[string][]chain{}, chains: t.chains}
	for _, table := range tables {
		e.rules[table] = t.fixed(table)
	}
	for c := range sharedChains {
		if rules := append(t.headOf(c), t.tailOf(c)...); len(rules) > 0 {
			table := sharedNames[c].table
			e.rules[table] = append(e.rules[table], chain{sharedNames[c].name, rules})
		}
	}
	return e
}

// missingLine says which rule of a script that looks for some was not found.
func missingLine(text []byte, n int) string {
	table, rule := lineOf(text, n)
	if rule == "" {
		return "a rule is missing"
	}
	return "missing in table " + table + ": " + strings.TrimPrefix(rule, "-C ")
}

// probe has the kernel take one rule of each kind that a State may need, in chains that nothing leads to, and removes them again.
func (b *Backend) probe(ctx context.Context) error {
	const name = "KUBE-PROXY-PROBE"
	to := "192.0.2.1:80"
	if b.options.Family.Bits() == 128 {
		to = "[2001:db8::1]:80"
	}
	s := &script{}
	first := s.section(nat)
	first.declare(name, nil)
	for _, r := range []string{
		"-m comment --comment probe -m addrtype --dst-type LOCAL -j ACCEPT", "-m statistic --mode random --probability 0.50000000000 -j ACCEPT",
		"-m recent --name " + name + " --rcheck --seconds 1 --reap -j ACCEPT", "-m recent --name " + name + " --set -p tcp -m tcp -j DNAT --to-destination " + to,
		"-p udp -m udp --dport 1 -j DNAT --to-destination " + to, "-p sctp -m sctp --dport 1 -j DNAT --to-destination " + to,
		"-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x1/0x0", "-j MASQUERADE --random-fully",
	} {
		first.append(name, r, nil)
	}
	s.section(nat).drop(name, nil)
	second := s.section(filter)
	second.declare(name, nil)
	for _, r := range []string{translated, "-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT"} {
		second.append(name, r, nil)
	}
	s.section(filter).drop(name, nil)
	text, _ := s.text()
	err := b.kernel.restore(ctx, text)
	var e *Error
	if errors.As(err, &e) && e.Kind == Refused {
		if _, rule := lineOf(text, e.Line); rule != "" {
			return fmt.Errorf("try what rules may need, %q: %w", rule, err)
		}
	}
	return err
}
