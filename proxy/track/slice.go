package track

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
)

// labelHeadless is on the EndpointSlices of headless Services.
const labelHeadless = v1.IsHeadlessService

// slice is the compact record of one EndpointSlice. It is immutable.
type slice struct {
	name      string
	service   proxy.ServiceName
	family    proxy.Family
	ports     []slicePort
	endpoints []Endpoint // with port 0
	problems  []Problem
}

type slicePort struct {
	name     string
	protocol proxy.Protocol
	port     uint16
}

// serviceOf returns which Service a slice belongs to, and whether it is of use: the slices of headless Services, those of no
// Service, and those of host names are not.
func serviceOf(o *discovery.EndpointSlice) (proxy.ServiceName, bool) {
	_, headless := o.Labels[labelHeadless]
	name := o.Labels[discovery.LabelServiceName]
	return proxy.ServiceName{Namespace: intern(o.Namespace), Name: intern(name)},
		!headless && name != "" && o.Namespace != "" && o.AddressType != discovery.AddressTypeFQDN
}

// newSlice makes the record of a slice of a Service; node is the name of the own node.
func newSlice(o *discovery.EndpointSlice, service proxy.ServiceName, node string) *slice {
	p := &problems{service: service, slice: o.Name}
	s := &slice{name: o.Name, service: service}
	switch o.AddressType {
	case discovery.AddressTypeIPv4:
		s.family = proxy.IPv4
	case discovery.AddressTypeIPv6:
		s.family = proxy.IPv6
	default:
		p.add("addressType", string(o.AddressType), "is not a family; write IPv4 or IPv6")
		s.problems = p.list()
		return s
	}
	s.ports = slicePorts(o, p)
	s.endpoints = make([]Endpoint, 0, len(o.Endpoints))
	for i := range o.Endpoints {
		if e, ok := s.endpoint(&o.Endpoints[i], i, node, p); ok {
			s.endpoints = append(s.endpoints, e)
		}
	}
	s.problems = p.list()
	return s
}

// slicePorts leaves out ports that say too little to be forwarded to.
func slicePorts(o *discovery.EndpointSlice, p *problems) []slicePort {
	out := make([]slicePort, 0, len(o.Ports))
	for i := range o.Ports {
		in, field := &o.Ports[i], at("ports", i)
		sp := slicePort{protocol: proxy.TCP}
		ok := true
		switch {
		case in.Name == nil:
			p.add(field+".name", "", `is missing; write the name of the Service's port, or "" if it has none`)
			continue
		case in.Port == nil:
			p.add(field+".port", "", "is missing, and all ports at once cannot be forwarded to; write the port number")
			continue
		case in.Protocol != nil:
			sp.protocol, ok = protocol(*in.Protocol)
		}
		if !ok {
			p.add(field+".protocol", string(*in.Protocol), protocolRemedy)
			continue
		}
		if sp.port, ok = port(*in.Port); !ok {
			p.add(field+".port", itoa(*in.Port), portRemedy)
			continue
		}
		sp.name = intern(*in.Name)
		out = append(out, sp)
	}
	return out
}

// endpoint reads one endpoint. All its addresses are the same pod (KEP-752), so that the first one is enough.
func (s *slice) endpoint(in *discovery.Endpoint, i int, node string, p *problems) (Endpoint, bool) {
	field := func() string { return at(at("endpoints", i)+".addresses", 0) }
	if len(in.Addresses) == 0 {
		p.add(field(), "", "is missing; write the endpoint's address")
		return Endpoint{}, false
	}
	a, remedy := addr(in.Addresses[0])
	if remedy == "" && proxy.FamilyOf(a) != s.family {
		remedy = "is not of the slice's addressType " + s.family.String() + "; put it into a slice of its own family"
	}
	if remedy != "" {
		p.add(field(), in.Addresses[0], remedy)
		return Endpoint{}, false
	}
	c := in.Conditions
	return Endpoint{
		Addr:        netip.AddrPortFrom(a, 0),
		Hints:       readHints(in.Hints),
		Ready:       c.Ready == nil || *c.Ready,
		Serving:     c.Serving == nil || *c.Serving,
		Terminating: c.Terminating != nil && *c.Terminating,
		Local:       in.NodeName != nil && *in.NodeName == node,
	}, true
}

func readHints(in *discovery.EndpointHints) Hints {
	if in == nil {
		return Hints{}
	}
	zones := make([]string, len(in.ForZones))
	for i := range in.ForZones {
		zones[i] = in.ForZones[i].Name
	}
	nodes := make([]string, len(in.ForNodes))
	for i := range in.ForNodes {
		nodes[i] = in.ForNodes[i].Name
	}
	return newHints(zones, nodes)
}

func (s *slice) equal(o *slice) bool {
	return o != nil && s.name == o.name && s.service == o.service && s.family == o.family && slices.Equal(s.ports, o.ports) &&
		slices.Equal(s.endpoints, o.endpoints) && slices.Equal(s.problems, o.problems)
}
