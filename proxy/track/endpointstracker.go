package track

import (
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// EndpointsChangeTracker accumulates changes of EndpointSlices. All methods may be called from any goroutine.
type EndpointsChangeTracker struct {
	node  string
	start time.Time // changes triggered before are none of ours to measure

	mu        sync.Mutex // guards all below
	slices    map[sliceKey]*slice
	byService map[proxy.ServiceName][]*slice
	dirty     map[proxy.ServiceName]struct{} // Services whose merged record may be outdated
	triggers  map[sliceKey]trigger
	merged    hamt.Map[proxy.ServiceName, *Endpoints]
	pending   int
	total     uint64
}

type sliceKey struct{ namespace, name string }

// trigger has the times at which what is behind a slice changed.
type trigger struct {
	family proxy.Family
	times  []time.Time
}

// Triggers are the times at which pods or Services changed, of each family, unordered: one for each EndpointSlice change that
// says so in annotation endpoints.kubernetes.io/last-change-trigger-time. When the kernel follows, the time that passed is the
// programming latency.
type Triggers map[proxy.Family][]time.Time

// NewEndpointsChangeTracker returns a tracker that knows no EndpointSlice yet. Endpoints on the named node are local.
func NewEndpointsChangeTracker(nodeName string) *EndpointsChangeTracker {
	return &EndpointsChangeTracker{
		node: nodeName, start: time.Now(),
		slices: map[sliceKey]*slice{}, byService: map[proxy.ServiceName][]*slice{},
		dirty: map[proxy.ServiceName]struct{}{}, triggers: map[sliceKey]trigger{},
	}
}

// Set adds or replaces an EndpointSlice. Setting one of a headless Service, of no Service or of address type FQDN is the same
// as deleting it. The object is not kept.
func (t *EndpointsChangeTracker) Set(o *discovery.EndpointSlice) {
	service, ok := serviceOf(o)
	if !ok {
		t.Delete(o.Namespace, o.Name)
		return
	}
	s := newSlice(o, service, t.node)
	key := sliceKey{service.Namespace, o.Name}
	at, timed := triggerTime(o)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	old := t.slices[key]
	if s.equal(old) {
		return
	}
	t.lockedReplace(key, old, s)
	if timed && s.family != 0 && at.After(t.start) {
		tr := t.triggers[key]
		t.triggers[key] = trigger{family: s.family, times: append(tr.times, at)}
	}
}

// Delete removes an EndpointSlice; nothing happens if there is none of that name. What it has to tell about programming
// latency is forgotten, since the time of its last change says nothing about its end.
func (t *EndpointsChangeTracker) Delete(namespace, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := sliceKey{namespace, name}
	old := t.slices[key]
	if old == nil {
		return
	}
	t.total++
	t.lockedReplace(key, old, nil)
	delete(t.triggers, key)
}

// lockedReplace puts one slice in the place of another; either may be nil.
func (t *EndpointsChangeTracker) lockedReplace(key sliceKey, old, s *slice) {
	t.pending++
	if old != nil {
		t.dirty[old.service] = struct{}{}
		list := t.byService[old.service]
		list = slices.DeleteFunc(list, func(x *slice) bool { return x == old })
		if len(list) == 0 {
			delete(t.byService, old.service)
		} else {
			t.byService[old.service] = list
		}
	}
	if s == nil {
		delete(t.slices, key)
		return
	}
	t.slices[key] = s
	t.dirty[s.service] = struct{}{}
	t.byService[s.service] = append(t.byService[s.service], s)
}

func triggerTime(o *discovery.EndpointSlice) (time.Time, bool) {
	text, ok := o.Annotations[v1.EndpointsLastChangeTriggerTime]
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return at, err == nil
}

// Pending returns the number of EndpointSlice changes since the last Snapshot.
func (t *EndpointsChangeTracker) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending
}

// Total returns the number of changes that were delivered so far, those without effect included.
func (t *EndpointsChangeTracker) Total() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Snapshot returns the merged records of all Services that have EndpointSlices as they are now, and what triggered the changes
// since the last Snapshot. It merges only what changed, shares structure with the previous Snapshot, and an unchanged record
// keeps its pointer.
func (t *EndpointsChangeTracker) Snapshot() (hamt.Map[proxy.ServiceName, *Endpoints], Triggers) {
	t.mu.Lock()
	defer t.mu.Unlock()
	merged := t.merged.Edit()
	for name := range t.dirty {
		t.lockedMerge(merged, name)
	}
	out := Triggers{}
	for _, tr := range t.triggers {
		out[tr.family] = append(out[tr.family], tr.times...)
	}
	t.merged, t.dirty, t.triggers = merged.Map(), emptied(t.dirty), emptied(t.triggers)
	t.pending = 0
	return t.merged, out
}

func (t *EndpointsChangeTracker) lockedMerge(merged *hamt.Builder[proxy.ServiceName, *Endpoints], name proxy.ServiceName) {
	list := t.byService[name]
	if len(list) == 0 {
		merged.Delete(name)
		return
	}
	e := merge(name, list)
	if old, _ := merged.Get(name); !e.Equal(old) {
		merged.Set(name, e)
	}
}
