package sync

import (
	"context"
	"fmt"
	"time"

	"turnout/proxy"
)

// Mode is one way to program the kernel.
type Mode struct {
	Name     string
	Backends map[proxy.Family]proxy.Backend // of each family in use
	// Gone is called when the Backends are not used any longer, though not if the process ends with the mode in use; nil if nobody wants to know.
	Gone func()
}

// handover is a change of mode that is due.
type handover struct {
	to   Mode
	done func(error)
}

// SwitchTo has another mode take over: its rules are made first, and then those of the present one are removed, so that there is no moment
// without. done is called once, by the goroutine of Run: when the other mode has taken over, before anything is removed, or with an error if it could
// not; then the present mode goes on, and what was made of the other one is removed. It is not to be called again before that.
func (l *Loop) SwitchTo(m Mode, done func(error)) {
	l.next.Store(&handover{m, done})
	l.Wake()
}

// handOver changes the mode if that is due. It returns after what time to try again; 0 if there is nothing to do.
func (l *Loop) handOver(ctx context.Context) time.Duration {
	h := l.next.Load()
	if h == nil {
		return 0
	}
	if !l.clearWay(h.to.Name) {
		return firstRetry
	}
	l.next.Store(nil)
	before := l.mode
	if err := l.take(ctx, h.to); err != nil {
		h.done(fmt.Errorf("change from mode %s to mode %s: %w", before.Name, h.to.Name, err))
		l.retire(ctx, h.to)
		return 0
	}
	l.mode = h.to
	l.options.Metrics.InUse(l.mode.Name, l.mode.Backends)
	for _, f := range l.families {
		f.backend, f.inspected = h.to.Backends[f.Family], time.Now()
	}
	h.done(nil)
	l.retire(ctx, before)
	return 0
}

// take has a mode follow the present States.
func (l *Loop) take(ctx context.Context, m Mode) error {
	for _, f := range l.families {
		if _, err := m.Backends[f.Family].Apply(ctx, l.result.States[f.Family]); err != nil {
			return err
		}
	}
	return nil
}
