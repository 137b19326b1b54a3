package kube

import (
	"context"
	"strings"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

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
}

// maxNote is the API's limit for the length of a note, in bytes.
const maxNote = 1024

// NewRecorder returns a Recorder that writes events as component until ctx ends; node is the name of the own Node. It can be
// used at once: writing is done in the background and given up after a few failures.
func NewRecorder(ctx context.Context, client kubernetes.Interface, component, node string) (*Recorder, error) {
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, b.Shutdown)
	return &Recorder{node: node, recorder: b.NewRecorder(scheme.Scheme, component)}, nil
}

// Event records that something happened to an object. The kind of event is "Normal" or "Warning"; reason and action are in
// CamelCase: why it happened, and what was done or tried. Equal events but for the note are counted, not repeated.
func (r *Recorder) Event(regarding Ref, kind, reason, action, note string) {
	ref := &v1.ObjectReference{
		APIVersion: "v1", Kind: regarding.Kind, Namespace: regarding.Namespace, Name: regarding.Name, UID: types.UID(regarding.UID),
	}
	r.recorder.Eventf(ref, nil, kind, reason, action, "%s", shorten(note))
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
