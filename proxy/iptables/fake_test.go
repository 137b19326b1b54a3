package iptables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"turnout/proxy/nftables/compat"
)

// fakeKernel is what iptables-restore works on, in memory: every section is carried out as a whole or not at all, a rule leads only to chains that exist,
// and a chain that a rule leads to cannot be deleted.
type fakeKernel struct {
	tables map[string]map[string][]string // rules by table and chain
	// refuse tells that the programs do not accept a line.
	refuse func(line string) bool
	// fail is returned by the next restore, which then does nothing.
	fail error
	// scripts counts what was carried out.
	scripts int
	// size is what chunk returns.
	size int
	// seen is called after each section.
	seen func()
}

var builtin = map[string][]string{
	nat: {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}, filter: {"INPUT", "FORWARD", "OUTPUT"},
	mangle: {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
}

func newFakeKernel() *fakeKernel {
	k := &fakeKernel{tables: map[string]map[string][]string{}}
	for table, chains := range builtin {
		k.tables[table] = map[string][]string{}
		for _, c := range chains {
			k.tables[table][c] = nil
		}
	}
	return k
}

func (k *fakeKernel) restore(_ context.Context, text []byte) error {
	if err := k.fail; err != nil {
		k.fail = nil
		return err
	}
	k.scripts++
	table, work := "", map[string][]string(nil)
	for i, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		refused := func(why string) error {
			return &Error{Program: "fake", Kind: Refused, Line: i + 1, Detail: why + ": " + l}
		}
		if k.refuse != nil && k.refuse(l) {
			return refused("not accepted")
		}
		switch {
		case strings.HasPrefix(l, "*"):
			table, work = l[1:], maps.Clone(k.tables[l[1:]])
		case l == "COMMIT":
			k.tables[table] = work
			if k.seen != nil {
				k.seen()
			}
		default:
			if why := carryOut(work, l); why != "" {
				return refused(why)
			}
		}
	}
	return nil
}

// carryOut does what one line says, or says why that is not possible.
func carryOut(chains map[string][]string, l string) string {
	if name, ok := strings.CutPrefix(l, ":"); ok {
		name, _, _ = strings.Cut(name, " ")
		chains[name] = nil
		return ""
	}
	words := strings.SplitN(l, " ", 3)
	name := words[1]
	rules, ok := chains[name]
	if !ok {
		return "no such chain"
	}
	if words[0] == "-X" {
		for other, rules := range chains {
			if i := slices.IndexFunc(rules, func(r string) bool { return target(r) == name }); i >= 0 {
				return "is led to from " + other
			}
		}
		delete(chains, name)
		return ""
	}
	rule, position := words[2], len(rules)
	if words[0] == "-I" {
		n, rest, _ := strings.Cut(rule, " ")
		at, err := strconv.Atoi(n)
		if err != nil || at < 1 || at > len(rules)+1 {
			return "no such position"
		}
		rule, position = rest, at-1
	}
	if words[0] == "-D" {
		i := slices.Index(rules, rule)
		if i < 0 {
			return "no such rule"
		}
		chains[name] = slices.Delete(slices.Clone(rules), i, i+1)
		return ""
	}
	if to := target(rule); strings.HasPrefix(to, "KUBE-") {
		if _, ok := chains[to]; !ok {
			return "leads to no chain"
		}
	}
	chains[name] = slices.Insert(slices.Clone(rules), position, rule)
	return ""
}

func target(rule string) string {
	_, to, _ := strings.Cut(rule, "-j ")
	to, _, _ = strings.Cut(to, " ")
	return to
}

func (k *fakeKernel) chunk() int { return k.size }

func (k *fakeKernel) look(context.Context) (*found, error) {
	f := newFound()
	for table, chains := range k.tables {
		for _, name := range slices.Sorted(maps.Keys(chains)) {
			if Owns(table, name) {
				f.chains[table] = append(f.chains[table], name)
			}
			if slices.Contains(builtin[table], name) {
				for _, r := range chains[name] {
					f.add(table, name, target(r))
				}
			}
		}
	}
	return f, nil
}

func (k *fakeKernel) unjump(_ context.Context, keep keeper) error {
	seen := newFound()
	for table, names := range builtin {
		for _, name := range names {
			k.tables[table][name] = slices.DeleteFunc(slices.Clone(k.tables[table][name]), func(r string) bool {
				j, ours := seen.add(table, name, target(r))
				return ours && seen.jumps[*j] > keep(j)
			})
		}
	}
	return nil
}

func (k *fakeKernel) damage(_ context.Context, want *expectation) (string, error) {
	f, _ := k.look(context.Background())
	if wrong := f.once(); wrong != "" {
		return wrong, nil
	}
	for table, chains := range want.rules {
		for _, c := range chains {
			for _, r := range c.rules {
				if !slices.Contains(k.tables[table][c.name], r) {
					return "missing: " + r, nil
				}
			}
		}
	}
	return "", nil
}

func (k *fakeKernel) obstacles() ([]compat.Rule, error) { return nil, nil }

// dump lists all rules, in their order but for those of Services in shared chains, which are sorted.
func (k *fakeKernel) dump(t *rules) []string {
	var out []string
	for _, table := range tables {
		for _, name := range slices.Sorted(maps.Keys(k.tables[table])) {
			rules := slices.Clone(k.tables[table][name])
			for c := range sharedChains {
				if sharedNames[c].table == table && sharedNames[c].name == name {
					slices.Sort(rules[len(t.headOf(c)) : len(rules)-len(t.tailOf(c))])
				}
			}
			out = append(out, fmt.Sprintf("%s %s", table, name))
			for _, r := range rules {
				out = append(out, "  "+r)
			}
		}
	}
	return out
}
