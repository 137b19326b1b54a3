package iptables

import "turnout/proxy"

// tally counts what Reports tell beyond an Apply's own outcome.
type tally struct {
	failures proxy.Failures
	written  map[string]int // rules in the tables, by the last Apply that wrote any
	fresh    bool           // this Apply has not written any so far
}

func (t *tally) begin() { t.failures, t.fresh = proxy.Failures{}, true }

// wrote notes what was carried out.
func (t *tally) wrote(s *script) {
	if t.fresh || t.written == nil {
		t.fresh, t.written = false, map[string]int{}
	}
	for _, x := range s.sections {
		t.written[x.table] += x.added
	}
}

// tables tells of tables nat and filter. Table mangle has nothing but a canary.
func (b *Backend) tables() []proxy.Table {
	var out []proxy.Table
	for _, name := range [...]string{filter, nat} {
		out = append(out, proxy.Table{Name: name, Rules: b.rules.size(name), Written: b.tally.written[name]})
	}
	return out
}

// size is the number of rules in the chains of ours of a table.
func (t *rules) size(table string) int {
	n := t.sizes[table]
	for _, c := range t.fixed(table) {
		n += len(c.rules)
	}
	for c := range sharedChains {
		if sharedNames[c].table == table {
			n += len(t.headOf(c)) + len(t.tailOf(c))
		}
	}
	if table == filter {
		n += len(t.ips) + t.state.HealthChecks.Len()
	}
	return n
}
