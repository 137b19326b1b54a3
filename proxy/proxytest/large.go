package proxytest

import (
	"fmt"
	"net/netip"

	"turnout/proxy"
)

// NumberedService is one of many with a ClusterIP, for benchmarks; one in fifty of the endpoints is on this node.
func NumberedService(i, endpoints int) *proxy.Service {
	name := proxy.ServicePortName{ServiceName: proxy.ServiceName{Namespace: fmt.Sprintf("ns-%d", i/100), Name: fmt.Sprintf("service-%d", i)}, Port: "http", Protocol: proxy.TCP}
	s := &proxy.Service{Name: name, Frontends: []proxy.Frontend{{
		Kind: proxy.ClusterIP, Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 80, Actions: Internal,
	}}}
	for e := range endpoints {
		n := i*8 + e
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 128 | byte(n>>16), byte(n >> 8), byte(n)}), 8080)
		s.Cluster = append(s.Cluster, proxy.Endpoint{Addr: a, Local: n%50 == 0})
		s.Serving = append(s.Serving, a)
	}
	return s
}

// LargeState has so many NumberedServices, from 0, of 5 endpoints each.
func LargeState(services int) *proxy.State {
	s := &proxy.State{Family: proxy.IPv4, Node: NodeOf(proxy.IPv4)}
	s.Node.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}
	for i := range services {
		service := NumberedService(i, 5)
		s.Services = s.Services.Set(service.Name, service)
	}
	return s
}
