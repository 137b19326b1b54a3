package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// The benchmarks in this file measure Apply, with the programs and the kernel. As programs make up nearly all of it, BenchmarkRender measures the rest.

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

func eachSize(b *testing.B, fn func(b *testing.B, backend *Backend, s *proxy.State)) {
	for _, v := range variants {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("%s/services=%d", v, n), func(b *testing.B) {
				proxytest.InNamespace(b, func() {
					backend, err := New(context.Background(), Options{Family: proxy.IPv4, Variant: v})
					if err != nil {
						b.Skip(err)
					}
					fn(b, backend, benchState(n))
				})
			})
		}
	}
}

func benchApply(b *testing.B, backend *Backend, s *proxy.State) {
	if r, err := backend.Apply(context.Background(), s); err != nil || len(r.Rejected) > 0 {
		b.Fatalf("%+v, %v", r, err)
	}
}

// BenchmarkFullSync writes everything, on what is there already.
func BenchmarkFullSync(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *Backend, s *proxy.State) {
		start := time.Now()
		benchApply(b, backend, s)
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "first-ms")
		for b.Loop() {
			backend.Forget()
			benchApply(b, backend, s)
		}
	})
}

// BenchmarkEndpointChange adds an endpoint to a Service, and takes it away again.
func BenchmarkEndpointChange(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *Backend, s *proxy.State) {
		benchApply(b, backend, s)
		versions := [2]*proxy.Service{benchService(50, 6), benchService(50, 5)}
		for i := 0; b.Loop(); i++ {
			next := *s
			next.Services = s.Services.Set(versions[0].Name, versions[i%2])
			benchApply(b, backend, &next)
		}
	})
}

// BenchmarkServiceChange adds a Service with 5 endpoints, and takes it away again.
func BenchmarkServiceChange(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *Backend, s *proxy.State) {
		benchApply(b, backend, s)
		service := benchService(1<<20, 5)
		with := *s
		with.Services = s.Services.Set(service.Name, service)
		for i := 0; b.Loop(); i++ {
			benchApply(b, backend, []*proxy.State{&with, s}[i%2])
		}
	})
}

// BenchmarkCheck looks for what was written; somebody has changed another table in between.
func BenchmarkCheck(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *Backend, s *proxy.State) {
		benchApply(b, backend, s)
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
				newTables(&Options{Family: proxy.IPv4}, s, nil).build(newFound()).text()
			}
		})
	}
}
