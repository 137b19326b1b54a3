package sync

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// A Retirer is a Backend that living connections may need after another mode has taken over.
type Retirer interface {
	// Retire removes what no connection needs, instead of Cleanup. It is called until nothing is left: left counts connections, and what may have got one a
	// moment ago. Apply takes back into use what is there.
	Retire(ctx context.Context) (left int, err error)
}

const (
	// settleTime is after what time a Retirer is asked for the second time: no packet is on its way for longer.
	settleTime = time.Second
	// drainPeriod is how often it is asked from then on.
	drainPeriod = 10 * time.Second
)

// A retirement is a mode that is being removed.
type retirement struct {
	mode  Mode
	stop  context.CancelFunc
	ended chan struct{} // closed when the Backends are not used any longer
	// draining tells that only living connections still need the mode: it is in nobody's way.
	draining atomic.Bool
}

// retire removes what a mode has in the kernel, in a goroutine: changes of Services must not wait for it.
func (l *Loop) retire(ctx context.Context, m Mode) {
	ctx, stop := context.WithCancel(ctx)
	r := &retirement{mode: m, stop: stop, ended: make(chan struct{})}
	l.retirements = append(l.retirements, r)
	l.retirees.Go(func() {
		defer close(r.ended)
		defer stop()
		r.run(ctx, backOff{max: l.timing().MaxRetry})
		m.gone()
	})
}

// clearWay tells whether a mode can take over: no other one is being removed but those that only wait for connections, and if it is among these that is
// given up.
func (l *Loop) clearWay(name string) bool {
	l.retirements = slices.DeleteFunc(l.retirements, func(r *retirement) bool {
		select {
		case <-r.ended:
			return true
		default:
			return false
		}
	})
	free := true
	for _, r := range l.retirements {
		if same := r.mode.Name == name; same || !r.draining.Load() {
			free = false
			if same && r.draining.Load() {
				r.stop()
			}
		}
	}
	return free
}

// run removes what a mode has, until nothing is left or the context ends.
func (r *retirement) run(ctx context.Context, retry backOff) {
	logger := klog.FromContext(ctx).WithValues("mode", r.mode.Name)
	told := false
	for {
		left, err := r.mode.remove(ctx)
		if err == nil && left == 0 {
			logger.Info("Removed the rules of a mode that is not in use any longer")
			return
		}
		wait := retry.after(err != nil)
		switch {
		case err != nil:
			logger.Error(err, "The rules of a mode that is not in use any longer cannot be removed; this is tried again")
		case !r.draining.Swap(true):
			wait = settleTime
		default:
			wait = drainPeriod
			if !told {
				told = true
				logger.Info("Some rules of a mode that is not in use any longer stay until the connections through them end", "connections", left)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// remove removes what no connection needs, and tells how much is left.
func (m Mode) remove(ctx context.Context) (left int, err error) {
	var errs []error
	for _, b := range m.Backends {
		r, ok := b.(Retirer)
		if !ok {
			errs = append(errs, b.Cleanup(ctx))
			continue
		}
		n, err := r.Retire(ctx)
		left += n
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}
