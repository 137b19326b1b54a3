package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/nftables"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// The Services that stay as they are while the table around them is rebuilt.
const (
	steadyWeb    = "10.96.0.1:80"
	steadySticky = "192.168.60.2:80"
)

// steady are these Services, on all pods.
func (b *bench) steady() []*proxy.Service {
	on := proxytest.On(b.endpoints(proxy.IPv4, 8080)...)
	return []*proxy.Service{
		proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ClusterIP, steadyWeb, proxytest.Internal), on),
		proxytest.NewService("ns/sticky/TCP", proxytest.At(proxy.LoadBalancerIP, steadySticky, proxytest.External), on, proxytest.Sticky(time.Hour)),
	}
}

// ballast are Services that nobody connects to, of 100 endpoints each: the table is not small.
func ballast(services int) (out []*proxy.Service) {
	addrs := make([]string, 100)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("10.244.9.%d:80", i+1)
	}
	on := proxytest.On(addrs...)
	for i := range services {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 128 | byte(i>>8), byte(i)}), 80)
		out = append(out, proxytest.NewService(fmt.Sprintf("ns/ballast-%d/TCP", i), proxytest.At(proxy.ClusterIP, at.String(), proxytest.Internal), on))
	}
	return out
}

// TestHitlessRebuild rebuilds the whole table while clients connect: nobody may notice, and clients with session affinity stay with
// their endpoint. Only where the table is replaced may one of them be balanced again, if it first connected while that was prepared.
func TestHitlessRebuild(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers int // of a client with affinity, at most
		rebuild func(b *bench)
	}{
		{"on what is there", 1, func(b *bench) {
			s := proxytest.NewState(proxy.IPv4, append(b.steady(), ballast(10)...)...)
			n := 0
			for end := time.Now().Add(*hitlessFor); time.Now().Before(end); n++ {
				b.backends[proxy.IPv4].Forget()
				b.apply(s)
			}
			b.t.Logf("%d rebuilds", n)
		}},
		{"with larger maps as it grows", 1, func(b *bench) {
			// The maps have room for twice what was needed when they were made, and are made anew each time.
			n := newNft(b.t, b.Node())
			table := n.handle(nftables.TableName)
			for services := 50; services <= 800; services *= 4 {
				before := n.size("endpoints")
				b.apply(proxytest.NewState(proxy.IPv4, append(b.steady(), ballast(services)...)...))
				if after := n.size("endpoints"); after <= before {
					b.t.Errorf("with %d Services the map of endpoints has room for %d, before for %d", services, after, before)
				}
				time.Sleep(*hitlessFor / 4)
			}
			if n.handle(nftables.TableName) != table {
				b.t.Error("the table was replaced without need")
			}
		}},
		{"from nothing", 2, func(b *bench) {
			n := newNft(b.t, b.Node())
			for range 3 {
				before := n.handle(nftables.TableName)
				n.run("add", "set", "ip", "kube-proxy", "foreign", "{ type ipv4_addr; }")
				b.backends[proxy.IPv4].Forget()
				b.apply(proxytest.NewState(proxy.IPv4, append(b.steady(), ballast(50)...)...))
				if n.handle(nftables.TableName) == before {
					b.t.Error("the table with a foreign set is still the same")
				}
				time.Sleep(*hitlessFor / 4)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.apply(proxytest.NewState(proxy.IPv4, b.steady()...))
			web := startLoad(t, b.Client(), proxy.TCP, netip.MustParseAddrPort(steadyWeb), lab.LoadOptions{})
			var sticky []*load
			for _, a := range proxytest.AddrsOf(proxy.IPv4, b.Client().Addrs) {
				sticky = append(sticky, startLoad(t, b.Client(), proxy.TCP, netip.MustParseAddrPort(steadySticky), lab.LoadOptions{Source: a, Parallel: 1}))
			}
			c.rebuild(b)
			web.judge()
			for _, l := range sticky {
				if r := l.judge(); len(r.Servers) > c.servers {
					t.Errorf("a client with affinity was led to %v, want %d at most", r.Servers, c.servers)
				}
			}
		})
	}
}
