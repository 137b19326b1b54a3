package iptables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"turnout/proxy"
	"turnout/proxy/underway"
)

// Options configure a Backend.
type Options struct {
	Family proxy.Family
	// Variant of the programs; if it is "", the one that the node uses.
	Variant Variant
	// Path is a list of folders that have the programs, as in the environment variable PATH, which is used if it is "".
	Path string
	// Timeout is how long a program may take, besides a millisecond for each line that it is given; 30 s if 0.
	Timeout time.Duration
	// LocalhostNodePorts serves NodePorts on 127.0.0.0/8, too. It needs the setting net.ipv4.conf.all.route_localnet to be 1, which is up to the
	// caller. It has no effect for IPv6.
	LocalhostNodePorts bool
	// KeepInvalid lets packets be forwarded that connection tracking cannot place, rather than dropping them.
	KeepInvalid bool
	// RetryRejected is how long a Service that was refused is left alone before it is tried again; 30 s if 0.
	RetryRejected time.Duration
	// Obstructed, if it is not nil, is called with what Obstacles finds, by table: each of nat, filter and mangle has an entry, which is empty if the programs can
	// read the table. It is called by Apply when that has written everything, and by Check, whenever something else is in the way than before.
	Obstructed func(rules map[string][]string)

	count bool // packets, by rules that do
	lacks []lack
}

// Backend keeps one family's chains. It implements proxy.Backend.
type Backend struct {
	options  Options
	kernel   kernel
	choice   Choice
	rules    *rules // nil if what the kernel holds is not known
	excluded map[proxy.ServicePortName]error
	retryAt  time.Time
	now      func() time.Time
	wait     func() // until the packets are through that are in rules
	// obstructed is what Options.Obstructed was told last.
	obstructed map[string][]string
	tally      tally

	counters  counterStore
	countable bool        // rules can count packets
	counting  atomic.Bool // rules do
}

var _ proxy.Backend = (*Backend)(nil)

