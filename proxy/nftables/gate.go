package nftables

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/underway"
)

// A Gate keeps the small table that mode ipvs needs beside IPVS, one family an instance: it rejects, drops, restricts sources and
// masquerades as a State says, and leaves it to IPVS to choose endpoints. A frontend's traffic passes its gate first, so a new frontend
// needs Admit before IPVS serves it, and one that went needs Retire after IPVS has stopped. It is used by one goroutine.
type Gate struct {
	family proxy.Family
	kernel *kernel
	table  *gateTable // nil if what the kernel holds is not known
	late   transaction
}

// OpenGate opens a Gate. Probe tells whether the kernel can have its table.
func OpenGate(f proxy.Family) (*Gate, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	g := &Gate{family: f, kernel: newKernel(f, s, false)}
	g.kernel.encoder.name = GateTable
	return g, nil
}

// Close closes the Gate's socket. The rules stay.
func (g *Gate) Close() error { return g.kernel.socket.close() }

// PortID is the netlink port by which the kernel names this Gate as the author of changes.
func (g *Gate) PortID() uint32 { return g.kernel.socket.portID() }

// Probe finds out whether the kernel takes everything that the table is made of, in a table of another name that no packet ever meets. The error says what is missing.
func (g *Gate) Probe() error {
	t := newGateTable(&proxy.State{Family: g.family, Node: &proxy.Node{MasqueradeMark: 1 << 14}}, func(netip.Addr) bool { return false })
	tx := t.build(replace)
	t.class(tx, gateClass{actions: [3]proxy.Action{{Masquerade: true}, {Verdict: proxy.Reject}, {Verdict: proxy.Drop}}, restricted: true})
	return g.kernel.try(tx)
}

// Forget drops what is believed of the kernel: the next Admit replaces the whole table in one step.
func (g *Gate) Forget() { g.table, g.late = nil, transaction{} }

// Admit makes the table follow a State, but for what Retire deletes. own tells of a Service's address whether the node has it anyway: at those, ports
// that the Service does not have stay the node's. Until Forget, that of the first call is asked, and must answer the same. operations counts what was written. The kernel has either done all of it
// or nothing. rejected names Services that the kernel refuses, with err nil: call it again with a State that has none of them.
func (g *Gate) Admit(s *proxy.State, own func(netip.Addr) bool) (operations int, rejected []proxy.Rejection, err error) {
	if g.table != nil {
		tx := &transaction{}
		if g.table.update(tx, s) {
			g.postpone(tx)
			operations := tx.operations()
			if g.commitInOrder(tx) == nil {
				return operations, nil, nil
			}
		}
		g.Forget() // either the table is not what it was believed to be, or a Service is refused: the rebuild tells
	}
	return g.rebuild(s, own)
}

// rebuild makes the whole table: on what is there if that is of this layout, or else from nothing. A packet that is in the rules of a table that is replaced finds its maps
// empty.
func (g *Gate) rebuild(s *proxy.State, own func(netip.Addr) bool) (operations int, rejected []proxy.Rejection, err error) {
	defer func() { g.kernel.encoder.apart = false }()
	ways := []start{replace, replace}
	if g.refillable() {
		ways = append([]start{refill}, ways...)
	}
	for _, how := range ways {
		g.table = newGateTable(s, own)
		tx := g.table.build(how)
		operations := tx.operations()
		if err = g.kernel.commitWhole(tx); err == nil {
			return operations, nil, nil
		}
		g.Forget()
		if rejected = refusedBy(tx, err); len(rejected) > 0 {
			return 0, rejected, nil
		}
		g.kernel.encoder.apart = how == replace // so that the kernel's answer names one Service
	}
	return 0, nil, fmt.Errorf("program table %s for %s: %w", GateTable, s.Family, err)
}

// refillable tells that the table in the kernel is of this layout, and that packets come to it by its own chains alone. What else is in it does nothing once its rules are
// flushed. After an error it is not: then a table that is replaced is the way to a known one.
func (g *Gate) refillable() bool {
	ours, err := g.kernel.tableIsOurs()
	if err != nil || !ours {
		return false
	}
	chains, err := g.kernel.hookedChains()
	want := map[string]uint32{natPrerouting: unix.NF_INET_PRE_ROUTING, natOutput: unix.NF_INET_LOCAL_OUT, natPostrouting: unix.NF_INET_POST_ROUTING}
	for _, c := range chains {
		if hook, ok := want[c.name]; !ok || hook != c.hook {
			return false
		}
	}
	return err == nil && len(chains) == len(want)
}

