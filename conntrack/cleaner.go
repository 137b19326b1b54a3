package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"turnout/proxy"
)

// attempts is how often a dump is begun that signals interrupt, or that the kernel calls inconsistent.
const attempts = 5

// errInterrupted tells that a dump may have missed flows.
var errInterrupted = errors.New("interrupted")

// table is the kernel's connection tracking table.
type table interface {
	// each calls fn for every flow that matches the filter, and possibly for others, until fn returns false. fn may remove
	// flows. The error is errInterrupted if flows may have been missed.
	each(f filter, fn func(Flow) bool) error
	// remove removes a flow; false if it is gone already.
	remove(f Flow) (bool, error)
	close()
}

// Cleaner removes stale UDP flows of one family. It is used by one goroutine.
type Cleaner struct {
	family proxy.Family
	open   func(proxy.Family) (table, error)
	index  *index
}

// NewCleaner returns a Cleaner that knows no Service yet. It works in the network namespace of the thread that calls Clean.
func NewCleaner(family proxy.Family) *Cleaner {
	return &Cleaner{family: family, open: openKernel, index: newIndex()}
}

// Result tells what Clean did.
type Result struct {
	// Ran is false if nothing changed that flows depend on, so that the kernel was not asked.
	Ran bool
	// Examined is the number of flows that the kernel sent, Deleted the number of those removed.
	Examined, Deleted int
	Duration          time.Duration
}

// Clean removes the flows that have become stale, after the kernel has been made to follow a State: with changed since the
// State of the last call (all Services the first time) and nodeAddrs, the addresses on which that State's NodePorts are
// served. Flows to an endpoint that still serves are never removed, nor are those of TCP and SCTP.
//
// After an error, what could be removed is removed; what could not is tried again by the next Clean, which may be called
// without changes for this purpose. The memory needed does not depend on the number of flows.
func (c *Cleaner) Clean(ctx context.Context, nodeAddrs []netip.Addr, changed []Change) (Result, error) {
	c.index.update(changed)
	c.index.setNodeAddrs(nodeAddrs)
	if len(c.index.dirty) == 0 {
		return Result{}, nil
	}
	start := time.Now()
	r := Result{Ran: true}
	err := c.sweep(ctx, &r)
	r.Duration = time.Since(start)
	if err != nil {
		return r, fmt.Errorf("clean %s conntrack flows: %w", c.family, err)
	}
	clear(c.index.dirty)
	return r, nil
}

func (c *Cleaner) sweep(ctx context.Context, r *Result) error {
	t, err := c.open(c.family)
	if err != nil {
		return err
	}
	defer t.close()
	for range attempts {
		if err = c.pass(ctx, t, r); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return fmt.Errorf("%d times: %w", attempts, err)
}

// pass looks at the whole table once. Flows are removed as they come rather than collected: the kernel's dump copes with
// that (it may send the rest of a hash bucket again), and a table of millions of flows needs no memory here.
func (c *Cleaner) pass(ctx context.Context, t table, r *Result) error {
	var first error
	failed := 0
	err := t.each(c.index.filter(c.family), func(f Flow) bool {
		r.Examined++
		if !c.index.stale(f) {
			return ctx.Err() == nil
		}
		removed, err := t.remove(f)
		if removed {
			r.Deleted++
		}
		if err != nil {
			if failed++; first == nil {
				first = fmt.Errorf("delete %s: %w", f, err)
			}
		}
		return ctx.Err() == nil
	})
	if failed > 1 {
		first = fmt.Errorf("%d deletions, such as: %w", failed, first)
	}
	return errors.Join(ctx.Err(), err, first)
}
