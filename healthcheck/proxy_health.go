package healthcheck

import (
	"sync"
	"time"

	"turnout/proxy"
)

// ToBeDeletedTaint is the key of the taint that the cluster autoscaler puts on a node that it is about to remove, whatever the
// effect. Load balancers should send no new connections to such a node (KEP-3836).
const ToBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// NodeFacts is what the health server needs to know of the own Node object. The zero value is a Node that is not known.
type NodeFacts struct {
	Known    bool // the Node object exists
	Deleting bool // it has a deletion timestamp
	Tainted  bool // it has a taint with the key ToBeDeletedTaint
}

func (n NodeFacts) eligible() bool { return n.Known && !n.Deleting && !n.Tainted }

// Answers counts answers by HTTP status code.
type Answers interface {
	HealthzAnswered(code int)
	LivezAnswered(code int)
}

// ProxyHealthOptions are the settings of a ProxyHealth.
type ProxyHealthOptions struct {
	// Timeout is how long a change may wait for a successful sync before the family is unhealthy: kube-proxy takes twice
	// the sync period.
	Timeout time.Duration
	// Families are those in use.
	Families []proxy.Family
	// Answers may be nil.
	Answers Answers
	// Now is time.Now if nil.
	Now func() time.Time
}

// ProxyHealth knows how well the proxy does. All methods may be called from any goroutine. Families that are not in use are
// ignored.
type ProxyHealth struct {
	mu       sync.Mutex // guards what follows
	opts     ProxyHealthOptions
	node     NodeFacts
	synced   bool
	families map[proxy.Family]*familyHealth
}

type familyHealth struct {
	updated    time.Time // the last successful sync; at first the start of the process
	pending    time.Time // since when something waits to be programmed; zero if nothing does
	programmed bool      // a sync succeeded
	err        error     // of the last sync
}

// NewProxyHealth returns the health of a proxy that is just starting: healthy and not ready. As in kube-proxy the start
// counts as an update of each family.
func NewProxyHealth(o ProxyHealthOptions) *ProxyHealth {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &ProxyHealth{opts: o, families: map[proxy.Family]*familyHealth{}}
	start := o.Now()
	for _, f := range o.Families {
		h.families[f] = &familyHealth{updated: start}
	}
	return h
}

// SetTimeout replaces the timeout of the options.
func (h *ProxyHealth) SetTimeout(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opts.Timeout = d
}

// SourcesSynced tells that all Services and EndpointSlices were delivered. From now on each family waits for its first
// successful sync: if that takes longer than the timeout the proxy is unhealthy, even if no change is ever queued.
func (h *ProxyHealth) SourcesSynced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.synced {
		return
	}
	h.synced = true
	for _, f := range h.families {
		if !f.programmed {
			f.lockedWait(h.opts.Now())
		}
	}
}

// QueuedUpdate tells that a change waits to be programmed.
func (h *ProxyHealth) QueuedUpdate(family proxy.Family) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.families[family]; f != nil {
		f.lockedWait(h.opts.Now())
	}
}

// Updated tells that a sync succeeded: nothing waits any more.
func (h *ProxyHealth) Updated(family proxy.Family) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.families[family]; f != nil {
		*f = familyHealth{updated: h.opts.Now(), programmed: true}
	}
}

// Failed tells that a sync failed, whatever it was for: a change, the first sync, or a periodic one.
func (h *ProxyHealth) Failed(family proxy.Family, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.families[family]; f != nil {
		f.err = err
		f.lockedWait(h.opts.Now())
	}
}

// SetNode replaces what is known of the own Node object.
func (h *ProxyHealth) SetNode(n NodeFacts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.node = n
}

// Healthy tells whether no family has waited too long for a successful sync. The Node object does not matter.
func (h *ProxyHealth) Healthy() bool {
	return h.health().Healthy
}

// lockedWait keeps the oldest time.
func (f *familyHealth) lockedWait(now time.Time) {
	if f.pending.IsZero() {
		f.pending = now
	}
}
