package proxytest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"turnout/proxy"
)

// The usual Actions of Frontends, by the traffic policies they come from.
var (
	// Internal is a ClusterIP of policy Cluster, InternalLocal one of policy Local.
	Internal      = three(proxy.Action{}, proxy.Action{Masquerade: true}, proxy.Action{Masquerade: true})
	InternalLocal = three(proxy.Action{Pool: proxy.Local}, proxy.Action{Pool: proxy.Local, Masquerade: true},
		proxy.Action{Pool: proxy.Local, Masquerade: true})
	// External is a NodePort, external or load-balancer IP of policy Cluster, ExternalLocal one of policy Local, and
	// ExternalElsewhere one of policy Local whose endpoints are all on other nodes.
	External      = one(proxy.Action{Masquerade: true})
	ExternalLocal = three(proxy.Action{}, proxy.Action{Masquerade: true}, proxy.Action{Pool: proxy.Local})

	ExternalElsewhere = three(proxy.Action{}, proxy.Action{Masquerade: true}, proxy.Action{Verdict: proxy.Drop})
	// RejectAll is without any endpoint, DropAll a ClusterIP of policy Local without one on this node.
	RejectAll = one(proxy.Action{Verdict: proxy.Reject})
	DropAll   = one(proxy.Action{Verdict: proxy.Drop})
)

func three(pod, node, elsewhere proxy.Action) [3]proxy.Action {
	return [3]proxy.Action{proxy.FromPod: pod, proxy.FromNode: node, proxy.FromElsewhere: elsewhere}
}

func one(a proxy.Action) [3]proxy.Action { return three(a, a, a) }

// Part is one part of a Service that NewService builds.
type Part func(*proxy.Service)

// NewService builds a Service from a name as ServicePortName.String writes it ("ns/name:port/TCP" or "ns/name/UDP") and
// parts. Everything is sorted as it should be, and a pool that no Action uses is emptied. It panics if a text is wrong.
func NewService(name string, parts ...Part) *proxy.Service {
	s := &proxy.Service{Name: Name(name)}
	for _, part := range parts {
		part(s)
	}
	finish(s)
	return s
}

// At adds a Frontend. The address is "ip:port", or ":port" for a NodePort; the texts behind the actions are its allowed
// sources.
func At(kind proxy.Kind, address string, actions [3]proxy.Action, allowed ...string) Part {
	f := proxy.Frontend{Kind: kind, Actions: actions}
	if port, ok := strings.CutPrefix(address, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			panic(err)
		}
		f.Port = uint16(n)
	} else {
		a := netip.MustParseAddrPort(address)
		f.Addr, f.Port = a.Addr(), a.Port()
	}
	if len(allowed) > 0 {
		f.AllowedSources = prefixes(allowed...)
	}
	return func(s *proxy.Service) { s.Frontends = append(s.Frontends, f) }
}

// On adds endpoints, such as "10.244.2.2:8080", or "10.244.1.2:8080 local" for one on this node. All are serving and in
// the pool Cluster, those on this node also in the pool Local.
func On(endpoints ...string) Part {
	return func(s *proxy.Service) {
		for _, text := range endpoints {
			addr, local := strings.CutSuffix(text, " local")
			e := proxy.Endpoint{Addr: netip.MustParseAddrPort(addr), Local: local}
			s.Cluster = append(s.Cluster, e)
			if local {
				s.Local = append(s.Local, e)
			}
			s.Serving = append(s.Serving, e.Addr)
		}
	}
}

// Sticky gives the Service session affinity.
func Sticky(timeout time.Duration) Part {
	return func(s *proxy.Service) { s.Affinity = timeout }
}

// Name parses what ServicePortName.String writes. It panics if it is not that.
func Name(text string) proxy.ServicePortName {
	var n proxy.ServicePortName
	bad := func() { panic(fmt.Sprintf("proxytest: %q is not namespace/name[:port]/protocol", text)) }
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		bad()
	}
	n.Namespace = parts[0]
	n.Name, n.Port, _ = strings.Cut(parts[1], ":")
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
		if p.String() == parts[2] {
			n.Protocol = p
			return n
		}
	}
	bad()
	return n
}

// finish sorts what must be sorted and empties the pools that are not used.
func finish(s *proxy.Service) {
	used := map[proxy.Pool]bool{}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		slices.SortFunc(f.AllowedSources, comparePrefixes)
		for _, a := range f.Actions {
			if a.Verdict == proxy.Forward {
				used[a.Pool] = true
			}
		}
	}
	slices.SortFunc(s.Frontends, compareFrontends)
	slices.SortFunc(s.Serving, netip.AddrPort.Compare)
	slices.SortFunc(s.Cluster, compareEndpoints)
	slices.SortFunc(s.Local, compareEndpoints)
	if !used[proxy.Cluster] {
		s.Cluster = nil
	}
	if !used[proxy.Local] {
		s.Local = nil
	}
}

func compareFrontends(a, b proxy.Frontend) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}

func compareEndpoints(a, b proxy.Endpoint) int { return a.Addr.Compare(b.Addr) }

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// NewState builds a State of the node under test from Services; the node's facts are those of NodeOf.
func NewState(f proxy.Family, services ...*proxy.Service) *proxy.State {
	s := &proxy.State{Family: f, Node: NodeOf(f)}
	for _, service := range services {
		s.Services = s.Services.Set(service.Name, service)
	}
	return s
}

// NodeOf returns the usual facts of the node under test: NodePorts on any address, pods known by the cluster's prefixes.
func NodeOf(f proxy.Family) *proxy.Node {
	c := Addressing()
	return &proxy.Node{
		NodePorts:      proxy.NodePorts{Any: true, Addrs: AddrsOf(f, c.NodeAddrs)},
		LocalPods:      proxy.LocalPods{Prefixes: Of(f, c.ClusterCIDRs)},
		ServiceCIDRs:   Of(f, c.ServiceCIDRs),
		MasqueradeMark: 0x4000,
	}
}
