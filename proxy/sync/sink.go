package sync

import (
	"sync"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"

	"turnout/healthcheck"
	"turnout/proxy"
)

// inputs are the objects that States depend on besides Services and EndpointSlices.
type inputs struct {
	mu     *sync.Mutex // guards what follows
	facts  FactsConfig
	timing Timing
	node   *v1.Node
	cidrs  map[string]*networking.ServiceCIDR
	dirty  bool // something changed since the facts were made
}

func newInputs(f FactsConfig, t Timing) inputs {
	return inputs{mu: new(sync.Mutex), facts: f, timing: t, cidrs: map[string]*networking.ServiceCIDR{}, dirty: true}
}

// SetService is part of source.Sink, as are the following.
func (l *Loop) SetService(s *v1.Service) {
	l.services.Set(s)
	l.Wake()
}

// DeleteService forgets a Service.
func (l *Loop) DeleteService(name proxy.ServiceName) {
	l.services.Delete(name)
	l.Wake()
}

// SetEndpointSlice adds or replaces an EndpointSlice.
func (l *Loop) SetEndpointSlice(s *discovery.EndpointSlice) {
	l.endpoints.Set(s)
	l.Wake()
}

// DeleteEndpointSlice forgets an EndpointSlice.
func (l *Loop) DeleteEndpointSlice(namespace, name string) {
	l.endpoints.Delete(namespace, name)
	l.Wake()
}

// SetNode replaces the own Node. While one that was made anew has no addresses or no pod CIDRs yet, those of before stay in use.
func (l *Loop) SetNode(n *v1.Node) {
	facts := healthcheck.NodeFacts{Known: true, Deleting: n.DeletionTimestamp != nil}
	for _, t := range n.Spec.Taints {
		facts.Tainted = facts.Tainted || t.Key == healthcheck.ToBeDeletedTaint
	}
	l.options.Health.SetNode(facts)
	l.change(func(i *inputs) { i.node = inherit(n, i.node) })
}

// DeleteNode forgets the own Node. Its addresses and labels stay in use: the machine still has them.
func (l *Loop) DeleteNode() { l.options.Health.SetNode(healthcheck.NodeFacts{}) }

// SetServiceCIDR adds or replaces a ServiceCIDR.
func (l *Loop) SetServiceCIDR(c *networking.ServiceCIDR) {
	l.change(func(i *inputs) { i.cidrs[c.Name] = c })
}

// DeleteServiceCIDR forgets a ServiceCIDR.
func (l *Loop) DeleteServiceCIDR(name string) { l.change(func(i *inputs) { delete(i.cidrs, name) }) }

// AddressesChanged tells that the node's local addresses are others than before.
func (l *Loop) AddressesChanged() { l.change(func(*inputs) {}) }

// Synced lets the first sync begin.
func (l *Loop) Synced() { l.once.Do(func() { close(l.synced) }) }

func (l *Loop) change(fn func(*inputs)) {
	l.inputs.touch(fn)
	l.Wake()
}

// touch changes the inputs, and has the facts made anew.
func (i *inputs) touch(fn func(*inputs)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	fn(i)
	i.dirty = true
}
