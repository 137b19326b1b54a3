package compare

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/source"
	proxysync "turnout/proxy/sync"
)

// model tells which endpoints a client of a Service with session affinity may stay at: there the two proxies choose one each, so that
// comparing what they do says nothing about the others.
type model map[proxy.Family]*proxy.State

// newModel makes the States of the objects that there are now.
func newModel(t *testing.T, p *pair) model {
	t.Helper()
	n, err := p.Admin.CoreV1().Nodes().Get(t.Context(), p.turnout.Lab.Cluster.Node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cidrs, err := p.Admin.NetworkingV1().ServiceCIDRs().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deliver := func(to source.Sink) {
		to.SetNode(n)
		for i := range cidrs.Items {
			to.SetServiceCIDR(&cidrs.Items[i])
		}
		for _, o := range p.Objects() {
			switch o := o.(type) {
			case *v1.Service:
				if !foreign(o) {
					to.SetService(o)
				}
			case *discovery.EndpointSlice:
				to.SetEndpointSlice(o)
			}
		}
		to.Synced()
	}
	o := proxysync.Options{NodeName: n.Name, Families: proxy.Families[:], Facts: p.facts()}
	states, _, _ := proxysync.Preview(o, deliver)
	m := model{}
	for _, s := range states {
		m[s.Family] = s
	}
	return m
}

// foreign tells that a Service is another proxy's.
func foreign(s *v1.Service) bool {
	_, is := s.Labels["service.kubernetes.io/service-proxy-name"]
	return is
}

// allows tells whether a connection to a Service with session affinity may reach a server in a certain way.
func (m model) allows(p packet, o outcome) bool {
	for _, d := range proxytest.Trace(m[p.family()], p.Packet).Destinations {
		if d.Addr != o.endpoint {
			continue
		}
		// What is delivered on the node itself leaves through no interface whose address could replace the source.
		if slices.Contains(p.NodeAddrs, d.Addr.Addr()) {
			return true
		}
		return d.Masquerade == slices.Contains(p.NodeAddrs, o.seen) || slices.Contains(p.NodeAddrs, p.Source)
	}
	return false
}
