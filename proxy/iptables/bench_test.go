package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

var benchSizes = []int{100, 1000, 10000}

func benchService(i, endpoints int) *proxy.Service {
	name := proxy.ServicePortName{ServiceName: proxy.ServiceName{Namespace: fmt.Sprintf("ns-%d", i/100), Name: fmt.Sprintf("service-%d", i)}, Port: "http", Protocol: proxy.TCP}
	s := &proxy.Service{Name: name, Frontends: []proxy.Frontend{{
		Kind: proxy.ClusterIP, Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 80, Actions: proxytest.Internal,
	}}}
	for e := range endpoints {
		n := i*8 + e
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 128 | byte(n>>16), byte(n >> 8), byte(n)}), 8080)
		s.Cluster = append(s.Cluster, proxy.Endpoint{Addr: a, Local: n%50 == 0})
		s.Serving = append(s.Serving, a)
	}
	return s
}

func benchState(services int) *proxy.State {
	s := &proxy.State{Family: proxy.IPv4, Node: proxytest.NodeOf(proxy.IPv4)}
	s.Node.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}
	for i := range services {
		service := benchService(i, 5)
		s.Services = s.Services.Set(service.Name, service)
	}
	return s
}

func benchApply(b *testing.B, backend *Backend, s *proxy.State) {
	if r, err := backend.Apply(context.Background(), s); err != nil || len(r.Rejected) > 0 {
		b.Fatalf("%+v, %v", r, err)
	}
}

// BenchmarkSync measures, on a node that has everything: to write it all anew, to add an endpoint to a Service or take it away, to add a Service with 5 endpoints
// or take it away, and to look whether all is there after somebody else has changed something.
func BenchmarkSync(b *testing.B) {
	for _, v := range variants {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("%s/services=%d", v, n), func(b *testing.B) {
				proxytest.InNamespace(b, func() { benchSync(b, v, benchState(n)) })
			})
		}
	}
}

func benchSync(b *testing.B, v Variant, s *proxy.State) {
	backend, err := New(context.Background(), Options{Family: proxy.IPv4, Variant: v})
	if err != nil {
		b.Skip(err)
	}
	benchApply(b, backend, s)
	inTurn := func(versions ...*proxy.State) func(*testing.B) {
		return func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				benchApply(b, backend, versions[i%len(versions)])
			}
		}
	}
	with := func(service *proxy.Service) *proxy.State {
		next := *s
		next.Services = s.Services.Set(service.Name, service)
		return &next
	}
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			backend.Forget()
			benchApply(b, backend, s)
		}
	})
	b.Run("endpoint", inTurn(with(benchService(50, 6)), s))
	b.Run("service", inTurn(with(benchService(1<<20, 5)), s))
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if k, ok := backend.kernel.(*nftKernel); ok {
				k.generation = 0
			}
			if damage, err := backend.Check(context.Background()); damage != "" || err != nil {
				b.Fatalf("%s, %v", damage, err)
			}
		}
	})
}

// BenchmarkRender makes the input of iptables-restore for everything.
func BenchmarkRender(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			s := benchState(n)
			for b.Loop() {
				newTables(&Options{Family: proxy.IPv4}, s, nil).build(newFound(), 0)[0].text()
			}
		})
	}
}
