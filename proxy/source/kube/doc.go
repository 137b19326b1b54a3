// Package kube is a source.Source that watches the Kubernetes API server, with the few other things that a proxy asks of it: a
// client, the own Node at start, and events.
package kube
