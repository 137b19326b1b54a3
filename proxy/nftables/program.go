package nftables

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"turnout/proxy"
)

// program appends what leads from a Service as it is programmed to how it should be; nil if it should not be any longer.
func (t *table) program(tx *transaction, name proxy.ServicePortName, s *proxy.Service) {
	before := t.programs[name]
	if s != nil && t.excluded[name] != nil {
		s = nil
	}
	if before == nil && s == nil {
		return
	}
	owner, after := tx.own(name), (*programmed)(nil)
	if s != nil {
		number, err := t.prepare(tx, name, s)
		if err != nil {
			t.excluded[name] = err
			t.program(tx, name, nil)
			return
		}
		after = program(s, number, before)
	}
	t.diff(tx, owner, before, after)
	t.count(before, -1)
	t.count(after, 1)
	t.noteStale(before, after)
	if before != nil {
		delete(t.byNumber, before.number)
	}
	if s != nil && s.Affinity > 0 {
		t.byNumber[after.number] = after
	}
	if after == nil {
		t.numbers.release(name)
		delete(t.programs, name)
		return
	}
	t.programs[name] = after
}

// prepare sees to it that everything exists that the Service's elements refer to.
func (t *table) prepare(tx *transaction, name proxy.ServicePortName, s *proxy.Service) (number uint32, err error) {
	for i := range s.Frontends {
		if err := t.addClass(tx, classOf(s, &s.Frontends[i])); err != nil {
			return 0, err
		}
	}
	if s.Affinity > 0 {
		t.addSticky(tx, s.Affinity)
	}
	return t.numbers.get(name)
}

func (t *table) diff(tx *transaction, owner int32, before, after *programmed) {
	r := t.renderer()
	var gone, added []element
	if before != nil {
		gone = r.frontends(nil, before)
	}
	if after != nil {
		added = r.frontends(nil, after)
	}
	diffElements(tx, owner, gone, added)
	r.diffEndpoints(tx, t.parting(tx, after), owner, before, after)
}

// parting is the transaction in which pools that a Service has no longer go; after is nil if the Service itself has gone. It is a later one if a packet
// that is under way to such a pool could be forwarded in another way by now, and so must find an endpoint: there is the Service's
// other pool, or there may be another Service of the same address, such as when a port gets another name.
func (t *table) parting(tx *transaction, after *programmed) *transaction {
	if after == nil && t.brings || after != nil && len(after.slots[proxy.Cluster])+len(after.slots[proxy.Local]) > 0 {
		return &t.late
	}
	return tx
}

func (t *table) renderer() *renderer {
	return &renderer{sets: t.sets, bytes: &t.bytes,
		sticky:  func(d time.Duration) (*set, *set) { s := t.sticky[d]; return s[0], s[1] },
		classes: func(c class) uint32 { return t.classes.known[c] },
	}
}

// count changes what the table is believed to use by a Service.
func (t *table) count(p *programmed, by int) {
	if p == nil {
		return
	}
	t.used.count(p.service, by)
	for i := range p.service.Frontends {
		if f := &p.service.Frontends[i]; f.Kind == proxy.ClusterIP {
			t.clusterIPs.change(f.Addr, by)
		}
	}
	for _, pool := range [...][]proxy.Endpoint{p.service.Cluster, p.service.Local} {
		for _, e := range pool {
			if e.Local {
				t.hairpin.change(e.Addr.Addr(), by)
			}
		}
	}
}

// settle ends a transaction: addresses that several Services share are changed once for all of them.
func (t *table) settle(tx *transaction) {
	t.clusterIPs.settle(tx, tx, &t.bytes)
	t.hairpin.settle(tx, &t.late, &t.bytes)
}

// noteStale notes Services whose remembered clients may have to be forgotten. Those of a Service without affinity, which nobody looks for,
// would be found again if it got affinity back, whatever has become of their endpoints by then.
func (t *table) noteStale(before, after *programmed) {
	if before == nil || before.service.Affinity == 0 {
		return
	}
	if after == nil || after.service.Affinity == 0 || lost(before.slots[proxy.Cluster], after.slots[proxy.Cluster]) ||
		lost(before.slots[proxy.Local], after.slots[proxy.Local]) {
		t.stale[before.number] = true
	}
}

// lost tells that an endpoint has no slot any longer. Nearly all that stay keep theirs.
func lost(before, after []netip.AddrPort) bool {
	for i, a := range before {
		if (i >= len(after) || after[i] != a) && !slices.Contains(after, a) {
			return true
		}
	}
	return false
}

