package e2e

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// TestHitlessCleanup takes the table away and puts it back, again and again, while another one serves the same address, as that of another mode does at a change of modes: no
// client may notice. The table rejects the ports of its addresses that it does not serve, so a packet that is in it must not find it half empty.
func TestHitlessCleanup(t *testing.T) {
	b := newBench(t)
	n := newNft(t, b.Node())
	n.run("add", "table", "ip", "other")
	n.run("add", "chain", "ip", "other", "prerouting", "{ type nat hook prerouting priority -90; }")
	n.run("add", "rule", "ip", "other", "prerouting", "ip daddr 10.96.0.1 tcp dport 80 dnat to "+b.endpoints(proxy.IPv4, 8080)[staying])
	s := proxytest.NewState(proxy.IPv4, b.steady()...)
	l := startLoad(t, b.Host("pod-3"), proxy.TCP, netip.MustParseAddrPort(steadyWeb), lab.LoadOptions{Parallel: 8})
	times := 0
	for end := time.Now().Add(2 * *hitlessFor); time.Now().Before(end) || times < 10; times++ {
		b.apply(s)
		time.Sleep(time.Millisecond)
		if err := b.backends[proxy.IPv4].Cleanup(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	l.judge()
	t.Logf("taken away %d times", times)
}
