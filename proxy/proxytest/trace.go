package proxytest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"turnout/proxy"
)

// Packet is the first packet of a connection, as it comes to the node under test.
type Packet struct {
	// From is the name of the host that sends it; Trace does not look at it.
	From   string
	Source netip.Addr
	// Interface is where it came in, "" if a process on the node sends it.
	Interface   string
	Protocol    proxy.Protocol
	Destination netip.Addr
	Port        uint16
	// NodeAddrs are all local addresses of the node but loopback ones.
	NodeAddrs []netip.Addr
}

// String returns "client 192.168.50.100 -> 10.96.0.1:80/TCP".
func (p Packet) String() string {
	return fmt.Sprintf("%s %s -> %s/%s", p.From, p.Source, netip.AddrPortFrom(p.Destination, p.Port), p.Protocol)
}

// TraceVerdict is what becomes of a Packet.
type TraceVerdict uint8

// The verdicts: those of proxy, and Pass for a packet that is none of the proxy's business.
const (
	Pass TraceVerdict = iota
	Forwarded
	Rejected
	Dropped
)

func (v TraceVerdict) String() string {
	return [...]string{"pass", "forward", "reject", "drop"}[v]
}

// Destination is an endpoint that a packet may be sent to.
type Destination struct {
	Addr netip.AddrPort
	// Masquerade tells that the endpoint sees an address of the node as the source.
	Masquerade bool
}

// Outcome is what a State says about a Packet.
type Outcome struct {
	Verdict TraceVerdict
	// Destinations are the endpoints, each equally likely, in the order of the pool; with verdict Forwarded only. If there
	// are none then, the State is wrong (see Check).
	Destinations []Destination
	// Service is the port that the packet was sent to, zero if there is none.
	Service proxy.ServicePortName
}

// String returns "forward to 10.244.1.2:8080, 10.244.2.2:8080+masquerade", or the verdict alone.
func (o Outcome) String() string {
	if o.Verdict != Forwarded {
		return o.Verdict.String()
	}
	var parts []string
	for _, d := range o.Destinations {
		part := d.Addr.String()
		if d.Masquerade {
			part += "+masquerade"
		}
		parts = append(parts, part)
	}
	return "forward to " + strings.Join(parts, ", ")
}

// Trace says what a node that follows the State does to a packet of the State's family. It is the reference that backends
// are compared with: no sets, maps or chains, only the words of the model, one after the other.
func Trace(s *proxy.State, p Packet) Outcome {
	service, frontend := find(s, p)
	if frontend == nil {
		return Outcome{Verdict: unserved(s, p)}
	}
	out := Outcome{Service: service.Name}
	if frontend.AllowedSources != nil && !contains(frontend.AllowedSources, p.Source) {
		out.Verdict = Dropped
		return out
	}
	action := frontend.Actions[OriginOf(s, p)]
	switch action.Verdict {
	case proxy.Reject:
		out.Verdict = Rejected
	case proxy.Drop:
		out.Verdict = Dropped
	case proxy.Forward:
		out.Verdict = Forwarded
		for _, e := range service.Pool(action.Pool) {
			// An endpoint that reaches itself would answer itself directly, and refuse the answer.
			hairpin := e.Local && e.Addr.Addr() == p.Source
			out.Destinations = append(out.Destinations, Destination{Addr: e.Addr, Masquerade: action.Masquerade || hairpin})
		}
	}
	return out
}

// OriginOf decides where a packet comes from. An address of the node that lies among those of pods counts as a pod.
func OriginOf(s *proxy.State, p Packet) proxy.Origin {
	pods := &s.Node.LocalPods
	came := p.Interface != ""
	switch {
	case contains(pods.Prefixes, p.Source),
		came && p.Interface == pods.Interface,
		came && pods.InterfacePrefix != "" && strings.HasPrefix(p.Interface, pods.InterfacePrefix):
		return proxy.FromPod
	case slices.Contains(p.NodeAddrs, p.Source), p.Source.IsLoopback():
		return proxy.FromNode
	}
	return proxy.FromElsewhere
}

// find returns the frontend that a packet is sent to; one that names the address wins over a NodePort.
func find(s *proxy.State, p Packet) (*proxy.Service, *proxy.Frontend) {
	var nodePortService *proxy.Service
	var nodePort *proxy.Frontend
	for _, service := range s.Services.All() {
		if service.Name.Protocol != p.Protocol {
			continue
		}
		for i := range service.Frontends {
			f := &service.Frontends[i]
			switch {
			case f.Port != p.Port:
			case f.Kind == proxy.NodePort:
				nodePortService, nodePort = service, f
			case f.Addr == p.Destination:
				return service, f
			}
		}
	}
	if nodePort != nil && servesNodePorts(&s.Node.NodePorts, p) {
		return nodePortService, nodePort
	}
	return nil, nil
}

func servesNodePorts(n *proxy.NodePorts, p Packet) bool {
	if n.Any {
		return slices.Contains(p.NodeAddrs, p.Destination) && !p.Destination.IsLoopback()
	}
	return slices.Contains(n.Addrs, p.Destination)
}

// unserved decides on packets that are sent to no frontend. A port that a ClusterIP does not have is refused, as on any
// host; an address that no Service has is not answered, as the route to it may lead back here.
func unserved(s *proxy.State, p Packet) TraceVerdict {
	for _, service := range s.Services.All() {
		for i := range service.Frontends {
			if f := &service.Frontends[i]; f.Kind == proxy.ClusterIP && f.Addr == p.Destination {
				return Rejected
			}
		}
	}
	if contains(s.Node.ServiceCIDRs, p.Destination) && !slices.Contains(p.NodeAddrs, p.Destination) {
		return Dropped
	}
	return Pass
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
