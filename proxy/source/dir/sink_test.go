package dir

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"

	"turnout/proxy"
)

// memory is a sink that keeps what it was given, as text.
type memory struct {
	t       *testing.T
	mu      sync.Mutex // guards the rest
	objects map[string]string
	calls   int
	synced  int
}

func newMemory(t *testing.T) *memory {
	return &memory{t: t, objects: map[string]string{}}
}

func (m *memory) set(name, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[name] = value
	m.calls++
}

func (m *memory) remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; !ok {
		m.t.Errorf("delete of %s, which was not set", name)
	}
	delete(m.objects, name)
	m.calls++
}

func (m *memory) SetService(s *v1.Service) {
	m.set("Service "+s.Namespace+"/"+s.Name, s.Spec.ClusterIP)
}
func (m *memory) DeleteService(n proxy.ServiceName) { m.remove("Service " + n.String()) }
func (m *memory) SetEndpointSlice(s *discovery.EndpointSlice) {
	m.set("EndpointSlice "+s.Namespace+"/"+s.Name, string(s.AddressType))
}
func (m *memory) DeleteEndpointSlice(namespace, name string) {
	m.remove("EndpointSlice " + namespace + "/" + name)
}
func (m *memory) SetNode(n *v1.Node) { m.set("Node", n.Name) }
func (m *memory) DeleteNode()        { m.remove("Node") }
func (m *memory) SetServiceCIDR(c *networking.ServiceCIDR) {
	m.set("ServiceCIDR "+c.Name, strings.Join(c.Spec.CIDRs, ","))
}
func (m *memory) DeleteServiceCIDR(name string) { m.remove("ServiceCIDR " + name) }
func (m *memory) Synced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced++
	m.calls++
}

// dump returns all objects, and "synced" for each call of Synced.
func (m *memory) dump() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		out = append(out, name+" "+m.objects[name])
	}
	for range m.synced {
		out = append(out, "synced")
	}
	return out
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// want waits until the sink has exactly these objects.
func (m *memory) want(want ...string) {
	m.t.Helper()
	m.until(func() bool { return slices.Equal(m.dump(), want) }, func() string { return cmp.Diff(want, m.dump()) })
}

func (m *memory) until(done func() bool, explain func() string) {
	m.t.Helper()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			m.t.Fatalf("did not come about (-want +got):\n%s", explain())
		}
	}
}

// mailbox keeps the problems last told.
type mailbox struct {
	mu       sync.Mutex // guards problems
	problems []Problem
}

func (b *mailbox) put(p []Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = p
}

func (b *mailbox) texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return textsOf(b.problems)
}

// start runs a Source on the folder until the test ends. Nothing but inotify tells it of changes, unless tune says so.
func start(t *testing.T, folder string, tune func(*Source)) (*memory, *mailbox) {
	t.Helper()
	m, b := newMemory(t), &mailbox{}
	s, err := New(folder, Options{NodeName: "n1", Settle: 5 * time.Millisecond, OnProblems: b.put})
	if err != nil {
		t.Fatal(err)
	}
	s.audit = time.Hour
	if tune != nil {
		tune(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, m) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	m.until(func() bool { return m.count() > 0 }, func() string { return "Synced was not called" })
	return m, b
}
