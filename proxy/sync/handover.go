package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
)

// Mode is one way to program the kernel.
type Mode struct {
	Name     string
	Backends map[proxy.Family]proxy.Backend // of each family in use
	// Gone is called when nothing of the mode is left in the kernel and its Backends are not used any longer; nil if nobody wants to know.
	Gone func()
}

// handover is a change of mode that is due.
type handover struct {
	to   Mode
	done func(error)
}

// SwitchTo has another mode take over: its rules are made first, and then those of the present one are removed, so that there is no moment
// without. done is called when the other mode has taken over, or with an error each time that it could not: then the present mode goes on, and
// it is tried again, until SwitchTo or Stay is called.
func (l *Loop) SwitchTo(m Mode, done func(error)) {
	l.next.Store(&handover{m, done})
	l.Wake()
}

// Stay calls off a change of mode that could not be made so far.
func (l *Loop) Stay() { l.next.Store(nil) }

// handOver changes the mode if that is due. It returns after what time to try again; 0 if there is nothing to do.
func (l *Loop) handOver(ctx context.Context) time.Duration {
	h := l.next.Load()
	if h == nil {
		l.switching.next = 0
		return 0
	}
	if l.retiring.Load() > 0 { // maybe of the very mode that is to come
		return firstRetry
	}
	if err := l.take(ctx, h.to); err != nil {
		h.done(fmt.Errorf("change from mode %s to mode %s: %w", l.mode.Name, h.to.Name, err))
		l.switching.max = l.timing().MaxRetry
		return l.switching.after(true)
	}
	l.next.CompareAndSwap(h, nil)
	l.switching.next = 0
	before := l.mode
	l.mode = h.to
	for _, f := range l.families {
		f.backend, f.inspected = h.to.Backends[f.Family], time.Now()
	}
	l.retire(ctx, before)
	h.done(nil)
	return 0
}

// take has a mode follow the present States, of all families or of none.
func (l *Loop) take(ctx context.Context, m Mode) error {
	for _, f := range l.families {
		if _, err := m.Backends[f.Family].Apply(ctx, l.result.States[f.Family]); err != nil {
			errs := []error{err}
			for _, f := range l.families {
				errs = append(errs, m.Backends[f.Family].Cleanup(ctx))
			}
			return errors.Join(errs...)
		}
	}
	return nil
}

// retire removes what a mode has in the kernel, in a goroutine: changes of Services must not wait for it.
func (l *Loop) retire(ctx context.Context, m Mode) {
	l.retiring.Add(1)
	l.retirees.Go(func() {
		defer l.retiring.Add(-1)
		logger := klog.FromContext(ctx).WithValues("mode", m.Name)
		retry := backOff{max: l.timing().MaxRetry}
		for {
			err := m.cleanup(ctx)
			if err == nil {
				break
			}
			logger.Error(err, "The rules of a mode that is not in use any longer cannot be removed; this is tried again")
			select {
			case <-ctx.Done():
				return
			case <-time.After(retry.after(true)):
			}
		}
		logger.Info("Removed the rules of a mode that is not in use any longer")
		if m.Gone != nil {
			m.Gone()
		}
	})
}

func (m Mode) cleanup(ctx context.Context) error {
	var errs []error
	for _, b := range m.Backends {
		errs = append(errs, b.Cleanup(ctx))
	}
	return errors.Join(errs...)
}
