package sync

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/hamt"
	"turnout/proxy/metrics"
)

// family is one family's part of the loop.
type family struct {
	proxy.Family
	backend   proxy.Backend
	flows     *flows
	applied   *proxy.State // the last one that the kernel follows
	pending   []time.Time  // when changes that are not programmed yet were made in the cluster
	reason    metrics.FullSyncReason
	foreign   interference
	inspected time.Time // when the backend last looked at its rules
	sizes     sizes
}

// maxPending is how many changes wait at most to be measured. Were the kernel to refuse everything for days, they would fill the memory.
const maxPending = 10_000

func newFamily(f proxy.Family, o *Options) *family {
	return &family{Family: f, backend: o.Mode.Backends[f], reason: metrics.ReasonStart, foreign: newInterference(),
		flows: newFlows(f, o.Conntrack[f], o.Metrics)}
}

// sync makes the kernel follow what was delivered. It returns after what time to try again, 0 if only changes should lead to it.
func (l *Loop) sync(ctx context.Context, retry *backOff) time.Duration {
	select {
	case <-l.wake: // whoever woke the loop until here did so after its change, which this sync sees
	default:
	}
	if err := l.build(ctx); err != nil {
		for _, f := range l.families {
			l.failed(ctx, f, err)
		}
		return retry.after(true)
	}
	failed, again := false, l.handOver(ctx)
	for _, f := range l.families {
		next, err := l.apply(ctx, f, l.result.States[f.Family])
		failed = failed || err != nil
		again = sooner(again, next)
	}
	l.announce(ctx)
	return sooner(again, retry.after(failed))
}

// build takes what changed since the last time and builds the States. A panic, which only a mistake in the program can cause, is an error
// like any other: Build is pure, so the Result of before is still whole, and the kernel keeps what it has until the object at fault is changed
// or gone.
func (l *Loop) build(ctx context.Context) (err error) {
	logger := klog.FromContext(ctx)
	defer func() {
		if p := recover(); p != nil {
			l.inputs.touch(func(*inputs) {})
			logger.Error(nil, "Mistake in the program; please report it", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("build the rules: panic: %v", p)
		}
	}()
	in := desired.Input{Services: l.services.Snapshot()}
	endpoints, triggers := l.endpoints.Snapshot()
	in.Endpoints = endpoints
	for _, f := range l.families {
		f.pending = append(f.pending, triggers[f.Family]...)
		f.pending = f.pending[:min(len(f.pending), maxPending)]
	}
	l.count()
	var before *desired.Facts
	if l.result != nil {
		before = l.result.Facts()
	}
	facts, warnings := l.takeFacts(before)
	in.Facts = facts
	l.problems.warn(logger, warnings)
	next := desired.Build(l.result, in)
	l.problems.report(logger, l.result, next)
	l.result = next
	l.published.Store(next)
	return nil
}

// counted is how many changes the metrics know of.
type counted struct{ services, endpoints uint64 }

func (l *Loop) count() {
	m, services, endpoints := l.options.Metrics, l.services.Total(), l.endpoints.Total()
	m.ServiceChanged(int(services - l.counted.services))
	m.EndpointChanged(int(endpoints - l.counted.endpoints))
	m.Pending(l.services.Pending(), l.endpoints.Pending())
	l.counted = counted{services, endpoints}
}

// apply makes the kernel follow one family's State, and tells everybody. It returns when to look again at what could not be done yet,
// though nothing failed; 0 if there is nothing.
func (l *Loop) apply(ctx context.Context, f *family, s *proxy.State) (again time.Duration, err error) {
	logger, m := klog.FromContext(ctx).WithValues("ipFamily", f.Family), l.options.Metrics
	again = l.inspect(ctx, f)
	rebuild, upTo := f.foreign.begin()
	if rebuild {
		f.backend.Forget()
		if f.applied != nil {
			f.reason = metrics.ReasonForeign
		}
	}
	start := time.Now()
	report, err := f.backend.Apply(ctx, s)
	took := time.Since(start)
	m.SyncObserved(f.Family, report.Full, took)
	m.Reported(f.Family, report)
	if report.Full {
		l.rebuilt(f, upTo, took)
	}
	if err != nil {
		l.failed(ctx, f, err)
		return again, err
	}
	f.reason = metrics.ReasonLayout
	m.SyncSucceeded(f.Family, time.Now())
	m.Applied(f.Family, report.Operations, len(report.Rejected))
	m.AffinityEntriesSwept(f.Family, report.Forgotten)
	l.options.Health.Updated(f.Family)
	l.problems.rejected(logger, f.Family, report.Rejected)
	if report.Operations > 0 {
		logger.V(2).Info("Synced", "full", report.Full, "operations", report.Operations, "duration", took, "services", s.Services.Len())
	}
	l.settle(f, s)
	if len(report.Rejected) > 0 {
		again = sooner(again, rejectedRetry)
	}
	return sooner(again, f.foreign.wait()), nil
}

// rebuilt counts a full sync, which has also undone what others did to the table before it began.
func (l *Loop) rebuilt(f *family, upTo uint64, took time.Duration) {
	l.options.Metrics.FullSync(f.Family, f.reason)
	if f.reason == metrics.ReasonForeign {
		l.options.Metrics.TableRepaired(f.Family)
	}
	f.foreign.rebuilt(upTo, took)
}

// failed tells everybody that a family's sync failed.
func (l *Loop) failed(ctx context.Context, f *family, err error) {
	if f.applied != nil {
		f.reason = metrics.ReasonError
	}
	l.options.Metrics.SyncFailed(f.Family)
	l.options.Health.Failed(f.Family, err)
	klog.FromContext(ctx).Error(err, "Sync failed; the kernel keeps the rules of before, and the sync is tried again", "ipFamily", f.Family)
}

// settle does what follows once the kernel follows a State.
func (l *Loop) settle(f *family, s *proxy.State) {
	now, m := time.Now(), l.options.Metrics
	for _, t := range f.pending {
		m.NetworkProgrammed(f.Family, now.Sub(t))
	}
	f.pending = f.pending[:0]
	before := f.applied
	if before == s {
		return
	}
	f.applied = s
	if before == nil {
		before = &proxy.State{Family: f.Family, Node: &proxy.Node{}}
	}
	changes := hamt.Diff(before.Services, s.Services, func(a, b *proxy.Service) bool { return a == b })
	f.sizes.change(changes)
	m.Sizes(f.Family, s.Services.Len(), f.sizes.endpoints, f.sizes.frontends)
	none := l.result.NoLocal[f.Family]
	m.NoLocalEndpoints(f.Family, none.Internal, none.External)
	if l.options.Services != nil {
		l.options.Services.SetAddrs(f.Family, s.Node.NodePorts.Any, s.Node.NodePorts.Addrs)
		l.options.Services.Sync(f.Family, s.HealthChecks)
	}
	f.flows.add(s.Node.NodePorts.Addrs, changes)
}

// sizes counts what a State has.
type sizes struct{ endpoints, frontends int }

func (s *sizes) change(changes []hamt.Change[proxy.ServicePortName, *proxy.Service]) {
	for _, c := range changes {
		if c.Had {
			s.endpoints -= len(c.Old.Serving)
			s.frontends -= len(c.Old.Frontends)
		}
		if c.Has {
			s.endpoints += len(c.New.Serving)
			s.frontends += len(c.New.Frontends)
		}
	}
}
