package main

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/source"
	"turnout/proxy/source/dir"
)

// feed is where objects come from, and where events about them go.
type feed struct {
	source source.Source
	events serviceEvents
	// nodeEvent reports an event of the own Node.
	nodeEvent func(e nodeEvent)
	// check tells whether a process with another configuration could make its client.
	check func(cfg *config.Config) error
	node  *v1.Node // the own Node as it was at the start; nil if it is not known
	// started is called when everything runs.
	started func(ctx context.Context)
}

// label is the mode that the own Node's label asked for at the start; "" if it asked for none.
func (f *feed) label() string {
	if f.node == nil {
		return ""
	}
	return f.node.Labels[labelMode]
}

// nodeEvent is an event of the own Node.
type nodeEvent struct {
	kind           string // v1.EventTypeNormal or v1.EventTypeWarning
	reason, action string // in CamelCase
	note           string
}

// serverFailed is the event of a server that does not start.
func serverFailed(reason string, err error) nodeEvent {
	return nodeEvent{v1.EventTypeWarning, reason, "StartKubeProxy", err.Error()}
}

// serviceEvents reports events of Services. It implements sync.Events.
type serviceEvents func(name proxy.ServiceName, reason, note string)

// Service is part of sync.Events.
func (e serviceEvents) Service(name proxy.ServiceName, reason, note string) { e(name, reason, note) }

// newFeed connects to the API server, or to the folder that takes its place.
func newFeed(ctx context.Context, d *daemon) (*feed, error) {
	if d.cfg.Manifests != "" {
		return newFolderFeed(ctx, d)
	}
	return newClusterFeed(ctx, d)
}

// newFolderFeed reads manifests. There is no API for events: what they would say is logged by those who report them.
func newFolderFeed(ctx context.Context, d *daemon) (*feed, error) {
	s, err := dir.New(d.cfg.Manifests, dir.Options{NodeName: d.nodeName, OnProblems: func(p []dir.Problem) { d.metrics.ManifestProblemsFound(len(p)) }})
	if err != nil {
		return nil, err
	}
	// What is wrong with the objects is told by the source, which reads them again.
	objects, _, err := dir.Load(d.cfg.Manifests, d.nodeName)
	if err != nil {
		return nil, err
	}
	logger := klog.FromContext(ctx)
	return &feed{
		node:      objects.Node,
		source:    s,
		events:    func(proxy.ServiceName, string, string) {},
		nodeEvent: func(e nodeEvent) { logger.Info("Node event", "reason", e.reason, "note", e.note) },
		started:   func(context.Context) {},
		check:     func(*config.Config) error { return nil },
	}, nil
}
