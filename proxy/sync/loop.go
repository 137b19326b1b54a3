package sync

import (
	"context"
	"slices"
	gosync "sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/metrics"
	"turnout/proxy/source"
	"turnout/proxy/track"
)

// Options are what a Loop works with. Everything but Conntrack, Services and Events is needed.
type Options struct {
	NodeName string
	Families []proxy.Family // in use
	Mode     Mode
	// Leave are modes of which an earlier process may have left rules. These are removed once those of Mode are there.
	Leave   []Mode
	Facts   FactsConfig
	Timing  Timing
	Metrics *metrics.Metrics
	Health  *healthcheck.ProxyHealth
	// Services serve the health-check node ports; nil if nothing should.
	Services *healthcheck.Services
	// Conntrack has what removes stale flows of each family.
	Conntrack map[proxy.Family]FlowCleaner
	Events    Events
}

// Timing says when the loop works.
type Timing struct {
	// Quiet is how long no further change must come before a sync starts, and MaxDelay how long a change waits at most.
	Quiet, MaxDelay time.Duration
	// MinPeriod is the least time between the starts of two syncs; 0 for none.
	MinPeriod time.Duration
	// MaxRetry bounds the delay before a failed sync is tried again, which begins at 100 ms and doubles. An Inspector is asked as often.
	MaxRetry time.Duration
}

const (
	firstRetry = 100 * time.Millisecond
	// changeRetry is how long changes wait at most while syncs fail: one of them may be the cure.
	changeRetry = time.Second
	// rejectedRetry is when Services that the kernel refused are tried again.
	rejectedRetry = 30 * time.Second
	// repairShare bounds the time spent on repairing a table that somebody else keeps changing to a fifth.
	repairShare = 4
)

// Events tells users about Services and the node. Calls must return quickly.
type Events interface {
	// Service reports a problem of a Service, reason being in CamelCase.
	Service(name proxy.ServiceName, reason, note string)
}

// Loop brings objects to the kernel. It is a source.Sink; Run does the work.
type Loop struct {
	options    Options
	services   *track.ServiceChangeTracker
	endpoints  *track.EndpointsChangeTracker
	inputs     inputs
	wake       chan struct{}
	synced     chan struct{} // closed by Synced, once
	programmed chan struct{} // closed once the kernel follows a State of each family
	once       gosync.Once
	families   []*family // in use, in order

	published atomic.Pointer[desired.Result] // the same as result, for others to read
	next      atomic.Pointer[handover]       // nil if the mode stays
	retirees  gosync.WaitGroup

	// Owned by Run.
	mode        Mode
	retirements []*retirement
	result      *desired.Result
	counted     counted
	problems    problemLog
}

var _ source.Sink = (*Loop)(nil)

// New returns a Loop that knows no objects yet.
func New(o Options) *Loop {
	l := &Loop{
		options: o, services: track.NewServiceChangeTracker(), endpoints: track.NewEndpointsChangeTracker(o.NodeName),
		inputs: newInputs(o.Facts, o.Timing), wake: make(chan struct{}, 1), synced: make(chan struct{}), programmed: make(chan struct{}), problems: newProblemLog(o.Events), mode: o.Mode,
	}
	for _, f := range o.Families {
		l.families = append(l.families, newFamily(f, &o))
	}
	return l
}

// Run works until the context ends; the rules stay as they are then. It writes nothing before Synced was called.
func (l *Loop) Run(ctx context.Context) {
	l.options.Metrics.InUse(l.mode.Name, l.mode.Backends)
	for _, f := range l.families {
		defer f.flows.run(ctx)()
	}
	defer l.retirees.Wait()
	select {
	case <-l.synced:
	case <-ctx.Done():
		return
	}
	l.options.Health.SourcesSynced()
	klog.FromContext(ctx).Info("All Services and EndpointSlices were delivered", "services", l.services.Pending())
	var retry backOff
	for {
		started := time.Now()
		retry.max = l.timing().MaxRetry
		again := l.sync(ctx, &retry)
		if !l.wait(ctx, started, again, retry.next) {
			return
		}
	}
}

// wait returns when the sync after the last one should start: after a change and a quiet moment, or when again has passed (never if it
// is 0). failing is the present delay between attempts if syncs fail, else 0. It returns false if the context ended.
func (l *Loop) wait(ctx context.Context, last time.Time, again, failing time.Duration) bool {
	var timer <-chan time.Time
	if again > 0 {
		t := time.NewTimer(max(again, l.timing().MinPeriod-time.Since(last)))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-timer:
		return true
	case <-l.wake:
	}
	for _, f := range l.families {
		l.options.Metrics.SyncQueued(f.Family, time.Now())
		l.options.Health.QueuedUpdate(f.Family)
	}
	l.options.Metrics.Pending(l.services.Pending(), l.endpoints.Pending())
	return l.coalesce(ctx, last, failing)
}

// coalesce waits until no change has come for a while, but not for too long, and in any case until enough time has passed since the last
// sync. A table that somebody else changed is repaired without a quiet moment: as long as it is gone, the kernel translates nothing.
func (l *Loop) coalesce(ctx context.Context, last time.Time, failing time.Duration) bool {
	first := time.Now()
	for {
		t := l.timing() // anew: what woke the loop may have been a change of it
		wait := time.Until(last.Add(max(t.MinPeriod, min(failing, changeRetry))))
		if wait <= 0 && l.repairDue() {
			return true
		}
		timer := time.NewTimer(max(wait, min(t.Quiet, time.Until(first.Add(t.MaxDelay)))))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			return true
		case <-l.wake:
			timer.Stop()
		}
	}
}

// repairDue tells that a table must be rebuilt now.
func (l *Loop) repairDue() bool {
	return slices.ContainsFunc(l.families, func(f *family) bool { rebuild, _ := f.foreign.begin(); return rebuild })
}

// Wake has the loop look for changes.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Delivered is closed when all Services and EndpointSlices that exist were delivered.
func (l *Loop) Delivered() <-chan struct{} { return l.synced }

// Programmed is closed when the kernel follows a State of each family for the first time.
func (l *Loop) Programmed() <-chan struct{} { return l.programmed }

// announce closes Programmed when it is time. Then other modes' rules are of no use any longer, unless one of these modes is just being made to take over.
func (l *Loop) announce(ctx context.Context) {
	if slices.ContainsFunc(l.families, func(f *family) bool { return f.applied == nil }) {
		return
	}
	select {
	case <-l.programmed:
	default:
		close(l.programmed)
	}
	if l.next.Load() != nil {
		return
	}
	for _, m := range l.options.Leave {
		l.retire(ctx, m)
	}
	l.options.Leave = nil
}

// States returns the States that the kernel should follow, which is nothing before the first sync.
func (l *Loop) States() (out []*proxy.State) {
	r := l.published.Load()
	if r == nil {
		return nil
	}
	for _, f := range l.families {
		out = append(out, r.States[f.Family])
	}
	return out
}

// backOff doubles a delay from one failure to the next.
type backOff struct{ next, max time.Duration }

func (b *backOff) after(failed bool) time.Duration {
	if !failed {
		b.next = 0
		return 0
	}
	b.next = min(max(firstRetry, 2*b.next), max(firstRetry, b.max))
	return b.next
}

// sooner returns the lesser of two delays, of which 0 stands for never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