// Retire deletes what the State of the last Admit has no longer.
func (g *Gate) Retire() (operations int, err error) {
	operations = g.late.operations()
	if err := g.commit(&g.late); err != nil {
		g.Forget()
		return 0, fmt.Errorf("delete from table %s for %s: %w", GateTable, g.family, err)
	}
	g.late = transaction{}
	return operations, nil
}

// Disarm deletes the chains that packets come by. The table is a mere Record then; the next Admit makes it whole again.
func (g *Gate) Disarm() error {
	g.Forget()
	return g.kernel.disarm()
}

// Cleanup deletes the table.
func (g *Gate) Cleanup() error {
	g.Forget()
	return g.kernel.removeTable()
}

// Record returns the frontends that the table in the kernel knows, and the node's addresses that serve its NodePorts; none if there is no table. It has
// every frontend between its Admit and its Retire, so a restarted proxy knows by it which virtual servers are its own.
func (g *Gate) Record() (frontends []proxy.FrontendKey, addrs []netip.Addr, err error) {
	for range recordAttempts {
		if frontends, addrs, err = g.record(); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, nil, nil
	}
	return frontends, addrs, err
}

// recordAttempts is how often reading begins anew because somebody changed a table meanwhile, be it another one.
const recordAttempts = 5

func (g *Gate) record() (frontends []proxy.FrontendKey, addrs []netip.Addr, err error) {
	s := newGateSets()
	for _, from := range []*set{s.frontends, s.nodeports, s.nodePortIPs} {
		err := g.kernel.dump(from, func(e dumped) error {
			if from == s.nodePortIPs {
				a, _ := netip.AddrFromSlice(e.key)
				addrs = append(addrs, a)
			} else if key, ok := parseTuple(g.family, e.key, from == s.nodeports); ok {
				frontends = append(frontends, key)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return frontends, addrs, nil
}

// Exists tells whether there is a table of this name.
func (g *Gate) Exists() (bool, error) { return g.kernel.tableExists() }

// Intact tells whether the table is there with its chains, by asking for the one that the last rebuild made last.
func (g *Gate) Intact() (bool, error) {
	if g.table == nil {
		return true, nil
	}
	err := g.kernel.request(unix.NFT_MSG_GETCHAIN, 0, func(a *attributes) {
		a.str(unix.NFTA_CHAIN_TABLE, GateTable)
		a.str(unix.NFTA_CHAIN_NAME, natPostrouting)
	}, func(received, []byte) error { return nil })
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// commitInOrder sends an update: first the chains of classes and the ways to them, and then what leads there. A packet walks the rules of one generation, in which a
// chain that is as new as its frontend's class would be empty.
func (g *Gate) commitInOrder(tx *transaction) error {
	if first := tx.takeObjects(g.table.sets.dispatch); !first.empty() {
		if err := g.commit(first); err != nil {
			return err
		}
		time.Sleep(underway.Brief)
	}
	return g.commit(tx)
}

func (g *Gate) commit(tx *transaction) error {
	if tx.empty() {
		return nil
	}
	return g.kernel.commit(tx)
}

// postpone moves deletions to Retire, unless something takes the place of what is deleted. Ranges are not kept: those that are added may
// overlap them.
func (g *Gate) postpone(tx *transaction) {
	for i := range tx.gone {
		l := &tx.gone[i]
		if l.set.interval {
			continue
		}
		replaced := map[string]bool{}
		for _, e := range tx.new.of(l.set) {
			replaced[string(e.key)] = true
		}
		l.elements = slices.DeleteFunc(l.elements, func(e element) bool {
			if !replaced[string(e.key)] {
				g.late.remove(e, -1)
			}
			return !replaced[string(e.key)]
		})
	}
	tx.gone = slices.DeleteFunc(tx.gone, func(l list) bool { return len(l.elements) == 0 })
}

// refusedBy names the Services that a refusal is about; none if it is about anything else, too.
func refusedBy(tx *transaction, err error) (out []proxy.Rejection) {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return nil
	}
	for _, f := range r.failures {
		if !f.element || len(f.owners) != 1 || f.owners[0] < 0 {
			return nil
		}
		out = append(out, proxy.Rejection{Name: tx.owners[f.owners[0]], Err: fmt.Errorf("%s: %w", f.what, f.err)})
	}
	return out
}

// WriteGateText writes the table that a Gate makes for a State, as nft lists it, if the node has none of the Services' addresses anyway.
func WriteGateText(w io.Writer, s *proxy.State) error {
	tx := newGateTable(s, func(netip.Addr) bool { return false }).build(replace)
	var b strings.Builder
	printer{Builder: &b, family: s.Family, owners: tx.owners}.table(GateTable, tx)
	_, err := io.WriteString(w, b.String())
	return err
}

// A gateTable is what a Gate's table holds.
type gateTable struct {
	writer              writer
	sets                *gateSets
	state               *proxy.State
	classes             map[gateClass]bool // whose chains were made
	own                 func(netip.Addr) bool
	serviceIPs, hairpin *references
	bytes               arena
}

func newGateTable(s *proxy.State, own func(netip.Addr) bool) *gateTable {
	t := &gateTable{writer: writer{family: s.Family, mark: s.Node.MasqueradeMark}, sets: newGateSets(), state: s, classes: map[gateClass]bool{},
		own: own}
	t.serviceIPs, t.hairpin = newReferences(t.sets.serviceIPs, 1), newReferences(t.sets.hairpin, 2)
	return t
}

// build returns the transaction that makes the whole table.
func (t *gateTable) build(how start) *transaction {
	tx := &transaction{start: how, sets: t.sets.all()}
	tx.chains = append(t.writer.gateSharedChains(t.sets), t.writer.gateBaseChains(t.sets)...)
	t.diffNode(tx, &proxy.Node{}, t.state.Node)
	services := slices.SortedFunc(maps.Values(maps.Collect(t.state.Services.All())), func(a, b *proxy.Service) int { return a.Name.Compare(b.Name) })
	for _, s := range services {
		t.service(tx, s.Name, nil, s)
	}
	t.settle(tx)
	return tx
}

// update appends what leads to another State; false if that needs a rebuild.
func (t *gateTable) update(tx *transaction, next *proxy.State) bool {
	if !sameRules(t.state.Node, next.Node) {
		return false
	}
	changes := hamt.Diff(t.state.Services, next.Services, func(a, b *proxy.Service) bool { return a == b })
	slices.SortFunc(changes, func(a, b hamt.Change[proxy.ServicePortName, *proxy.Service]) int { return a.Key.Compare(b.Key) })
	t.diffNode(tx, t.state.Node, next.Node)
	t.state = next
	for _, c := range changes {
		t.service(tx, c.Key, c.Old, c.New)
	}
	t.settle(tx)
	return true
}

func (t *gateTable) settle(tx *transaction) {
	t.serviceIPs.settle(tx, tx, &t.bytes)
	t.hairpin.settle(tx, tx, &t.bytes)
}

func (t *gateTable) diffNode(tx *transaction, a, b *proxy.Node) {
	if a == b {
		return
	}
	x := &table{sets: &sets{nodePortIPs: t.sets.nodePortIPs, serviceCIDRs: t.sets.serviceCIDRs, podCIDRs: t.sets.podCIDRs}}
	x.diffNode(tx, a, b)
}

// service appends what leads from one version of a Service to another; either may be nil.
func (t *gateTable) service(tx *transaction, name proxy.ServicePortName, before, after *proxy.Service) {
	owner := tx.own(name)
	t.count(before, -1)
	t.count(after, 1)
	diffElements(tx, owner, t.elements(tx, before), t.elements(tx, after))
}

func (t *gateTable) elements(tx *transaction, s *proxy.Service) (out []element) {
	if s == nil {
		return nil
	}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		key, to := s.Key(f), t.sets.frontends
		if f.Kind == proxy.NodePort {
			to = t.sets.nodeports
		}
		out = append(out, element{set: to, key: t.bytes.tuple(key), value: t.bytes.numberKey(t.class(tx, gateClassOf(f))), named: true})
		for _, source := range f.AllowedSources {
			out = append(out, element{set: t.sets.allowed, key: t.bytes.source(key, source.Addr()), more: &details{keyEnd: t.bytes.source(key, lastAddr(source))}})
		}
	}
	return out
}

// class returns the number of a class, and makes its chain and the way to it if it is new.
func (t *gateTable) class(tx *transaction, c gateClass) uint32 {
	n := c.number()
	if !t.classes[c] {
		name := c.name()
		t.classes[c] = true
		tx.chains = append(tx.chains, t.writer.gateClassChain(t.sets, t.state.Node, c))
		tx.add(element{set: t.sets.dispatch, key: t.bytes.numberKey(n), more: &details{chain: name}}, -1)
	}
	return n
}

// count changes what addresses are believed to be used by a Service.
func (t *gateTable) count(s *proxy.Service, by int) {
	if s == nil {
		return
	}
	for i := range s.Frontends {
		if f := &s.Frontends[i]; f.Kind != proxy.NodePort && !t.own(f.Addr) {
			t.serviceIPs.change(f.Addr, by)
		}
	}
	for _, pool := range [...][]proxy.Endpoint{s.Cluster, s.Local} {
		for _, e := range pool {
			if e.Local {
				t.hairpin.change(e.Addr.Addr(), by)
			}
		}
	}
}
