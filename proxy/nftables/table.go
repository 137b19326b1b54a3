package nftables

import (
	"maps"
	"slices"
	"time"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// A table is what we believe one family's table in the kernel to hold. It prepares transactions and changes at once as if they were
// carried out: if one is not, the table is rebuilt.
type table struct {
	writer   writer
	sets     *sets
	size     capacity
	want     capacity // what the first State needs
	state    *proxy.State
	programs map[proxy.ServicePortName]*programmed
	byNumber map[uint32]*programmed          // those with session affinity
	excluded map[proxy.ServicePortName]error // Services that are left out, and why

	numbers             *numbers
	classes             *classes
	sticky              map[time.Duration][2]*set
	used                capacity
	clusterIPs, hairpin *references

	// late is what is done when no packet is under way any longer that met the transaction before. A connection that an endpoint makes
	// to itself is sent there by one hook and masqueraded by a later one: in between, the address must not leave the set hairpin.
	late transaction
	// brings tells that the transaction that is being prepared has Services that are new or changed.
	brings bool
	// Services with affinity that lost an endpoint since the last sweep: clients must not be led to it any longer.
	stale map[uint32]bool
	bytes arena
}

// newTable prepares a table for a State, with the memory of an earlier one.
func newTable(s *proxy.State, m *memory, excluded map[proxy.ServicePortName]error) *table {
	t := &table{
		writer: writer{family: s.Family, mark: s.Node.MasqueradeMark}, state: s,
		programs: make(map[proxy.ServicePortName]*programmed, s.Services.Len()), byNumber: map[uint32]*programmed{}, excluded: excluded,
		numbers: newNumbers(s.Services.Len()), sticky: map[time.Duration][2]*set{}, stale: map[uint32]bool{},
	}
	if m == nil {
		m = &memory{}
	}
	t.want = need(s)
	if t.size = m.size; !t.size.fits(t.want) {
		t.size = capacityFor(t.want)
	}
	t.sets, t.classes = newSets(t.size), newClasses(m.classes, m.idle)
	t.clusterIPs, t.hairpin = newReferences(t.sets.clusterIPs, 1), newReferences(t.sets.hairpin, 2)
	t.adopt(s, m)
	return t
}

// adopt keeps the numbers of Services that the kernel already has. A Service that is new gets the number of the one that had one of
// its frontends, unless that is still there and needs it.
func (t *table) adopt(s *proxy.State, m *memory) {
	if len(m.numbers) == 0 {
		return
	}
	for name := range s.Services.All() {
		t.numbers.adopt(name, m.names[comment(name)])
	}
	for name, service := range s.Services.All() {
		for i := range service.Frontends {
			t.numbers.adopt(name, m.numbers[service.Key(&service.Frontends[i])])
		}
	}
	for _, v := range m.numbers {
		t.numbers.reserve(v)
	}
}

// remember is the memory that a rebuilt table starts from.
func (t *table) remember() *memory {
	m := newMemory(t.size)
	for name, p := range t.programs {
		m.names[comment(name)] = p.number
		for i := range p.service.Frontends {
			f := &p.service.Frontends[i]
			m.numbers[p.service.Key(f)] = p.number
			c := classOf(p.service, f)
			m.classes[c.name()] = t.classes.known[c]
		}
	}
	return m
}

// need counts what the big maps must hold for a State.
func need(s *proxy.State) (c capacity) {
	for _, service := range s.Services.All() {
		c.count(service, 1)
	}
	return c
}

func (c *capacity) count(s *proxy.Service, by int) {
	n := len(s.Frontends)
	for i := range s.Frontends {
		switch s.Frontends[i].Kind {
		case proxy.NodePort:
			c.nodeports += uint32(by)
			n--
		case proxy.ClusterIP:
			c.clusterIPs += uint32(by)
		}
	}
	c.frontends += uint32(by * n)
	c.endpoints += uint32(by * (len(s.Cluster) + len(s.Local)))
}

// build returns the transaction that makes the whole table: on what is there, with clients' memories kept, or from nothing.
func (t *table) build(s start) *transaction {
	tx := &transaction{start: s, sets: t.sets.all(), owners: make([]proxy.ServicePortName, 0, t.state.Services.Len())}
	tx.new.reserve(t.sets.frontends, t.want.frontends)
	tx.new.reserve(t.sets.nodeports, t.want.nodeports)
	tx.new.reserve(t.sets.endpoints, t.want.endpoints)
	tx.chains = append(t.writer.baseChains(t.sets), t.writer.sharedChains(t.sets, t.state.Node)...)
	for n := 1; n <= readyPickers; n++ {
		t.addPicker(tx, picker{endpoints: n})
	}
	t.diffNode(tx, &proxy.Node{}, t.state.Node)
	services := make([]*proxy.Service, 0, t.state.Services.Len())
	for _, s := range t.state.Services.All() {
		services = append(services, s)
	}
	slices.SortFunc(services, func(a, b *proxy.Service) int { return a.Name.Compare(b.Name) })
	for _, s := range services {
		t.program(tx, s.Name, s)
	}
	t.settle(tx)
	if s == refill {
		t.keepClasses(tx)
	}
	return tx
}

// keepClasses leaves the way to the classes that nothing leads to any longer. A packet that found such a class just before the commit
// is then treated by the rules that its chain had; without the way it would leave as it came, and so would its retransmits.
func (t *table) keepClasses(tx *transaction) {
	for _, name := range slices.Sorted(maps.Keys(t.classes.numbers)) {
		if !t.classes.made[name] {
			tx.chains = append(tx.chains, chain{name: name})
			t.addDispatch(tx, name)
		}
	}
}

// readyPickers is up to how many endpoints a Service may have without a new rule at the endpoints map being needed. Making such
// a rule when the map is full of 150,000 elements costs 11 to 20 ms, each ready one makes adding an element some 0.1 us dearer.
const readyPickers = 16

// update returns the transaction that leads from the State that was applied to another, and whether it is possible without a
// rebuild. retry names Services to be tried again although they did not change.
func (t *table) update(next *proxy.State, retry []proxy.ServicePortName) (tx *transaction, ok bool) {
	if !sameRules(t.state.Node, next.Node) {
		return nil, false
	}
	changes := hamt.Diff(t.state.Services, next.Services, func(a, b *proxy.Service) bool { return a == b })
	need, fresh := t.used, map[class]bool{}
	for _, c := range changes {
		if c.Had && t.programs[c.Key] != nil { // what is left out does not count
			need.count(c.Old, -1)
		}
		if c.Has {
			need.count(c.New, 1)
			t.classes.unknown(fresh, c.New)
		}
	}
	if !t.size.fits(need) || !t.classes.room(len(fresh)) {
		return nil, false
	}
	slices.SortFunc(changes, func(a, b hamt.Change[proxy.ServicePortName, *proxy.Service]) int { return a.Key.Compare(b.Key) })
	tx = &transaction{}
	t.diffNode(tx, t.state.Node, next.Node)
	t.state = next
	t.brings = len(retry) > 0 || slices.ContainsFunc(changes, func(c hamt.Change[proxy.ServicePortName, *proxy.Service]) bool { return c.Has })
	for _, c := range changes {
		delete(t.excluded, c.Key)
		t.program(tx, c.Key, c.New)
	}
	for _, name := range retry {
		if s, ok := next.Services.Get(name); ok && t.programs[name] == nil {
			delete(t.excluded, name)
			t.program(tx, name, s)
		}
	}
	t.settle(tx)
	return tx, true
}

// sameRules tells that two Nodes differ at most in what sets hold.
func sameRules(a, b *proxy.Node) bool {
	return a == b || a.MasqueradeMark == b.MasqueradeMark && a.NodePorts.Any == b.NodePorts.Any &&
		a.LocalPods.Interface == b.LocalPods.Interface && a.LocalPods.InterfacePrefix == b.LocalPods.InterfacePrefix &&
		(len(a.LocalPods.Prefixes) > 0) == (len(b.LocalPods.Prefixes) > 0)
}
