package objects

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// slices returns up to three EndpointSlices for each family of the Service.
func (g *generator) slices(s *v1.Service) []*discovery.EndpointSlice {
	var out []*discovery.EndpointSlice
	hints, abroad := g.oneIn(4), g.oneIn(5)
	for _, family := range s.Spec.IPFamilies {
		f := proxy.IPv4
		if family == v1.IPv6Protocol {
			f = proxy.IPv6
		}
		n := pick(g, 0, 1, 1, 1, 2, 3)
		for i := range n {
			e := g.slice(s, f, i)
			e.Endpoints = g.endpoints(f, n, abroad)
			if hints {
				g.addHints(e)
			}
			out = append(out, e)
		}
	}
	if g.oneIn(12) {
		out = append(out, g.nameSlice(s))
	}
	return out
}

// slice returns a slice without endpoints. It has the Service's ports; at times one is missing, or has no name.
func (g *generator) slice(s *v1.Service, f proxy.Family, i int) *discovery.EndpointSlice {
	e := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace,
			Name:      fmt.Sprintf("%s-%s-%d", s.Name, strings.ToLower(f.String()), i),
			Labels:    map[string]string{discovery.LabelServiceName: s.Name},
		},
		AddressType: discovery.AddressType(f.String()),
	}
	if s.Spec.ClusterIP == v1.ClusterIPNone {
		e.Labels[v1.IsHeadlessService] = ""
	}
	for _, p := range s.Spec.Ports {
		if g.oneIn(20) {
			continue
		}
		port := discovery.EndpointPort{Name: new(p.Name), Port: new(p.TargetPort.IntVal)}
		if p.Protocol != v1.ProtocolTCP || g.oneIn(2) { // TCP is the default
			port.Protocol = new(p.Protocol)
		}
		e.Ports = append(e.Ports, port)
	}
	return e
}

// endpoints draws some of the pods and nodes; a slice among others has fewer. A slice lists an address once at most, but
// another slice may list it too. Abroad means on other nodes only.
func (g *generator) endpoints(f proxy.Family, slices int, abroad bool) []discovery.Endpoint {
	var out []discovery.Endpoint
	likely := 1 + g.IntN(4)
	for _, h := range g.cluster.Hosts {
		if h.Node == "" || abroad && h.Node == g.cluster.Node {
			continue
		}
		if g.IntN(4+slices) >= likely || !h.Pod && g.IntN(3) > 0 {
			continue
		}
		out = append(out, discovery.Endpoint{Addresses: []string{h.Addr(f).String()}, Conditions: g.conditions(), NodeName: new(h.Node)})
	}
	g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// conditions are mostly those of a ready endpoint, spelled in several ways. A terminating one is never ready.
func (g *generator) conditions() discovery.EndpointConditions {
	yes, no := new(true), new(false)
	switch g.IntN(10) {
	case 0:
		return discovery.EndpointConditions{Ready: no, Serving: no, Terminating: no}
	case 1:
		return discovery.EndpointConditions{Ready: no, Serving: yes, Terminating: yes}
	case 2:
		return discovery.EndpointConditions{Ready: no, Serving: no, Terminating: yes}
	case 3, 4, 5:
		return discovery.EndpointConditions{}
	}
	return discovery.EndpointConditions{Ready: yes, Serving: yes, Terminating: no}
}

// Zones are those of topology hints; a node may be in the first.
var Zones = []string{"zone-a", "zone-b"}

// addHints gives hints to all endpoints of a slice, or at times to all but one, which makes them void.
func (g *generator) addHints(e *discovery.EndpointSlice) {
	toNodes := g.oneIn(2)
	spare := -1
	if g.oneIn(4) && len(e.Endpoints) > 0 {
		spare = g.IntN(len(e.Endpoints))
	}
	for i := range e.Endpoints {
		if i == spare {
			continue
		}
		h := &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: pick(g, Zones...)}}}
		if toNodes {
			h.ForNodes = []discovery.ForNode{{Name: *e.Endpoints[i].NodeName}}
		}
		e.Endpoints[i].Hints = h
	}
}

// nameSlice is a slice of host names, which no proxy can use.
func (g *generator) nameSlice(s *v1.Service) *discovery.EndpointSlice {
	e := g.slice(s, proxy.IPv4, 9)
	e.AddressType = discovery.AddressTypeFQDN
	e.Endpoints = []discovery.Endpoint{{Addresses: []string{"www.example.com"}}}
	return e
}

// Node returns the object of the node under test, in the first of Zones.
func Node(c *proxytest.Cluster) *v1.Node {
	h := c.Host(c.Node)
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.Node, Labels: map[string]string{v1.LabelTopologyZone: Zones[0]}}}
	for _, p := range c.PodCIDRs {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, p.String())
	}
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	for _, f := range proxy.Families {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: h.Addr(f).String()})
	}
	n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: c.Node})
	return n
}
