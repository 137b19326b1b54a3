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
	// Retire removes what no connection needs, instead of Cleanup. It is called until no connections are left. Apply takes back into use what is there.
	Retire(ctx context.Context) (connections int, err error)
}

// drainPeriod is how often a Retirer is asked whether connections are left.
const drainPeriod = 10 * time.Second

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
	for {
		connections, err := r.mode.remove(ctx)
		if err == nil && connections == 0 {
			logger.Info("Removed the rules of a mode that is not in use any longer")
			return
		}
		wait := drainPeriod
		if err != nil {
			logger.Error(err, "The rules of a mode that is not in use any longer cannot be removed; this is tried again")
			wait = retry.after(true)
		} else if !r.draining.Swap(true) {
			logger.Info("Some rules of a mode that is not in use any longer stay until the connections through them end", "connections", connections)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// remove removes what no connection needs, and tells how many connections still need something.
func (m Mode) remove(ctx context.Context) (connections int, err error) {
	var errs []error
	for _, b := range m.Backends {
		r, ok := b.(Retirer)
		if !ok {
			errs = append(errs, b.Cleanup(ctx))
			continue
		}
		n, err := r.Retire(ctx)
		connections += n
		errs = append(errs, err)
	}
	return connections, errors.Join(errs...)
}
