package sync

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"turnout/conntrack"
	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/metrics"
)

// FlowCleaner removes stale flows; conntrack.Cleaner is one.
type FlowCleaner interface {
	Clean(ctx context.Context, nodeAddrs []netip.Addr, changed []conntrack.Change) (conntrack.Result, error)
}

// flows has stale flows removed in a goroutine of its own: reading a conntrack table of millions of flows takes seconds, and new
// endpoints must not wait for that.
type flows struct {
	family  proxy.Family
	cleaner FlowCleaner // nil if nothing is to be cleaned
	metrics *metrics.Metrics
	wake    chan struct{}

	mu      sync.Mutex // guards what follows
	addrs   []netip.Addr
	changed []conntrack.Change
}

func newFlows(f proxy.Family, c FlowCleaner, m *metrics.Metrics) *flows {
	return &flows{family: f, cleaner: c, metrics: m, wake: make(chan struct{}, 1)}
}

// add hands over what changed in the kernel. It returns at once.
func (f *flows) add(addrs []netip.Addr, changes []hamt.Change[proxy.ServicePortName, *proxy.Service]) {
	if f.cleaner == nil {
		return
	}
	f.mu.Lock()
	f.addrs = addrs
	for _, c := range changes {
		// Only UDP flows become stale; the Cleaner looks at nothing else either.
		if c.Key.Protocol == proxy.UDP {
			f.changed = append(f.changed, conntrack.Change{Old: c.Old, New: c.New})
		}
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run begins to clean, until the context ends. The result waits for the end.
func (f *flows) run(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		retry := backOff{max: time.Minute}
		var again <-chan time.Time
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.wake:
			case <-again:
			}
			again = nil
			if after := retry.after(!f.clean(ctx)); after > 0 {
				again = time.After(after)
			}
		}
	}()
	return func() { <-done }
}

func (f *flows) clean(ctx context.Context) (ok bool) {
	f.mu.Lock()
	addrs, changed := f.addrs, f.changed
	f.changed = nil
	f.mu.Unlock()
	r, err := f.cleaner.Clean(ctx, addrs, changed)
	if r.Ran {
		f.metrics.ConntrackReconciled(f.family, r.Duration, r.Deleted)
	}
	logger := klog.FromContext(ctx)
	if err != nil && ctx.Err() == nil {
		logger.Error(err, "Stale UDP flows were not all removed; this is tried again", "ipFamily", f.family, "deleted", r.Deleted)
	} else if r.Deleted > 0 {
		logger.V(2).Info("Removed stale UDP flows", "ipFamily", f.family, "deleted", r.Deleted, "examined", r.Examined, "duration", r.Duration)
	}
	return err == nil
}
