package track

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
)

func TestEndpointsTracker(t *testing.T) {
	tr := NewEndpointsChangeTracker("n1")
	check := func(what string, pending int, total uint64) {
		t.Helper()
		if tr.Pending() != pending || tr.Total() != total {
			t.Errorf("%s: pending %d, total %d, want %d, %d", what, tr.Pending(), tr.Total(), pending, total)
		}
	}
	snapshot := func(what string, want ...string) *Endpoints {
		t.Helper()
		m, _ := tr.Snapshot()
		e, _ := m.Get(web)
		if d := cmp.Diff(want, lines(e), equate); d != "" {
			t.Errorf("%s: -want +got:\n%s", what, d)
		}
		return e
	}
	one, two := "http/TCP 10.1.0.1:8080 RS", "http/TCP 10.1.0.2:8080 RS"

	tr.Set(sliceObject("web", "a", "10.1.0.1"))
	tr.Set(sliceObject("web", "b", "10.1.0.2"))
	check("set two", 2, 2)
	first := snapshot("two slices", one, two)
	check("snapshot", 0, 2)

	tr.Set(sliceObject("web", "a", "10.1.0.1"))
	check("set to the same", 0, 3)
	tr.Set(sliceObject("web", "a", "10.1.0.1", "10.1.0.2"))
	tr.Set(sliceObject("web", "b"))
	check("an endpoint moved to the other slice", 2, 5)
	if e := snapshot("moved", one, two); e != first {
		t.Error("equal contents, but another record")
	}

	tr.Set(sliceObject("other", "a", "10.1.0.1"))
	check("label changed", 1, 6)
	snapshot("the slice is another Service's now")
	m, _ := tr.Snapshot()
	if e, _ := m.Get(proxy.ServiceName{Namespace: "default", Name: "other"}); len(lines(e)) != 1 {
		t.Error("the other Service does not have the slice")
	}
	if d := cmp.Diff([]string{one, two}, lines(first)); d != "" {
		t.Errorf("an old record was modified: -want +got:\n%s", d)
	}

	tr.Delete("default", "unknown")
	check("deleted what is unknown", 0, 6)
	tr.Delete("default", "b")
	check("deleted the last slice", 1, 7)
	headless := sliceObject("other", "a", "10.1.0.1")
	headless.Labels[v1.IsHeadlessService] = ""
	tr.Set(headless)
	check("a slice is ignored from now on", 2, 8)
	if m, _ := tr.Snapshot(); m.Len() != 0 {
		t.Errorf("%d records are left", m.Len())
	}
}

func TestSlicesOfOtherNamespaces(t *testing.T) {
	tr := NewEndpointsChangeTracker("n1")
	tr.Set(sliceObject("web", "a", "10.1.0.1"))
	foreign := sliceObject("web", "a", "10.1.0.2")
	foreign.Namespace = "kube-system"
	tr.Set(foreign)
	tr.Delete("kube-system", "b")
	m, _ := tr.Snapshot()
	e, _ := m.Get(web)
	if d := cmp.Diff([]string{"http/TCP 10.1.0.1:8080 RS"}, lines(e)); d != "" || m.Len() != 2 {
		t.Errorf("%d records; -want +got:\n%s", m.Len(), d)
	}
}

func TestTriggers(t *testing.T) {
	tr := NewEndpointsChangeTracker("n1")
	after := func(d time.Duration) time.Time { return tr.start.Add(d).Round(0).UTC() }
	timed := func(s *discovery.EndpointSlice, at string) *discovery.EndpointSlice {
		s.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: at}
		return s
	}
	text := func(d time.Duration) string { return after(d).Format(time.RFC3339Nano) }
	want := func(what string, v4, v6 []time.Time) {
		t.Helper()
		_, got := tr.Snapshot()
		for _, times := range got {
			slices.SortFunc(times, time.Time.Compare)
		}
		if d := cmp.Diff(Triggers{proxy.IPv4: v4, proxy.IPv6: v6}, Triggers{proxy.IPv4: got[proxy.IPv4], proxy.IPv6: got[proxy.IPv6]}, equate); d != "" {
			t.Errorf("%s: -want +got:\n%s", what, d)
		}
	}
	tr.Set(timed(sliceObject("web", "a", "10.1.0.1"), text(1*time.Second)))
	tr.Set(timed(sliceObject("web", "a", "10.1.0.2"), text(2*time.Second)))
	tr.Set(timed(sliceObject("web", "b", "fd00::1"), text(3*time.Second)))
	want("a sample for each change, per family", []time.Time{after(time.Second), after(2 * time.Second)}, []time.Time{after(3 * time.Second)})
	want("each once", nil, nil)

	tr.Set(timed(sliceObject("web", "a", "10.1.0.2"), text(4*time.Second)))
	want("none for an update that changes no endpoint", nil, nil)
	tr.Set(timed(sliceObject("web", "a", "10.1.0.3"), text(-time.Second)))
	want("none for changes before the start", nil, nil)
	tr.Set(timed(sliceObject("web", "a", "10.1.0.4"), "yesterday"))
	tr.Set(sliceObject("web", "b", "fd00::2"))
	want("none for unreadable or missing times", nil, nil)
	tr.Set(timed(sliceObject("web", "a", "10.1.0.5"), text(5*time.Second)))
	tr.Set(timed(sliceObject("web", "b", "fd00::3"), text(6*time.Second)))
	tr.Delete("default", "a")
	want("none for deletions", nil, []time.Time{after(6 * time.Second)})
}

// TestSnapshotMergesOnlyWhatChanged: all other records keep their pointers.
func TestSnapshotMergesOnlyWhatChanged(t *testing.T) {
	tr := NewEndpointsChangeTracker("n1")
	for i := range 100 {
		tr.Set(sliceObject(strconv.Itoa(i), strconv.Itoa(i), "10.1.0.1"))
	}
	before, _ := tr.Snapshot()
	tr.Set(sliceObject("17", "17", "10.1.0.2"))
	after, _ := tr.Snapshot()
	for name, e := range before.All() {
		if now, _ := after.Get(name); (now == e) != (name.Name != "17") {
			t.Errorf("%s: same is %t", name, now == e)
		}
	}
}

func BenchmarkTrackers(b *testing.B) {
	const n = 10_000
	services, eps := make([]*v1.Service, n), make([]*discovery.EndpointSlice, n)
	for i := range n {
		name := strconv.Itoa(i)
		services[i] = object(func(s *v1.Service) { s.Name = name })
		eps[i] = sliceObject(name, name, "10.1.0.1 on=n1 zone=z1", "10.1.0.2 zone=z1", "10.1.0.3 zone=z2", "10.1.0.4", "10.1.0.5")
	}
	b.ReportAllocs()
	for b.Loop() {
		s, e := NewServiceChangeTracker(), NewEndpointsChangeTracker("n1")
		for i := range n {
			s.Set(services[i])
			e.Set(eps[i])
		}
		if m, _ := e.Snapshot(); m.Len() != n || s.Snapshot().Len() != n {
			b.Fatal("records are missing")
		}
	}
}
