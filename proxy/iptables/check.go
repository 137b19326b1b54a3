package iptables

import (
	"context"
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
