package lab

import (
	"net/netip"
	"testing"

	"turnout/proxy"
)

// Symmetric leads packets between the pods of n2 through n1: they are lost when n1 forwards nothing.
func TestSymmetric(t *testing.T) {
	l := ForTest(t)
	if _, err := l.Host("pod-5").Serve(proxy.TCP, 8080); err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want Result) {
		t.Helper()
		options := DialOptions{Timeout: patience}
		if want == Timeout {
			options = DialOptions{}
		}
		for _, f := range proxy.Families {
			if got := l.Host("pod-4").Dial(proxy.TCP, netip.AddrPortFrom(l.Host("pod-5").Addr(f), 8080), options); got.Result != want {
				t.Errorf("%s, %s: %v, want %v", when, f, got, want)
			}
		}
	}
	forward := func(value string) {
		t.Helper()
		err := l.Node().Do(func() error { return setSysctl("ipv4/ip_forward", value) })
		if err == nil {
			err = l.Node().Do(func() error { return setSysctl("ipv6/conf/all/forwarding", value) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	forward("0")
	expect("directly", Connected)
	if err := l.Symmetric(); err != nil {
		t.Fatal(err)
	}
	expect("through a node that does not forward", Timeout)
	forward("1")
	expect("through n1", Connected)
}

// Packets to addresses of Services that nobody translates arrive outside, and the client still reaches others by such addresses.
func TestCatchStrays(t *testing.T) {
	l := ForTest(t)
	if err := l.CatchStrays(80); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"10.96.3.4", "192.168.60.5", "fd00:10:96::7", "fd60::9"} {
		a := netip.MustParseAddr(to)
		for _, from := range []string{"pod-1", "n1", "pod-4"} {
			got := l.Host(from).Dial(proxy.TCP, netip.AddrPortFrom(a, 80), DialOptions{Timeout: patience})
			if got.Server != Stray || got.Endpoint.Addr() != a || got.SeenSource != l.Host(from).Addr(proxy.FamilyOf(a)) {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
	// What the client itself sends goes to the node, as without catching.
	if got := l.Client().Dial(proxy.TCP, netip.MustParseAddrPort("10.96.3.4:80"), DialOptions{}); got.Result == Connected {
		t.Errorf("the client to itself: %v", got)
	}
}
