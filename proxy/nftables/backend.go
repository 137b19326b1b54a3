package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/underway"
)

// Options configure a Backend.
type Options struct {
	Family proxy.Family
	// Protect makes the table belong to this process's socket: as long as that is open, other processes cannot change the table. Needs
	// Linux 6.9; before, the kernel would remove the table with its owner.
	Protect bool
	// RetryRejected is how long a Service that the kernel refused is left alone before it is tried again; 30 s if 0.
	RetryRejected time.Duration
}

// Backend keeps one family's table. It implements proxy.Backend.
type Backend struct {
	options  Options
	kernel   *kernel
	table    *table  // nil if what the kernel holds is not known
	memory   *memory // of the table before, while table is nil
	excluded map[proxy.ServicePortName]error
	retryAt  time.Time
	now      func() time.Time
	sleep    func(time.Duration)
	sweepAll bool // the whole affinity map must be looked through
}

var _ proxy.Backend = (*Backend)(nil)

// New opens a Backend and probes that the kernel has what it needs. The error says what is missing.
func New(o Options) (*Backend, error) {
	b, err := Open(o)
	if err != nil {
		return nil, err
	}
	if err := b.kernel.probe(); err != nil {
		return nil, errors.Join(fmt.Errorf("this node cannot run mode nftables for %s: %w", o.Family, err), b.Close())
	}
	return b, nil
}

// Open opens a Backend without a probe: enough for Cleanup.
func Open(o Options) (*Backend, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	return newBackend(o, s), nil
}

func newBackend(o Options, s socket) *Backend {
	if o.RetryRejected == 0 {
		o.RetryRejected = 30 * time.Second
	}
	return &Backend{options: o, kernel: newKernel(o.Family, s, o.Protect), excluded: map[proxy.ServicePortName]error{}, now: time.Now, sleep: time.Sleep}
}

// Close closes the Backend's socket. The rules stay.
func (b *Backend) Close() error { return b.kernel.socket.close() }

// PortID is the netlink port by which the kernel names this Backend as the author of changes.
func (b *Backend) PortID() uint32 { return b.kernel.socket.portID() }

// Forget is part of proxy.Backend. Numbers of Services and classes are kept in mind: they must not change their meaning.
func (b *Backend) Forget() {
	if b.table != nil {
		b.memory, b.table = b.table.remember(), nil
	}
}

// Apply is part of proxy.Backend.
func (b *Backend) Apply(_ context.Context, s *proxy.State) (proxy.Report, error) {
	report, err := b.apply(s)
	if err != nil {
		b.Forget()
		return proxy.Report{}, err
	}
	if err := b.tidy(&report); err != nil {
		return report, err
	}
	report.Rejected = b.rejections(s)
	return report, nil
}

func (b *Backend) apply(s *proxy.State) (proxy.Report, error) {
	if b.table != nil {
		if tx, ok := b.table.update(s, b.due()); ok {
			operations := tx.operations()
			if err := b.commitInOrder(tx); err == nil {
				return proxy.Report{Operations: operations}, nil
			}
			// Either the table is not what it was believed to be, or a Service is refused: the rebuild tells.
		}
		b.Forget()
	}
	return b.rebuild(s)
}

// commitInOrder sends an update: first the chains that it needs and the ways to them, which nothing leads to yet, and then the rest. A packet
// walks the rules of one generation; were its frontend to lead it to a chain that is as new as that, it would find the chain empty and
// leave untranslated.
func (b *Backend) commitInOrder(tx *transaction) error {
	if first := tx.takeObjects(b.table.sets.dispatch); !first.empty() {
		// Not b.commit: numbers that the update frees are still in use.
		if err := b.kernel.commit(first); err != nil {
			return err
		}
		b.sleep(underway.Brief)
	}
	return b.commit(tx)
}

// tidy removes what only packets still needed that were under way when a State was committed, and then what such packets may have
// learnt: a client sent to an endpoint just before that went is remembered just after.
func (b *Backend) tidy(report *proxy.Report) error {
	late, sweep := &b.table.late, len(b.table.stale) > 0 || b.sweepAll
	if late.empty() && !sweep {
		return nil
	}
	b.sleep(underway.Brief)
	report.Operations += late.operations()
	if err := b.commit(late); err != nil {
		b.Forget()
		return fmt.Errorf("remove addresses that went out of use: %w", err)
	}
	*late = transaction{}
	if !sweep {
		return nil
	}
	var err error
	if report.Forgotten, err = b.sweep(); err != nil {
		// The State is programmed, but clients may be led to an endpoint that has gone: that must be mended by another Apply.
		return fmt.Errorf("forget clients of endpoints that went: %w", err)
	}
	return nil
}

// commit sends a transaction and notes that it was carried out.
func (b *Backend) commit(tx *transaction) error {
	if tx.empty() {
		return nil
	}
	if err := b.kernel.commit(tx); err != nil {
		return err
	}
	b.table.numbers.committed()
	return nil
}

