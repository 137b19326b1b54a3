package iptables

import (
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// update returns the script that leads from the State that was applied to another, and whether it is possible without a rebuild. Rules change as if the
// script had been carried out: if it was not, they must be thrown away. retry names Services to be tried again although they did not change.
//
// Rules of table filter that come are written before table nat, and those that go after it: they only meet connections that nat does not translate, and so
// every connection meets the one or the other.
func (t *rules) update(next *proxy.State, retry []proxy.ServicePortName) (s *script, ok bool) {
	if !sameText(t.state.Node, next.Node) {
		return nil, false
	}
	d := &difference{rules: t, before: &section{table: filter}, nat: &section{table: nat}, after: &section{table: filter}, ips: map[netip.Addr]int{}}
	d.run(next, retry)
	if len(d.before.rules) == 0 { // what only goes needs no section of its own
		return &script{[]*section{d.nat, d.after}}, true
	}
	return &script{[]*section{d.before, d.nat, d.after}}, true
}

// difference collects what changes.
type difference struct {
	*rules
	before, nat, after *section
	ips                map[netip.Addr]int // ClusterIPs that changed, and how many Service ports had them
	coming, going      [sharedChains][]line
}

func (d *difference) run(next *proxy.State, retry []proxy.ServicePortName) {
	changes := hamt.Diff(d.state.Services, next.Services, func(a, b *proxy.Service) bool { return a == b })
	slices.SortFunc(changes, func(a, b hamt.Change[proxy.ServicePortName, *proxy.Service]) int { return a.Key.Compare(b.Key) })
	checks := hamt.Diff(d.state.HealthChecks, next.HealthChecks, func(a, b proxy.HealthCheck) bool { return a.Port == b.Port })
	d.state = next
	for _, c := range changes {
		var before, after *part
		if c.Had && d.excluded[c.Key] == nil {
			before = d.service(c.Old)
		}
		delete(d.excluded, c.Key)
		if c.Has {
			after = d.serve(c.New)
		}
		d.part(&c.Key, before, after)
	}
	for i, name := range retry {
		if s, ok := next.Services.Get(name); ok && d.excluded[name] != nil {
			delete(d.excluded, name)
			d.part(&retry[i], nil, d.serve(s))
		}
	}
	for _, c := range checks {
		if c.Had {
			d.going[filterNodePorts] = append(d.going[filterNodePorts], line{text: healthPort(c.Old)})
		}
		if c.Has {
			d.coming[filterNodePorts] = append(d.coming[filterNodePorts], line{text: healthPort(c.New)})
		}
	}
	d.settle()
}

// serve makes the part of a Service, nil if it is left out.
func (d *difference) serve(s *proxy.Service) *part {
	if err := d.options.lacking(s); err != nil {
		d.excluded[s.Name] = err
		return nil
	}
	return d.service(s)
}

// part notes what leads from one version of a Service's part to another; nil is none.
func (d *difference) part(owner *proxy.ServicePortName, before, after *part) {
	for _, p := range [...]*part{before, after} {
		if p == nil {
			continue
		}
		for _, a := range p.clusterIPs {
			if _, ok := d.ips[a]; !ok {
				d.ips[a] = d.rules.ips[a]
			}
		}
	}
	d.note(before, -1)
	d.note(after, 1)
	if before == nil {
		before = &part{}
	}
	if after == nil {
		after = &part{}
	}
	d.ownChains(owner, before.chains, after.chains)
	for c := range sharedChains {
		d.lines(c, owner, before.lines[c], after.lines[c])
	}
}

// ownChains writes the chains that differ and deletes those that go.
func (d *difference) ownChains(owner *proxy.ServicePortName, before, after []chain) {
	d.chains += len(after) - len(before)
	for i := range after {
		c := &after[i]
		if n := find(before, c.name); n < 0 || !slices.Equal(before[n].rules, c.rules) {
			d.nat.chain(c, owner)
		}
	}
	for i := range before {
		if find(after, before[i].name) < 0 {
			d.nat.drop(before[i].name, owner)
		}
	}
}

func find(chains []chain, name string) int {
	return slices.IndexFunc(chains, func(c chain) bool { return c.name == name })
}

// lines notes which of a Service's rules in a shared chain come and go. Rules that come are put before those that stay; where they belong behind
// them, all are written anew.
func (d *difference) lines(c sharedChain, owner *proxy.ServicePortName, before, after []string) {
	coming := slices.DeleteFunc(slices.Clone(after), func(r string) bool { return slices.Contains(before, r) })
	going := slices.DeleteFunc(slices.Clone(before), func(r string) bool { return slices.Contains(after, r) })
	if sharedNames[c].table == filter && !slices.Equal(coming, after[:len(coming)]) {
		for _, r := range before {
			d.before.remove(sharedNames[c].name, r, owner)
		}
		coming, going = after, nil
	}
	for _, r := range coming {
		d.coming[c] = append(d.coming[c], line{r, owner})
	}
	for _, r := range going {
		d.going[c] = append(d.going[c], line{r, owner})
	}
}

// settle writes the rules of shared chains.
func (d *difference) settle() {
	for _, a := range sortedKeys(d.ips) {
		c, r := d.clusterIP(a)
		switch had, has := d.ips[a], d.rules.ips[a]; {
		case had == 0 && has > 0:
			d.coming[c] = append(d.coming[c], line{text: r})
		case had > 0 && has == 0:
			d.going[c] = append(d.going[c], line{text: r})
		}
	}
	for c := range sharedChains {
		first, last := d.before, d.after
		if sharedNames[c].table == nat {
			first, last = d.nat, d.nat
		}
		name := sharedNames[c].name
		rewrite := len(d.going[c]) > mostDeletions
		if !rewrite || first != last {
			position := len(d.headOf(c)) + 1
			for _, l := range slices.Backward(d.coming[c]) {
				first.insert(name, position, l.text, l.owner)
			}
		}
		if rewrite {
			d.rewrite(c, last)
			continue
		}
		for _, l := range d.going[c] {
			last.remove(name, l.text, l.owner)
		}
	}
}

// mostDeletions is how many rules of a chain are deleted one by one before it is cheaper to write it anew: for each, the program compares all rules of the
// chain with the one that goes.
const mostDeletions = 8

// rewrite empties a shared chain and fills it, in the one step that its section is.
func (d *difference) rewrite(c sharedChain, x *section) {
	name := sharedNames[c].name
	x.declare(name, nil)
	for _, r := range d.headOf(c) {
		x.append(name, r, nil)
	}
	for _, l := range d.rules.lines(c) {
		x.append(name, l.text, l.owner)
	}
	for _, r := range d.tailOf(c) {
		x.append(name, r, nil)
	}
}