// addClass makes a class's chain and the way to it, if they do not exist.
func (t *table) addClass(tx *transaction, c class) error {
	_, isNew, err := t.classes.assign(c)
	if err != nil || !isNew {
		return err
	}
	for _, p := range c.pickers() {
		t.addPicker(tx, p)
	}
	t.addChain(tx, t.writer.classChain(t.sets, t.state.Node, &c))
	t.addDispatch(tx, c.name())
	return nil
}

// newClasses returns the chains of the table's classes that the table in the kernel did not lead to, and the ways to them.
func (t *table) newClasses(m *memory) *transaction {
	tx, made := &transaction{}, map[string]bool{}
	for n := 1; n <= readyPickers; n++ {
		made[picker{endpoints: n}.name()] = true // every table has them
	}
	add := func(c chain) {
		if !made[c.name] {
			made[c.name] = true
			tx.chains = append(tx.chains, c)
		}
	}
	for _, c := range slices.SortedFunc(maps.Keys(t.classes.known), func(a, b class) int { return strings.Compare(a.name(), b.name()) }) {
		name := c.name()
		if _, ok := m.classes[name]; ok {
			continue
		}
		for _, p := range c.pickers() {
			for _, x := range t.writer.pickerChains(t.sets, p) {
				add(x)
			}
		}
		add(t.writer.classChain(t.sets, t.state.Node, &c))
		tx.add(element{set: t.sets.dispatch, key: t.bytes.numberKey(t.classes.numbers[name] << classShift), more: &details{chain: name}}, -1)
	}
	return tx
}

// addDispatch makes the way to a class's chain, if it does not exist.
func (t *table) addDispatch(tx *transaction, name string) {
	if !t.classes.dispatched[name] {
		t.classes.dispatched[name] = true
		tx.add(element{set: t.sets.dispatch, key: t.bytes.numberKey(t.classes.numbers[name] << classShift), more: &details{chain: name}}, -1)
	}
}

func (t *table) addPicker(tx *transaction, p picker) {
	if t.classes.made[p.name()] {
		return
	}
	for _, c := range t.writer.pickerChains(t.sets, p) {
		t.addChain(tx, c)
	}
}

func (t *table) addChain(tx *transaction, c chain) {
	if !t.classes.made[c.name] {
		t.classes.made[c.name] = true
		tx.chains = append(tx.chains, c)
	}
}

// addSticky makes what Services with this affinity timeout need, if it does not exist.
func (t *table) addSticky(tx *transaction, timeout time.Duration) {
	if _, ok := t.sticky[timeout]; ok {
		return
	}
	frontends, nodeports := stickySets(timeout)
	t.sticky[timeout] = [2]*set{frontends, nodeports}
	tx.sets = append(tx.sets, frontends, nodeports)
	tx.chains = append(tx.chains, t.writer.learnChain(t.sets, timeout))
	for _, r := range t.writer.learnRules(t.sets, timeout) {
		tx.rules = append(tx.rules, appendedRule{learn, r})
	}
}

// diffNode appends what leads from the sets of one Node to those of another.
func (t *table) diffNode(tx *transaction, a, b *proxy.Node) {
	if a == b {
		return
	}
	diffElements(tx, -1, t.addresses(a.NodePorts.Addrs), t.addresses(b.NodePorts.Addrs))
	t.diffPrefixes(tx, t.sets.serviceCIDRs, a.ServiceCIDRs, b.ServiceCIDRs)
	t.diffPrefixes(tx, t.sets.podCIDRs, a.LocalPods.Prefixes, b.LocalPods.Prefixes)
}

func (t *table) addresses(list []netip.Addr) (out []element) {
	for _, a := range list {
		out = append(out, element{set: t.sets.nodePortIPs, key: t.bytes.addrKey(a)})
	}
	return out
}

// diffPrefixes deletes and adds whole prefixes: the kernel refuses to give a range that stays another end.
func (t *table) diffPrefixes(tx *transaction, s *set, before, after []netip.Prefix) {
	for _, p := range before {
		if !slices.Contains(after, p) {
			for _, e := range t.bytes.prefixElements(s, p) {
				tx.remove(e, -1)
			}
		}
	}
	for _, p := range after {
		if !slices.Contains(before, p) {
			for _, e := range t.bytes.prefixElements(s, p) {
				tx.add(e, -1)
			}
		}
	}
}
