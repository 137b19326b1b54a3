package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	events "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"turnout/proxy"
)

// recorded runs use with a Recorder on a fake API server, and returns the events that are there afterwards.
func recorded(t *testing.T, use func(*Recorder, context.CancelFunc)) []events.Event {
	t.Helper()
	client := fake.NewClientset()
	var out []events.Event
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, err := NewRecorder(ctx, client, "kube-proxy", "n1")
		if err != nil {
			t.Fatal(err)
		}
		use(r, cancel)
		synctest.Wait()
		list, err := client.EventsV1().Events("").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out = list.Items
	})
	return out
}

func TestRecorder(t *testing.T) {
	got := recorded(t, func(r *Recorder, _ context.CancelFunc) {
		r.Event(r.Node(), v1.EventTypeNormal, "Starting", "StartKubeProxy", "100% %s")
		synctest.Wait()
		r.Event(ServiceRef(proxy.ServiceName{Namespace: "shop", Name: "web"}), v1.EventTypeWarning, "Bad", "Sync", strings.Repeat("ä", 1000))
		synctest.Wait()
		r.Event(Ref{Kind: "Service", Namespace: "shop", Name: "web"}, v1.EventTypeWarning, "Bad", "Sync", strings.Repeat("ä", 1000))
	})
	type event struct {
		Namespace, Type, Reason, Action, Controller string
		Regarding                                   v1.ObjectReference
		Count                                       int32
	}
	var events []event
	for _, e := range got {
		var count int32
		if e.Series != nil {
			count = e.Series.Count
		}
		events = append(events, event{e.Namespace, e.Type, e.Reason, e.Action, e.ReportingController, e.Regarding, count})
		if len(e.Note) > 1024 || !utf8.ValidString(e.Note) {
			t.Errorf("the API would refuse the note %q", e.Note)
		}
	}
	want := []event{
		{"default", "Normal", "Starting", "StartKubeProxy", "kube-proxy", v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1"}, 0},
		{"shop", "Warning", "Bad", "Sync", "kube-proxy", v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: "web"}, 2},
	}
	if d := cmp.Diff(want, events); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if len(got) > 0 && got[0].Note != "100% %s" {
		t.Errorf("note %q was formatted", got[0].Note)
	}
}

// Events about the same that say something else are events of their own, up to a limit: then they are counted.
func TestRecorderNotes(t *testing.T) {
	notes := map[string]int32{}
	for _, e := range recorded(t, func(r *Recorder, _ context.CancelFunc) {
		for i := range 3 * noteBurst {
			r.Event(r.Node(), v1.EventTypeNormal, "Changed", "Change", fmt.Sprintf("change %d", i))
			synctest.Wait()
			time.Sleep(time.Second) // events are named after their time
		}
		r.Event(r.Node(), v1.EventTypeNormal, "Other", "Change", "change 0")
		synctest.Wait()
		time.Sleep(time.Hour)
		r.Event(r.Node(), v1.EventTypeNormal, "Changed", "Change", "later")
	}) {
		if e.Regarding.FieldPath != "" {
			t.Errorf("event regards %q of the Node", e.Regarding.FieldPath)
		}
		notes[e.Reason+" "+e.Note] = 1
		if e.Series != nil {
			notes[e.Reason+" "+e.Note] = e.Series.Count
		}
	}
	want := map[string]int32{"Other change 0": 1, "Changed later": 1, fmt.Sprintf("Changed change %d", noteBurst): 2 * noteBurst}
	for i := range noteBurst {
		want[fmt.Sprintf("Changed change %d", i)] = 1
	}
	if d := cmp.Diff(want, notes); d != "" {
		t.Errorf("events and how often (-want +got):\n%s", d)
	}
}

func TestRecorderStops(t *testing.T) {
	got := recorded(t, func(r *Recorder, cancel context.CancelFunc) {
		cancel()
		time.Sleep(time.Second)
		r.Event(r.Node(), v1.EventTypeNormal, "Late", "Test", "")
	})
	if len(got) > 0 {
		t.Errorf("events after the end: %v", got)
	}
}

func TestShorten(t *testing.T) {
	for in, want := range map[string]int{"": 0, "a": 1, strings.Repeat("a", 1024): 1024, strings.Repeat("a", 1025): 1024, strings.Repeat("ä", 600): 1023, "\xff": 3} {
		if got := shorten(in); len(got) != want || !utf8.ValidString(got) {
			t.Errorf("%d bytes became %d, want %d", len(in), len(got), want)
		}
	}
}
