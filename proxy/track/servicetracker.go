package track

import (
	"sync"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// ServiceChangeTracker accumulates changes of Services. All methods may be called from any goroutine.
type ServiceChangeTracker struct {
	mu      sync.Mutex // guards all below
	current hamt.Map[proxy.ServiceName, *Service]
	pending map[proxy.ServiceName]*Service // what differs from current; nil for what is gone
	total   uint64
}

// NewServiceChangeTracker returns a tracker that knows no Service yet.
func NewServiceChangeTracker() *ServiceChangeTracker {
	return &ServiceChangeTracker{pending: map[proxy.ServiceName]*Service{}}
}

// Set adds or replaces a Service. Headless Services, those of type ExternalName and those with label
// service.kubernetes.io/service-proxy-name are not served: setting one is the same as deleting it. The object is not kept.
func (t *ServiceChangeTracker) Set(o *v1.Service) {
	if ignored(o) {
		t.Delete(proxy.ServiceName{Namespace: o.Namespace, Name: o.Name})
		return
	}
	s := newService(o)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	t.lockedSet(s.Name, s)
}

// Delete removes a Service; nothing happens if there is none of that name.
func (t *ServiceChangeTracker) Delete(name proxy.ServiceName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, changed := t.pending[name]
	if !changed {
		s, _ = t.current.Get(name)
	}
	if s == nil {
		return
	}
	t.total++
	t.lockedSet(name, nil)
}

func (t *ServiceChangeTracker) lockedSet(name proxy.ServiceName, s *Service) {
	if old, _ := t.current.Get(name); s.Equal(old) {
		delete(t.pending, name) // as it was: the old record and its pointer stay
		return
	}
	t.pending[name] = s
}

// Pending returns the number of Services that differ from the last Snapshot.
func (t *ServiceChangeTracker) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pending)
}

// Total returns the number of changes that were delivered so far, those without effect included.
func (t *ServiceChangeTracker) Total() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Snapshot returns the records of all Services as they are now. It shares structure with the previous Snapshot, and an
// unchanged record keeps its pointer.
func (t *ServiceChangeTracker) Snapshot() hamt.Map[proxy.ServiceName, *Service] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return t.current
	}
	current := t.current.Edit()
	for name, s := range t.pending {
		if s == nil {
			current.Delete(name)
		} else {
			current.Set(name, s)
		}
	}
	t.current, t.pending = current.Map(), emptied(t.pending)
	return t.current
}

// emptied returns an empty map: the same, or a new one if it has been large, for it would stay so, and clearing it would take time each
// time.
func emptied[K comparable, V any](m map[K]V) map[K]V {
	const large = 64
	if len(m) > large {
		return map[K]V{}
	}
	clear(m)
	return m
}
