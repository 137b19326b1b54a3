package kube

import (
	"context"
	"strings"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	corerecord "k8s.io/client-go/tools/record" // of the older API for events
	"k8s.io/utils/clock"

	"turnout/proxy"
)

// Ref names the object that an event is about.
type Ref struct {
	Kind, Namespace, Name string
	// UID may be empty.
	UID string
}

// Recorder writes events through the API group events.k8s.io.
type Recorder struct {
	node     string
	recorder events.EventRecorder
	// many tells which events are too many to be told apart by their notes.
	many *corerecord.EventSourceObjectSpamFilter
}

// maxNote is the API's limit for the length of a note, in bytes.
const maxNote = 1024

const (
	// noteBurst and noteRate (in Hz) are how many events about one object for one reason are told apart by their notes: what changes all the time must not become an
	// event each time.
	noteBurst = 10
	noteRate  = 1. / 60
	// noteObjects is of how many objects and reasons is known how many there were.
	noteObjects = 4096
)

// NewRecorder returns a Recorder that writes events as component until ctx ends; node is the name of the own Node. It can be
// used at once: writing is done in the background and given up after a few failures.
func NewRecorder(ctx context.Context, client kubernetes.Interface, component, node string) (*Recorder, error) {
	b := events.NewBroadcaster(sink{&events.EventSinkImpl{Interface: client.EventsV1()}})
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, b.Shutdown)
	many := corerecord.NewEventSourceObjectSpamFilter(noteObjects, noteBurst, noteRate, clock.RealClock{}, func(e *v1.Event) string {
		return e.Reason + " " + e.InvolvedObject.String()
	})
	return &Recorder{node: node, recorder: b.NewRecorder(scheme.Scheme, component), many: many}, nil
}

// Event records that something happened to an object. The kind of event is "Normal" or "Warning"; reason and action are in
// CamelCase: why it happened, and what was done or tried. Equal events are counted, not repeated; of too many that differ only in their notes, those that are too many are
// counted, too.
func (r *Recorder) Event(regarding Ref, kind, reason, action, note string) {
	ref := &v1.ObjectReference{
		APIVersion: "v1", Kind: regarding.Kind, Namespace: regarding.Namespace, Name: regarding.Name, UID: types.UID(regarding.UID),
	}
	note = shorten(note)
	if !r.many.Filter(&v1.Event{Reason: reason, InvolvedObject: *ref}) {
		ref.FieldPath = note // see sink
	}
	r.recorder.Eventf(ref, nil, kind, reason, action, "%s", note)
}

// A sink is where events go. The library takes events that are equal but for the note for one and keeps the first one's note, which is wrong when something else has
// happened since. So each event comes with its note where the library looks for differences, in a field that has no meaning for a whole object and is emptied here.
type sink struct{ events.EventSink }

// Create is part of events.EventSink.
func (s sink) Create(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	e = e.DeepCopy()
	e.Regarding.FieldPath = ""
	return s.EventSink.Create(ctx, e)
}

// Node refers to the own Node. The UID is the name: kubectl describe node looks for events with that.
func (r *Recorder) Node() Ref { return Ref{Kind: "Node", Name: r.node, UID: r.node} }

// ServiceRef refers to a Service.
func ServiceRef(name proxy.ServiceName) Ref {
	return Ref{Kind: "Service", Namespace: name.Namespace, Name: name.Name}
}

// shorten cuts a note that the API would refuse.
func shorten(note string) string {
	note = strings.ToValidUTF8(note, "�")
	if len(note) <= maxNote {
		return note
	}
	const end = "…"
	cut := maxNote - len(end)
	for !utf8.RuneStart(note[cut]) {
		cut--
	}
	return note[:cut] + end
}
