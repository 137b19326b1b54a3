package objects

import (
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Part changes a Service that a test makes by hand.
type Part = func(*v1.Service)

// InternalLocal gives a Service the internal traffic policy Local.
func InternalLocal(s *v1.Service) {
	s.Spec.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyLocal)
}

// ExternalLocal gives a Service the external traffic policy Local.
func ExternalLocal(s *v1.Service) {
	s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

// ClientIP gives a Service session affinity, for as long as is the default.
func ClientIP(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP }

// SourceRanges gives a Service source ranges.
func SourceRanges(ranges ...string) Part {
	return func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = ranges }
}

// Address is where the first port of a protocol is reached: at the Service's first address of a kind and family, or at the node's for NodePorts. It is the
// zero value if there is none.
func Address(s *v1.Service, k proxy.Kind, f proxy.Family, p proxy.Protocol, node netip.Addr) netip.AddrPort {
	var texts []string
	switch k {
	case proxy.ClusterIP:
		texts = s.Spec.ClusterIPs
	case proxy.ExternalIP:
		texts = s.Spec.ExternalIPs
	case proxy.LoadBalancerIP:
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			texts = append(texts, ingress.IP)
		}
	case proxy.NodePort:
		texts = []string{node.String()}
	}
	for _, port := range s.Spec.Ports {
		if string(port.Protocol) != p.String() {
			continue
		}
		number := port.Port
		if k == proxy.NodePort {
			number = port.NodePort
		}
		for _, text := range texts {
			if a, err := netip.ParseAddr(text); err == nil && proxy.FamilyOf(a) == f {
				return netip.AddrPortFrom(a, uint16(number))
			}
		}
	}
	return netip.AddrPort{}
}

// At is a host as an endpoint: ready, unless an edit says otherwise.
type At struct {
	Host  string
	Edits []Edit
}

// Edit changes an endpoint that a test makes by hand.
type Edit = func(*discovery.Endpoint)

// On is a host as an endpoint.
func On(host string, edits ...Edit) At { return At{host, edits} }

// Conditions gives an endpoint all three conditions.
func Conditions(ready, serving, terminating bool) Edit {
	return func(e *discovery.Endpoint) {
		e.Conditions = discovery.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
}

// EndpointSlices are those of a Service with all its ports, one of each family, which are empty without endpoints. Hosts are looked up by their names, and the
// i-th port of the Service leads to target(i).
func EndpointSlices(s *v1.Service, host func(string) *proxytest.Host, target func(i int) int32, endpoints ...At) []metav1.Object {
	var out []metav1.Object
	for _, f := range proxy.Families {
		e := &discovery.EndpointSlice{AddressType: discovery.AddressType(f.String())}
		e.Namespace, e.Name = s.Namespace, s.Name+"-"+strings.ToLower(f.String())
		e.Labels = map[string]string{discovery.LabelServiceName: s.Name}
		for i, p := range s.Spec.Ports {
			e.Ports = append(e.Ports, discovery.EndpointPort{Name: new(p.Name), Protocol: new(p.Protocol), Port: new(target(i))})
		}
		for _, at := range endpoints {
			h := host(at.Host)
			endpoint := discovery.Endpoint{Addresses: []string{h.Addr(f).String()}, NodeName: new(h.Node)}
			for _, edit := range at.Edits {
				edit(&endpoint)
			}
			e.Endpoints = append(e.Endpoints, endpoint)
		}
		out = append(out, e)
	}
	return out
}
