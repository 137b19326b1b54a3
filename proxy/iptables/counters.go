package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"turnout/proxy"
	"turnout/proxy/iptables/nfacct"
)

// The kernel's packet counters that rules count with, under kube-proxy's names. Both families share them.
const (
	// invalidDropped counts packets that are not forwarded because connection tracking cannot place them.
	invalidDropped = "ct_state_invalid_dropped_pkts"
	// localhostAccepted counts connections, not packets: only the first packet of each meets table nat.
	localhostAccepted = "localhost_nps_accepted_pkts"
)

// Counters are the names of the kernel's packet counters that this mode, or kube-proxy's mode iptables, makes.
var Counters = [...]string{invalidDropped, localhostAccepted}

// countWith is a match that counts what has met all matches before it.
func countWith(name string) string { return "-m nfacct --nfacct-name " + name + " " }

// A counterStore keeps packet counters. It is the seam at which tests have a kernel without.
type counterStore interface {
	ensure(name string) error
	packets(name string) (uint64, error) // the error of one that is not there wraps fs.ErrNotExist
	remove(name string) error
}

// kernelCounters are those of the kernel.
type kernelCounters struct{}

func (kernelCounters) ensure(name string) error            { return nfacct.Ensure(name) }
func (kernelCounters) packets(name string) (uint64, error) { return nfacct.Packets(name) }
func (kernelCounters) remove(name string) error            { return nfacct.Delete(name) }

// noCounters is a kernel that has none.
type noCounters struct{}

func (noCounters) ensure(string) error            { return errNoCounters }
func (noCounters) packets(string) (uint64, error) { return 0, errNoCounters }
func (noCounters) remove(string) error            { return errNoCounters }

var errNoCounters = errors.New("the kernel has no packet counters")

// Packets returns what the rules of both families have counted; false if those of this one do not count, since the kernel or the programs cannot. It may be
// called from any goroutine.
func (b *Backend) Packets() (counts proxy.PacketCounts, ok bool) {
	if !b.counting.Load() {
		return counts, false
	}
	for _, x := range [...]struct {
		name string
		to   *uint64
	}{{invalidDropped, &counts.InvalidDropped}, {localhostAccepted, &counts.LocalhostAccepted}} {
		n, err := b.counters.packets(x.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // what no rule counts with may go: it has counted nothing
			return proxy.PacketCounts{}, false
		}
		*x.to = n
	}
	return counts, true
}

// tryCounters finds out whether rules can count packets: the kernel must have counters, and the program must know the match. They do without if not.
func (b *Backend) tryCounters(ctx context.Context) {
	err := b.makeCounters()
	if err == nil {
		_, err = b.try(ctx, trial{filter, countWith(invalidDropped) + "-j ACCEPT"})
	}
	if err != nil {
		b.choice.Uncounted = oneLine(err)
		return
	}
	b.countable = true
}

// makeCounters makes those that are not there.
func (b *Backend) makeCounters() error {
	for _, name := range Counters {
		if err := b.counters.ensure(name); err != nil {
			return fmt.Errorf("count packets: %w", err)
		}
	}
	return nil
}

// prepareCounters decides whether the rules that are built next count.
func (b *Backend) prepareCounters() {
	b.options.count = b.countable && b.makeCounters() == nil
	b.counting.Store(b.options.count)
}

// blameCounters has rules no longer count, if that may be why a script was refused: the line counts, or nothing is known of the line.
func (b *Backend) blameCounters(s *script, err error) bool {
	if !b.options.count || !refused(err) {
		return false
	}
	counts := func(text string) bool { return strings.Contains(text, "-m nfacct") }
	if _, text, owner := s.refused(err); owner != nil && !counts(text) {
		return false
	}
	if text, _ := s.text(); !counts(string(text)) {
		return false
	}
	b.options.count = false // until the next rebuild
	b.counting.Store(false)
	return true
}

// removeCounters deletes the counters. One that the other family's rules count with stays, and is deleted with these.
func (b *Backend) removeCounters() {
	b.counting.Store(false)
	for _, name := range Counters {
		_ = b.counters.remove(name) // whatever may be wrong: a counter that no rule counts with does nothing
	}
}
