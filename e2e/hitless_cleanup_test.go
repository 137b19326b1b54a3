package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/nftables"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// beside has another table serve steadyWeb, too, behind ours, as that of another mode does at a change of modes.
func (b *bench) beside() {
	b.t.Helper()
	n := newNft(b.t, b.Node())
	n.run("add", "table", "ip", "other")
	n.run("add", "chain", "ip", "other", "prerouting", "{ type nat hook prerouting priority -90; }")
	n.run("add", "rule", "ip", "other", "prerouting", "ip daddr 10.96.0.1 tcp dport 80 dnat to "+b.endpoints(proxy.IPv4, 8080)[staying])
}

// again does something again and again while clients connect to steadyWeb: none may notice.
func (b *bench) again(do func(n int) error) lab.ClientsReport {
	b.t.Helper()
	l := startLoad(b.t, b.Host("pod-3"), proxy.TCP, netip.MustParseAddrPort(steadyWeb), lab.LoadOptions{Parallel: 8, Attempts: 1 << 30})
	times := 0
	for end := time.Now().Add(2 * *hitlessFor); time.Now().Before(end) || times < 10; times++ {
		if err := do(times); err != nil {
			b.t.Fatal(err)
		}
	}
	r := l.judge()
	b.t.Logf("%d times, seen as %v", times, r.Seen)
	return r
}

// ownSource judges that pods were not masqueraded, but to themselves.
func (b *bench) ownSource(r lab.ClientsReport) {
	b.t.Helper()
	if own := r.Seen[b.Host("pod-3").Addr(proxy.IPv4)]; own != r.OK-r.Servers["pod-3"] {
		b.t.Errorf("servers saw clients of pod-3 as %v, want the pod's own address %d times", r.Seen, r.OK-r.Servers["pod-3"])
	}
}

// refillsMiss tells that a lookup may miss a range in the moment of a refill: before Linux 6.17.
func refillsMiss(t *testing.T) bool {
	t.Helper()
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(raw), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("release %q of the kernel: %v", raw, err)
	}
	return major < 6 || major == 6 && minor < 17
}

// TestHitlessCleanup takes the table away and puts it back while another one serves the same address. The table rejects the ports of its addresses that it does not serve, so a
// packet that is in it must not find it half empty.
func TestHitlessCleanup(t *testing.T) {
	b := newBench(t)
	b.beside()
	s := proxytest.NewState(proxy.IPv4, b.steady()...)
	b.ownSource(b.again(func(int) error {
		b.apply(s)
		time.Sleep(time.Millisecond)
		return b.backends[proxy.IPv4].Cleanup(t.Context())
	}))
}

// TestHitlessGate makes the table of mode ipvs anew, as a process does that starts, and takes it away, while something else chooses the endpoints, in the place of IPVS.
func TestHitlessGate(t *testing.T) {
	b := newBench(t)
	b.beside()
	s := proxytest.NewState(proxy.IPv4, b.steady()...)
	var g *nftables.Gate
	if err := b.Node().Do(func() (err error) { g, err = nftables.OpenGate(proxy.IPv4); return err }); err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	n := newNft(t, b.Node())
	for name, most := range map[string]int{"made anew": 0, "taken away": 3} {
		t.Run(name, func(t *testing.T) {
			b := &bench{b.Lab, t, b.backends}
			var first, last string
			r := b.again(func(i int) error {
				g.Forget()
				if _, _, err := g.Admit(s, func(netip.Addr) bool { return false }); err != nil {
					return err
				}
				if _, err := g.Retire(); err != nil {
					return err
				}
				if last = n.handle(nftables.GateTable); first == "" {
					first = last
				}
				if most > 0 && i%most == most-1 {
					return g.Cleanup()
				}
				return nil
			})
			if !refillsMiss(t) {
				b.ownSource(r)
			}
			if (first == last) != (most == 0) {
				t.Errorf("the table was %s at first and is %s", first, last)
			}
		})
	}
}
