package iptables

import (
	"context"
	"fmt"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

var benchSizes = []int{100, 1000, 10000}

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
				proxytest.InNamespace(b, func() { benchSync(b, v, proxytest.LargeState(n)) })
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
	b.Run("endpoint", inTurn(with(proxytest.NumberedService(50, 6)), s))
	b.Run("service", inTurn(with(proxytest.NumberedService(1<<20, 5)), s))
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
			s := proxytest.LargeState(n)
			for b.Loop() {
				newTables(&Options{Family: proxy.IPv4}, s, nil).build(newFound(), 0)[0].text()
			}
		})
	}
}
