package iptables

import (
	"io"
	"net/netip"
	"slices"

	"turnout/proxy"
)

// WriteText writes what iptables-restore is given for a State on a node that has nothing of ours. The error is that of w.
func WriteText(w io.Writer, o Options, s *proxy.State) error {
	o.Family = s.Family
	t := newTables(&o, s, nil)
	text, _ := t.build(nil, 0)[0].text()
	_, err := w.Write(text)
	return err
}

// rules is what we believe one family's tables to hold.
type rules struct {
	*renderer
	options  *Options
	state    *proxy.State
	excluded map[proxy.ServicePortName]error // Services that are left out, and why
	ips      map[netip.Addr]int              // how many Service ports have a ClusterIP
	chains   int                             // that the Services have in table nat
	sizes    map[string]int                  // rules that the Services have, by table
}

func newTables(o *Options, s *proxy.State, excluded map[proxy.ServicePortName]error) *rules {
	return &rules{renderer: newRenderer(o, s.Node), options: o, state: s, excluded: excluded, ips: map[netip.Addr]int{}, sizes: map[string]int{}}
}

// services returns those that are programmed, sorted.
func (t *rules) services() []*proxy.Service {
	out := make([]*proxy.Service, 0, t.state.Services.Len())
	for name, s := range t.state.Services.All() {
		if t.excluded[name] == nil {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *proxy.Service) int { return a.Name.Compare(b.Name) })
	return out
}

// build returns the scripts that make everything, on what was found. With chunk 0 it is one. Otherwise the chains of Services are made beforehand, those of so many
// Services by each script: all chains of a Service in one step, before KUBE-SERVICES changes and leads to them, while the way that led to them before still does.
func (t *rules) build(found *found, chunk int) []*script {
	s, sections := &script{}, map[string]*section{}
	for _, table := range tables {
		x := s.section(table)
		sections[table] = x
		for _, c := range staticChains[table] {
			x.declare(c, nil)
		}
		for _, c := range t.fixed(table) {
			for _, r := range c.rules {
				x.append(c.name, r, nil)
			}
		}
	}
	for c := range sharedChains {
		for _, r := range t.headOf(c) {
			sections[sharedNames[c].table].append(sharedNames[c].name, r, nil)
		}
	}
	first, made := t.buildServices(sections, found, chunk)
	for c := range sharedChains {
		for _, r := range t.tailOf(c) {
			sections[sharedNames[c].table].append(sharedNames[c].name, r, nil)
		}
	}
	for _, table := range tables {
		found.reconcile(sections[table], made)
	}
	return append(first, s)
}

// buildServices adds all that belongs to Services, and returns the scripts that go first and the names of the Services' chains.
func (t *rules) buildServices(sections map[string]*section, found *found, chunk int) (first []*script, made map[string]bool) {
	made = map[string]bool{}
	services := t.services()
	x := sections[nat]
	for i, s := range services {
		if chunk > 0 && len(services) > chunk && i%chunk == 0 {
			first = append(first, &script{})
			x = first[len(first)-1].section(nat)
			if i == 0 && !slices.Contains(found.chains[nat], markChain) { // which changes at the same time as what looks for the mark
				x.chain(&chain{markChain, t.fixedRules(nat, markChain)}, nil)
			}
		}
		p := t.service(s)
		for i := range p.chains {
			x.chain(&p.chains[i], &s.Name)
			made[p.chains[i].name] = true
		}
		for c, lines := range p.lines {
			for _, r := range lines {
				sections[sharedNames[c].table].append(sharedNames[c].name, r, &s.Name)
			}
		}
		t.note(p, 1)
	}
	t.chains = len(made)
	for _, a := range sortedKeys(t.ips) {
		c, r := t.clusterIP(a)
		sections[filter].append(sharedNames[c].name, r, nil)
	}
	for _, r := range t.healthRules() {
		sections[filter].append(sharedNames[filterNodePorts].name, r, nil)
	}
	return first, made
}

// fixedRules are the rules of a chain that no Service changes.
func (t *rules) fixedRules(table, name string) []string {
	for _, c := range t.fixed(table) {
		if c.name == name {
			return c.rules
		}
	}
	return nil
}

// note counts the ClusterIPs and the rules of a part that comes or goes.
func (t *rules) note(p *part, by int) {
	if p == nil {
		return
	}
	for i := range p.chains {
		t.sizes[nat] += by * len(p.chains[i].rules)
	}
	for c, lines := range p.lines {
		t.sizes[sharedNames[c].table] += by * len(lines)
	}
	for _, a := range p.clusterIPs {
		if t.ips[a] += by; t.ips[a] == 0 {
			delete(t.ips, a)
		}
	}
}

func (t *rules) healthRules() (out []string) {
	for _, h := range t.state.HealthChecks.All() {
		out = append(out, healthPort(h))
	}
	slices.Sort(out)
	return out
}

// lines returns the rules of a shared chain that stand between its head and its tail.
func (t *rules) lines(c sharedChain) (out []line) {
	for _, s := range t.services() {
		for _, r := range t.service(s).lines[c] {
			out = append(out, line{r, &s.Name})
		}
	}
	for _, a := range sortedKeys(t.ips) {
		if at, r := t.clusterIP(a); at == c {
			out = append(out, line{text: r})
		}
	}
	if c == filterNodePorts {
		for _, r := range t.healthRules() {
			out = append(out, line{text: r})
		}
	}
	return out
}

func sortedKeys(m map[netip.Addr]int) []netip.Addr {
	out := make([]netip.Addr, 0, len(m))
	for a := range m {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