// due returns the refused Services, if it is time to try them again.
func (b *Backend) due() []proxy.ServicePortName {
	if len(b.excluded) == 0 || b.now().Before(b.retryAt) {
		return nil
	}
	b.retryAt = b.now().Add(b.options.RetryRejected)
	return slices.SortedFunc(maps.Keys(b.excluded), proxy.ServicePortName.Compare)
}

// rebuild makes the whole table: on what is there if it is ours and large enough, or else from nothing, in one transaction.
func (b *Backend) rebuild(s *proxy.State) (proxy.Report, error) {
	found, how, err := b.find()
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errInterrupted) && !errors.Is(err, errTruncated) {
		return proxy.Report{}, err
	}
	if err != nil {
		found = nil // something of it is missing: it must be replaced
	}
	if found == nil {
		return b.build(s, b.memory, replace, false)
	}
	// What was found is right also if the last update was not carried out.
	report, err := b.build(s, found, how, true)
	if err != nil && how == refill {
		report, err = b.build(s, found, replace, true)
	}
	return report, err
}

// find reads what the kernel holds, and tells how a rebuild can begin.
func (b *Backend) find() (found *memory, how start, err error) {
	for range dumpAttempts {
		found, err = b.kernel.recover()
		strange := false
		if err == nil && found != nil {
			strange, err = b.kernel.strange()
		}
		if strange {
			return found, replace, err
		}
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return found, refill, err
}

// build makes the whole table, leaving out Services until the kernel accepts the rest. ours tells that the table in the kernel has
// our layout, so that its clients can be carried over.
func (b *Backend) build(s *proxy.State, m *memory, how start, ours bool) (proxy.Report, error) {
	defer func() { b.kernel.encoder.apart = false }()
	for {
		t := newTable(s, m, b.excluded)
		tx := t.build(how)
		if how == refill {
			tx.small = t.sets.differingIn(m.size)
		}
		if how == replace && ours {
			if err := b.carryOver(t, tx); err != nil {
				return proxy.Report{}, err
			}
		}
		if how == refill {
			b.announce(t.newClasses(m))
		}
		b.table = t
		report := proxy.Report{Full: true, Operations: tx.operations()}
		err := b.kernel.commitWhole(tx)
		if err == nil {
			b.table.numbers.committed()
			b.memory, b.sweepAll = nil, true
			return report, nil
		}
		b.table = nil
		if !b.exclude(tx, err) {
			return proxy.Report{}, fmt.Errorf("program table %s for %s: %w", TableName, s.Family, err)
		}
	}
}

// announce makes chains ahead of a refill that leads to them, as commitInOrder does for an update. What the table in the kernel holds besides is
// not known for sure, so it may be refused; then the refill does without.
func (b *Backend) announce(chains *transaction) {
	if !chains.empty() && b.kernel.commit(chains) == nil {
		b.sleep(underway.Brief)
	}
}

// exclude leaves out the Services that a refusal names, and tells whether trying again makes sense. Where the kernel named a message but
// not the element, the next attempt sends each Service's elements apart.
func (b *Backend) exclude(tx *transaction, err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	progress := false
	for _, f := range r.failures {
		if !f.element {
			return false // a table, chain, set or rule was refused: no Service is to blame
		}
		if len(f.owners) > 1 {
			progress = progress || !b.kernel.encoder.apart
			b.kernel.encoder.apart = true
			continue
		}
		for _, o := range f.owners {
			if o >= 0 {
				b.excluded[tx.owners[o]] = fmt.Errorf("%s: %w", f.what, f.err)
				b.retryAt = b.now().Add(b.options.RetryRejected)
				progress = true
			}
		}
	}
	return progress
}

// rejections lists the Services of a State that are left out.
func (b *Backend) rejections(s *proxy.State) (out []proxy.Rejection) {
	for name, err := range b.excluded {
		if _, ok := s.Services.Get(name); !ok {
			delete(b.excluded, name)
			continue
		}
		out = append(out, proxy.Rejection{Name: name, Err: err})
	}
	slices.SortFunc(out, func(x, y proxy.Rejection) int { return x.Name.Compare(y.Name) })
	return out
}

// Cleanup is part of proxy.Backend. It deletes the table, also one of upstream kube-proxy.
func (b *Backend) Cleanup(context.Context) error {
	b.Forget()
	b.memory = nil
	return b.kernel.removeTable()
}

// Exists tells whether there is a table of this name, of whatever layout.
func (b *Backend) Exists() (bool, error) {
	return b.kernel.tableExists()
}

// TableOf names a family's table as nft does, such as "ip kube-proxy".
func TableOf(f proxy.Family) string {
	if f == proxy.IPv6 {
		return "ip6 " + TableName
	}
	return "ip " + TableName
}