// New opens a Backend, and tries in the kernel, out of any packet's way, all that rules may need. The error says what is missing. If the variant nft was not asked
// for and does not work, but legacy does, that is used.
func New(ctx context.Context, o Options) (*Backend, error) {
	b, err := open(ctx, o)
	if err != nil && o.Variant == "" && (b == nil || b.choice.Variant == NFT) {
		o.Variant = Legacy
		if other, otherErr := open(ctx, o); otherErr == nil {
			other.choice.Reason = fmt.Sprintf("the variant nft cannot be used (%v)", err)
			return other, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("this node cannot run mode iptables for %s: %w", o.Family, err)
	}
	return b, nil
}

// open is Open and the trial; with an error of the latter it returns the Backend, too.
func open(ctx context.Context, o Options) (*Backend, error) {
	b, err := Open(ctx, o)
	if err == nil {
		err = b.probe(ctx)
	}
	if err == nil {
		b.tryCounters(ctx)
	}
	return b, err
}

// Open opens a Backend without trying anything in the kernel: enough for Cleanup.
func Open(ctx context.Context, o Options) (*Backend, error) {
	o.setDefaults()
	p, why, err := choose(ctx, &o)
	if err != nil {
		return nil, err
	}
	b := newBackend(o, openKernel(p))
	b.counters = kernelCounters{}
	b.choice = Choice{Variant: p.variant, Program: p.restoring, Version: p.version, Reason: why}
	return b, nil
}

func (o *Options) setDefaults() {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.RetryRejected == 0 {
		o.RetryRejected = 30 * time.Second
	}
}

func newBackend(o Options, k kernel) *Backend {
	o.setDefaults()
	return &Backend{options: o, kernel: k, excluded: map[proxy.ServicePortName]error{}, now: time.Now, wait: underway.Wait, counters: noCounters{}}
}

// Choice tells which programs the Backend uses, and why.
func (b *Backend) Choice() Choice { return b.choice }

// Forget is part of proxy.Backend.
func (b *Backend) Forget() { b.rules = nil }

// Apply is part of proxy.Backend. What it changes in one table, packets meet as a whole or not at all; the tables nat and filter change one after the other,
// in such an order that every connection meets one that knows it.
func (b *Backend) Apply(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	b.tally.begin()
	report, err := b.apply(ctx, s)
	if err != nil {
		b.Forget()
		return proxy.Report{Failures: b.tally.failures}, err
	}
	report.Failures, report.Tables = b.tally.failures, b.tables()
	report.Rejected = b.rejections(s)
	return report, nil
}

func (b *Backend) apply(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	if b.rules != nil {
		if change, ok := b.rules.update(s, b.due()); ok {
			n := change.operations()
			if n == 0 {
				return proxy.Report{}, nil
			}
			if b.rules.localhost && b.options.count {
				_ = b.makeCounters() // one that no rule counts with so far may have gone; a rule without it is refused
			}
			_, _, err := b.carryOut(ctx, []*script{change})
			if err == nil {
				return proxy.Report{Operations: n}, nil
			}
			b.tally.failures.Changes++
			if !refused(err) {
				return proxy.Report{}, fmt.Errorf("program the changes for %s: %w", s.Family, err)
			}
			// Either the tables are not what they were believed to be, or a Service is refused: the rebuild tells.
		}
		b.Forget()
	}
	return b.rebuild(ctx, s)
}

// due returns the refused Services, if it is time to try them again.
func (b *Backend) due() []proxy.ServicePortName {
	if len(b.excluded) == 0 || b.now().Before(b.retryAt) {
		return nil
	}
	b.retryAt = b.now().Add(b.options.RetryRejected)
	return slices.SortedFunc(maps.Keys(b.excluded), proxy.ServicePortName.Compare)
}

// rebuild writes all chains, leaving out Services until the rest is accepted.
func (b *Backend) rebuild(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	started := b.now()
	found, err := b.kernel.look(ctx)
	if err != nil {
		return proxy.Report{}, fmt.Errorf("see what is programmed for %s: %w", s.Family, err)
	}
	b.prepareCounters()
	b.excludeLacking(s)
	for {
		r := newTables(&b.options, s, b.excluded)
		operations, failed, err := b.carryOut(ctx, r.build(found, b.kernel.chunk()))
		if err == nil {
			r.chains += len(found.kept)
			b.rules = r
			// To try a refused Service again in vain is another rebuild.
			b.retryAt = b.now().Add(max(b.options.RetryRejected, retryShare*b.now().Sub(started)))
			_ = b.tellObstacles() // Check tells why it cannot
			return proxy.Report{Full: true, Operations: operations}, b.once(ctx, found)
		}
		if !found.keep(failed, err) && !b.blameCounters(failed, err) && !b.exclude(failed, err) {
			return proxy.Report{}, fmt.Errorf("program all rules for %s: %w", s.Family, err)
		}
	}
}

// retryShare bounds the time that is spent on trying refused Services again to a tenth.
const retryShare = 9

// carryOut carries out scripts, up to the first that fails, which it returns.
func (b *Backend) carryOut(ctx context.Context, scripts []*script) (operations int, failed *script, err error) {
	for _, s := range scripts {
		text, _ := s.text()
		if len(text) == 0 {
			continue
		}
		if err := b.kernel.restore(ctx, text); err != nil {
			b.tally.failures.All++
			return operations, s, err
		}
		operations += s.operations()
		b.tally.wrote(s)
	}
	return operations, nil, nil
}

// once deletes jumps that are there more than once.
func (b *Backend) once(ctx context.Context, found *found) error {
	for _, n := range found.jumps {
		if n > 1 {
			if err := b.kernel.unjump(ctx, keepFirst); err != nil {
				return fmt.Errorf("delete jumps that are there more than once: %w", err)
			}
			return nil
		}
	}
	return nil
}

// excludeLacking leaves out the Services that need what this node lacks.
func (b *Backend) excludeLacking(s *proxy.State) {
	if len(b.options.lacks) == 0 {
		return
	}
	for name, service := range s.Services.All() {
		if err := b.options.lacking(service); err != nil {
			b.excluded[name] = err
		}
	}
}

// exclude leaves out the Service whose line was refused.
func (b *Backend) exclude(s *script, err error) bool {
	_, _, owner := s.refused(err)
	if owner == nil || b.excluded[*owner] != nil {
		return false
	}
	b.excluded[*owner] = err
	return true
}

// rejections lists the Services of a State that are left out.
func (b *Backend) rejections(s *proxy.State) (out []proxy.Rejection) {
	for _, name := range slices.SortedFunc(maps.Keys(b.excluded), proxy.ServicePortName.Compare) {
		if _, ok := s.Services.Get(name); ok {
			out = append(out, proxy.Rejection{Name: name, Err: b.excluded[name]})
		} else {
			delete(b.excluded, name)
		}
	}
	return out
}

// Cleanup is part of proxy.Backend. It removes all chains that Owns names, kube-proxy's included, from the tables of the variant that the Backend uses, and then the packet
// counters that no other rules count with. A chain that a rule of another program leads to stays, without rules.
func (b *Backend) Cleanup(ctx context.Context) error {
	b.Forget()
	// What was translated on its way in is masqueraded on its way out.
	for _, keep := range []keeper{keepLater, keepNone} {
		if err := b.kernel.unjump(ctx, keep); err != nil {
			return fmt.Errorf("delete the jumps for %s: %w", b.options.Family, err)
		}
		b.wait()
	}
	found, err := b.kernel.look(ctx)
	if err != nil {
		return fmt.Errorf("see what is programmed for %s: %w", b.options.Family, err)
	}
	for {
		_, failed, err := b.carryOut(ctx, found.drop(b.kernel.chunk()))
		if err == nil {
			break
		}
		if !found.keep(failed, err) {
			return fmt.Errorf("delete the chains for %s: %w", b.options.Family, err)
		}
	}
	b.removeCounters()
	return nil
}
