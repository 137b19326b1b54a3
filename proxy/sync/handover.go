package sync

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// Mode is one way to program the kernel.
type Mode struct {
	Name     string
	Backends map[proxy.Family]proxy.Backend // of each family in use
	// Gone is called when the Backends are not used any longer, though not if the process ends with the mode in use; nil if nobody wants to know.
	Gone func()
}

// handover is a change of mode that is due. All but to and done is owned by Run.
type handover struct {
	to   Mode
	done func(error)
	// since is when it was first looked at.
	since time.Time
	// first are the States that the other mode is made to follow in a goroutine, whose result is taken; nil before.
	first map[proxy.Family]*proxy.State
	taken chan error
}

// clearPatience is how long a change of mode waits for the removal of a mode that was in use before.
const clearPatience = 30 * time.Second

// SwitchTo has another mode take over: its rules are made first, and then those of the present one are removed, so that there is no moment
// without. Until the other one's are made, which may take a while, the present mode follows all changes. done is called once, by the goroutine of Run: when
// the other mode has taken over, before anything is removed, or with an error if it could not; then the present mode goes on, and what was made of the other
// one is removed. It is not to be called again before that.
func (l *Loop) SwitchTo(m Mode, done func(error)) {
	l.next.Store(&handover{to: m, done: done})
	l.Wake()
}

// handOver changes the mode if that is due. It returns after what time to look again; 0 if there is nothing to do.
func (l *Loop) handOver(ctx context.Context) time.Duration {
	h := l.next.Load()
	switch {
	case h == nil:
		return 0
	case h.taken == nil:
		return l.prepare(ctx, h)
	}
	select {
	case err := <-h.taken:
		l.takeOver(ctx, h, err)
	default: // Run is woken when it is known
	}
	return 0
}

// prepare has the other mode's rules made in a goroutine: changes of Services must not wait for it, least of all if it does not work.
func (l *Loop) prepare(ctx context.Context, h *handover) time.Duration {
	if h.since.IsZero() {
		h.since = time.Now()
	}
	if !l.clearWay(h.to.Name) {
		if time.Since(h.since) < clearPatience {
			return firstRetry
		}
		l.next.Store(nil)
		h.to.gone()
		h.done(fmt.Errorf("change from mode %s to mode %s: rules of a mode that was in use before cannot be removed yet; the log says why", l.mode.Name, h.to.Name))
		return 0
	}
	h.first, h.taken = l.result.States, make(chan error, 1)
	l.retirees.Go(func() {
		h.taken <- l.take(ctx, h.to, h.first)
		l.Wake()
	})
	return 0
}

// takeOver has the other mode follow what changed while it was prepared, and puts it in the place of the present one.
func (l *Loop) takeOver(ctx context.Context, h *handover, err error) {
	l.next.Store(nil)
	l.keep(h.to.Name)
	before, states := l.mode, l.result.States
	if err == nil {
		err = l.take(ctx, h.to, states)
	}
	if err == nil {
		err = l.verify(ctx, h.to, states)
	}
	if err != nil {
		h.done(fmt.Errorf("change from mode %s to mode %s: %w", before.Name, h.to.Name, err))
		l.retire(ctx, h.to)
		return
	}
	l.mode = h.to
	l.options.Metrics.InUse(l.mode.Name, l.mode.Backends)
	for _, f := range l.families {
		f.backend, f.inspected = h.to.Backends[f.Family], time.Now()
		// Packets may have met the other mode's rules when these were behind, and begun flows to endpoints that are gone.
		s := states[f.Family]
		f.flows.add(s.Node.NodePorts.Addrs, hamt.Diff(h.first[f.Family].Services, s.Services, func(a, b *proxy.Service) bool { return a == b }))
	}
	h.done(nil)
	l.retire(ctx, before)
}

// keep forgets the rules of a mode that an earlier process left and that were to be removed: they are in use again, or removed with the mode that could not take over.
func (l *Loop) keep(name string) {
	l.options.Leave = slices.DeleteFunc(l.options.Leave, func(m Mode) bool {
		if m.Name == name {
			m.gone()
		}
		return m.Name == name
	})
}

// take has a mode follow States.
func (l *Loop) take(ctx context.Context, m Mode, states map[proxy.Family]*proxy.State) error {
	for _, f := range l.families {
		if _, err := m.Backends[f.Family].Apply(ctx, states[f.Family]); err != nil {
			return err
		}
	}
	return nil
}

// verify mends what others changed in a mode's rules while they were made, as far as its Backends tell: they may be the only ones in a moment.
func (l *Loop) verify(ctx context.Context, m Mode, states map[proxy.Family]*proxy.State) error {
	for _, f := range l.families {
		b := m.Backends[f.Family]
		i, ok := b.(Inspector)
		if !ok {
			continue
		}
		damage, err := i.Check(ctx)
		if err != nil || damage == "" {
			continue // what cannot be seen now is tried again once a period
		}
		klog.FromContext(ctx).Info("Another process changed the rules of a mode that is to take over; they are made anew", "mode", m.Name, "ipFamily", f.Family, "change", damage)
		b.Forget()
		if _, err := b.Apply(ctx, states[f.Family]); err != nil {
			return err
		}
	}
	return nil
}

// gone tells that the Backends are not used any longer.
func (m Mode) gone() {
	if m.Gone != nil {
		m.Gone()
	}
}
