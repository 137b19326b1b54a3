// Package source is the seam between where API objects come from and the proxy: a Source delivers Services, EndpointSlices,
// the own Node and ServiceCIDRs to a Sink.
package source

import (
	"context"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"

	"turnout/proxy"
)

// Source delivers objects to a Sink until the context ends. It has delivered everything that existed at start before it
// calls Synced; it retries by itself whatever may succeed later, and returns an error only for what never can.
type Source interface {
	Run(ctx context.Context, sink Sink) error
}

// Sink receives objects. Set adds or replaces; objects must not be modified afterwards. Calls may come from several
// goroutines, and return quickly.
type Sink interface {
	SetService(*v1.Service)
	DeleteService(proxy.ServiceName)
	SetEndpointSlice(*discovery.EndpointSlice)
	DeleteEndpointSlice(namespace, name string)
	// SetNode delivers the node that the proxy runs on, and no other.
	SetNode(*v1.Node)
	DeleteNode()
	SetServiceCIDR(*networking.ServiceCIDR)
	DeleteServiceCIDR(name string)
	// Synced tells that all Services and EndpointSlices that exist were delivered. Nothing is written to the kernel before.
	Synced()
}
