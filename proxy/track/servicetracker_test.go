package track

import (
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// TestIgnoredServices: each is ignored from the start, and removes the Service that it replaces.
func TestIgnoredServices(t *testing.T) {
	tests := map[string]func(*v1.Service){
		"clusterIP None": func(s *v1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = v1.ClusterIPNone, []string{v1.ClusterIPNone}
		},
		"clusterIP empty":          func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
		"type ExternalName":        func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeExternalName },
		"another proxy's":          func(s *v1.Service) { s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"} },
		"another proxy's, no name": func(s *v1.Service) { s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": ""} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			tr := NewServiceChangeTracker()
			tr.Set(object(change))
			if tr.Pending() != 0 || tr.Total() != 0 || tr.Snapshot().Len() != 0 {
				t.Error("it is not ignored")
			}
			tr.Set(object())
			if tr.Snapshot().Len() != 1 {
				t.Fatal("the Service is missing")
			}
			tr.Set(object(change))
			if tr.Pending() != 1 || tr.Snapshot().Len() != 0 {
				t.Error("it does not remove the Service")
			}
		})
	}
}

func TestServiceTracker(t *testing.T) {
	tr := NewServiceChangeTracker()
	check := func(what string, pending int, total uint64) {
		t.Helper()
		if tr.Pending() != pending || tr.Total() != total {
			t.Errorf("%s: pending %d, total %d, want %d, %d", what, tr.Pending(), tr.Total(), pending, total)
		}
	}
	other := func(s *v1.Service) { s.Spec.Ports[0].Port = 81 }
	tr.Set(object())
	check("set", 1, 1)
	first := tr.Snapshot()
	check("snapshot", 0, 1)
	rec, _ := first.Get(web)
	if d := cmp.Diff(record(nil), rec, equate); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	tr.Set(object())
	check("set to the same", 0, 2)
	tr.Set(object(other))
	check("changed", 1, 3)
	tr.Set(object())
	check("changed back", 0, 4)
	tr.Delete(web)
	check("deleted", 1, 5)
	tr.Delete(web)
	check("deleted twice", 1, 5)
	tr.Set(object())
	check("deleted and set again", 0, 6)
	if second := tr.Snapshot(); !second.Same(first) {
		t.Error("nothing changed, but the snapshot is another one")
	}

	tr.Set(object(other))
	third := tr.Snapshot()
	if got, _ := third.Get(web); got == rec || got.Ports[0].Port != 81 {
		t.Errorf("changed: got %v", got)
	}
	if got, _ := first.Get(web); got != rec || rec.Ports[0].Port != 80 {
		t.Error("the first snapshot was modified")
	}
	tr.Delete(proxy.ServiceName{Namespace: "default", Name: "unknown"})
	check("deleted what is unknown", 0, 7)
	tr.Delete(web)
	if tr.Snapshot().Len() != 0 {
		t.Error("deleted, but still there")
	}
}

// TestTrackersAreThreadSafe fails under the race detector if they are not.
func TestTrackersAreThreadSafe(t *testing.T) {
	services, endpoints := NewServiceChangeTracker(), NewEndpointsChangeTracker("n1")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				name := strconv.Itoa(g*50 + i)
				services.Set(object(func(s *v1.Service) { s.Name = name }))
				endpoints.Set(sliceObject(name, name, "10.1.0.1"))
				if i%2 == 0 {
					services.Delete(proxy.ServiceName{Namespace: "default", Name: name})
					endpoints.Delete("default", name)
				}
				_, _ = services.Pending(), endpoints.Pending()
				_, _ = services.Total(), endpoints.Total()
				services.Snapshot()
				endpoints.Snapshot()
			}
		})
	}
	wg.Wait()
	if e, _ := endpoints.Snapshot(); e.Len() != 100 || services.Snapshot().Len() != 100 {
		t.Errorf("got %d Services, %d Endpoints, want 100 of each", services.Snapshot().Len(), e.Len())
	}
}
