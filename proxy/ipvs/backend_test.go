package ipvs

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

func textOf(t *testing.T, s *proxy.State) string {
	t.Helper()
	var b strings.Builder
	if err := WriteText(&b, Options{Family: s.Family}, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The text of what each case is given.
func TestGolden(t *testing.T) {
	cases.Goldens(t, "ipvs", *update, func(w io.Writer, s *proxy.State) error { return WriteText(w, Options{Family: s.Family}, s) })
}

func key(protocol proxy.Protocol, at string) genl.Key {
	return genl.Key{Protocol: protocol, At: netip.MustParseAddrPort(at)}
}

// web has a ClusterIP and a NodePort.
func web(endpoints ...string) *proxy.Service {
	return proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal),
		proxytest.At(proxy.NodePort, ":30080", proxytest.External), proxytest.On(endpoints...))
}

// What is not ours stays: a virtual server at an address that is not on our interface and at a port that was never a NodePort of ours, and those in
// prefixes that are excluded, whatever they look like.
func TestForeign(t *testing.T) {
	foreign := []genl.Key{key(proxy.TCP, "192.0.2.1:443"), key(proxy.TCP, "192.168.50.1:30999"), key(proxy.UDP, "192.168.50.1:30080")}
	excluded := key(proxy.TCP, "10.96.7.7:80") // on our interface
	k := newFakeKernel(proxy.IPv4)
	k.addrs = map[netip.Addr]bool{excluded.At.Addr(): true}
	for _, x := range append(slices.Clone(foreign), excluded) {
		k.list[x] = &fakeServer{genl.Server{Key: x, Scheduler: "wlc"}, map[netip.AddrPort]*genl.Destination{}}
	}
	left := key(proxy.TCP, "10.96.8.8:80") // by an earlier proxy
	k.addrs[left.At.Addr()] = true
	k.list[left] = &fakeServer{genl.Server{Key: left, Scheduler: "rr"}, map[netip.AddrPort]*genl.Destination{}}
	o := Options{Exclude: []netip.Prefix{netip.MustParsePrefix("10.96.7.0/24")}}
	for _, service := range []*proxy.Service{web("10.244.1.2:8080"), nil} {
		s := proxytest.NewState(proxy.IPv4)
		if service != nil {
			s = proxytest.NewState(proxy.IPv4, service)
		}
		if _, err := k.backend(o).Apply(t.Context(), s); err != nil { // a restart each time: the NodePort's servers are known from the record
			t.Fatal(err)
		}
	}
	want := append(slices.Clone(foreign), excluded)
	slices.SortFunc(want, genl.Key.Compare)
	if d := cmp.Diff(texts(want), texts(sortedKeys(k.list))); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if err := k.backend(o).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(texts(want), texts(sortedKeys(k.list))); d != "" {
		t.Errorf("after Cleanup: -want +got:\n%s", d)
	}
}

func texts(keys []genl.Key) (out []string) {
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

// What is excluded belongs to others, who may change it as they like, also once a Service has asked for the same.
func TestExcluded(t *testing.T) {
	at := key(proxy.TCP, "10.96.0.1:80")
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{Exclude: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/24")}})
	for _, s := range []*proxy.State{proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080")), proxytest.NewState(proxy.IPv4)} {
		if _, err := b.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if k.list[at] == nil || !k.addrs[at.At.Addr()] {
		t.Fatalf("deleted:\n%s", k.dump(true))
	}
	change := func() {
		k.list[at] = &fakeServer{genl.Server{Key: at, Scheduler: "wlc"}, map[netip.AddrPort]*genl.Destination{}}
		delete(k.addrs, at.At.Addr())
	}
	change()
	if damage, err := b.Check(t.Context()); damage != "" || err != nil {
		t.Errorf("%q, %v", damage, err)
	}
	b.Forget()
	if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4)); err != nil {
		t.Fatal(err)
	}
	change()
	if damage, err := b.Check(t.Context()); damage != "" || err != nil {
		t.Errorf("after a full sync: %q, %v", damage, err)
	}
	s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080"))
	if _, err := b.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(fresh(t, s), k.dump(true)); d != "" {
		t.Errorf("wanted again: -want +got:\n%s", d)
	}
}

// Cleanup of a Backend that knows nothing removes all of ours.
func TestCleanup(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	if _, err := k.backend(Options{}).Apply(t.Context(), proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080"))); err != nil {
		t.Fatal(err)
	}
	if err := k.backend(Options{}).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.list) > 0 || k.addrs != nil || k.gate != nil {
		t.Errorf("left: %s", k.dump(true))
	}
}

// A TCP endpoint that goes keeps its connections and gets no new ones; it is deleted when they are over, also by a proxy that was started in between.
func TestGracefulRemoval(t *testing.T) {
	at := netip.MustParseAddrPort("10.244.1.2:8080")
	for _, restart := range []bool{false, true} {
		k := newFakeKernel(proxy.IPv4)
		b := k.backend(Options{})
		apply := func(endpoints ...string) {
			t.Helper()
			if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, web(endpoints...))); err != nil {
				t.Fatal(err)
			}
		}
		check := func() {
			t.Helper()
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Fatalf("%q, %v", damage, err)
			}
		}
		apply("10.244.1.2:8080", "10.244.1.3:8080")
		d := k.list[key(proxy.TCP, "10.96.0.1:80")].destinations
		d[at].Active = 2
		apply("10.244.1.3:8080")
		if restart {
			b = k.backend(Options{})
			apply("10.244.1.3:8080")
		}
		check()
		if d[at] == nil || d[at].Weight != 0 {
			t.Fatalf("restart %t: with connections: %+v", restart, d[at])
		}
		d[at].Active, d[at].Inactive = 0, 1
		check()
		if d[at] == nil {
			t.Fatalf("restart %t: gone with an inactive connection", restart)
		}
		d[at].Inactive = 0
		check()
		if d[at] != nil {
			t.Errorf("restart %t: still there without connections", restart)
		}
	}
}

// Another mode has taken over: what has no connections goes at once and the rest, which gets no new ones, with its last connection, whoever asks. The table becomes a record at once.
func TestRetire(t *testing.T) {
	at, vip := netip.MustParseAddrPort("10.244.1.2:8080"), key(proxy.TCP, "10.96.0.1:80")
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	foreign := genl.Server{Key: key(proxy.TCP, "192.0.2.1:80"), Scheduler: "rr"}
	if err := k.AddServer(foreign); err != nil {
		t.Fatal(err)
	}
	s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080", "10.244.1.3:8080"))
	if _, err := b.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	retire := func(want int) {
		t.Helper()
		if n, err := b.Retire(t.Context()); n != want || err != nil {
			t.Fatalf("%d connections, %v; want %d", n, err, want)
		}
	}
	d := k.list[vip].destinations
	d[at].Active, d[at].Inactive = 2, 1
	retire(10) // three, and seven more destinations that might have got a connection since they were looked at
	for _, c := range []struct{ active, inactive uint32 }{{2, 1}, {1, 0}, {0, 1}} {
		d[at].Active, d[at].Inactive = c.active, c.inactive
		retire(int(c.active + c.inactive))
		if got := k.dump(true); got != "-A -t 10.96.0.1:80 -s rr\n-A -t 192.0.2.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -w 0\naddress 10.96.0.1\n" {
			t.Fatalf("with %+v connections:\n%s", c, got)
		}
		if !k.disarmed || k.gate == nil {
			t.Fatalf("packets still come to the table, or there is no record: %t, %v", k.disarmed, k.gate)
		}
		b = k.backend(Options{}) // a new process
	}
	if _, err := b.Apply(t.Context(), s); err != nil || k.disarmed || len(k.list[vip].destinations) != 2 || k.list[vip].destinations[at].Weight != 1 {
		t.Errorf("back in use: %v, disarmed %t, destinations %v", err, k.disarmed, k.list[vip].destinations)
	}
	k.list[vip].destinations[at].Inactive = 0
	retire(8)
	retire(0)
	if got := k.dump(true); got != "-A -t 192.0.2.1:80 -s rr\n" || k.addrs != nil || k.gate != nil {
		t.Errorf("left: interface %t, table %t\n%s", k.addrs != nil, k.gate != nil, got)
	}
	retire(0)
}

// An endpoint that comes back while it is on its way out gets connections again, and stays.
func TestReturn(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	for _, endpoints := range [][]string{{"10.244.1.2:8080"}, nil, {"10.244.1.2:8080"}} {
		s := web(endpoints...)
		if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, s)); err != nil {
			t.Fatal(err)
		}
	}
	checkDrained(t, b, k)
	if d := k.list[key(proxy.TCP, "10.96.0.1:80")].destinations[netip.MustParseAddrPort("10.244.1.2:8080")]; d == nil || d.Weight != 1 {
		t.Errorf("%+v", d)
	}
}

// Datagrams know no end of a connection: an endpoint stays for its flows only while it serves them, and goes at once when it does not.
func TestRemovalUDP(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	dns := func(serving []string, pool ...string) *proxy.State {
		s := proxytest.NewService("ns/dns/UDP", proxytest.At(proxy.ClusterIP, "10.96.0.10:53", proxytest.Internal), proxytest.On(pool...))
		s.Serving = nil
		for _, at := range serving {
			s.Serving = append(s.Serving, netip.MustParseAddrPort(at))
		}
		return proxytest.NewState(proxy.IPv4, s)
	}
	one, two := "10.244.1.2:53", "10.244.1.3:53"

	for i, step := range []struct {
		state *proxy.State
		want  map[string]uint32 // weights
	}{
		{dns([]string{one, two}, one, two), map[string]uint32{one: 1, two: 1}},
		{dns([]string{one, two}, two), map[string]uint32{one: 0, two: 1}},
		{dns([]string{two}, two), map[string]uint32{two: 1}},
		{dns([]string{one}, one), map[string]uint32{one: 1}},
		{dns([]string{one}), map[string]uint32{one: 0}},
		{dns(nil), map[string]uint32{}},
	} {
		if i%2 == 1 {
			b = k.backend(Options{}) // a new process
		}
		if _, err := b.Apply(t.Context(), step.state); err != nil {
			t.Fatal(err)
		}
		got := map[string]uint32{}
		for at, x := range k.list[key(proxy.UDP, "10.96.0.10:53")].destinations {
			got[at.String()] = x.Weight
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("step %d: weights -want +got:\n%s", i, diff)
		}
	}
}

// Every damage is found by Check, and mended by Forget and Apply.
func TestCheck(t *testing.T) {
	cluster, nodePort := key(proxy.TCP, "10.96.0.1:80"), key(proxy.TCP, "192.168.50.1:30080")
	at := netip.MustParseAddrPort("10.244.1.2:8080")
	for name, damage := range map[string]func(*fakeKernel){
		"address":             func(k *fakeKernel) { delete(k.addrs, cluster.At.Addr()) },
		"interface":           func(k *fakeKernel) { k.addrs = nil },
		"virtual server":      func(k *fakeKernel) { delete(k.list, cluster) },
		"NodePort":            func(k *fakeKernel) { delete(k.list, nodePort) },
		"all virtual servers": func(k *fakeKernel) { clear(k.list) },
		"another scheduler":   func(k *fakeKernel) { k.list[cluster].Scheduler = "lc" },
		"destination":         func(k *fakeKernel) { delete(k.list[cluster].destinations, at) },
		"weight":              func(k *fakeKernel) { k.list[cluster].destinations[at].Weight = 7 },
		"table":               func(k *fakeKernel) { k.gate = nil },
		"destination of another": func(k *fakeKernel) {
			k.list[cluster].destinations[netip.MustParseAddrPort("10.9.9.9:1")] = &genl.Destination{At: netip.MustParseAddrPort("10.9.9.9:1"), Weight: 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newFakeKernel(proxy.IPv4)
			b := k.backend(Options{})
			s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080"))
			if _, err := b.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			checkDrained(t, b, k)
			damage(k)
			if found, err := b.Check(t.Context()); found == "" || err != nil {
				t.Fatalf("not found: %q, %v", found, err)
			}
			b.Forget()
			if _, err := b.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			checkDrained(t, b, k)
			if d := cmp.Diff(fresh(t, s), k.dump(true)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// An address that the node has anyway is served, but not put on the interface.
func TestOwnAddress(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	k.others[netip.MustParseAddr("192.168.50.1")] = true
	s := proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ExternalIP, "192.168.50.1:80", proxytest.External), proxytest.On("10.244.1.2:8080")))
	if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if want := "-A -t 192.168.50.1:80 -s rr\n-a -t 192.168.50.1:80 -r 10.244.1.2:8080 -w 1\n"; k.dump(true) != want {
		t.Errorf("got %q, want %q", k.dump(true), want)
	}
}

// An address of a Service that comes to another interface of the node, or goes from there, is noticed.
func TestOwnAddressMoves(t *testing.T) {
	addr := netip.MustParseAddr("192.168.51.9")
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	s := proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ExternalIP, "192.168.51.9:80", proxytest.External), proxytest.On("10.244.1.2:8080")))
	for _, own := range []bool{false, true, false} {
		k.others[addr] = own
		if !own {
			delete(k.others, addr)
		}
		if damage, err := b.Check(t.Context()); err != nil || (damage == "") != (b.applied == nil) {
			t.Errorf("own %t: %q, %v", own, damage, err)
		}
		b.Forget()
		if _, err := b.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if k.addrs[addr] == own {
			t.Errorf("on another interface: %t, on ours: %t", own, k.addrs[addr])
		}
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Errorf("own %t, mended: %q, %v", own, damage, err)
		}
	}
}

// A listing that the kernel calls incomplete is made again, though not for ever; and what the kernel made itself is left out.
func TestListAddrs(t *testing.T) {
	list := func(texts ...string) (out []netlink.Addr) {
		for _, text := range texts {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, *a)
		}
		return out
	}
	for interrupted := range listAttempts + 1 {
		calls := 0
		got, err := listAddrs(func() ([]netlink.Addr, error) {
			if calls++; calls <= interrupted {
				return list("10.96.0.1/32"), netlink.ErrDumpInterrupted
			}
			return list("10.96.0.1/32", "fe80::1/64", "fe80::2/128", "169.254.20.10/16", "10.96.0.2/32"), nil
		})
		if interrupted == listAttempts {
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				t.Errorf("always interrupted: %v, %v", got, err)
			}
			continue
		}
		if want := list("10.96.0.1/32", "fe80::2/128", "169.254.20.10/16", "10.96.0.2/32"); err != nil || !slices.EqualFunc(want, got, netlink.Addr.Equal) {
			t.Errorf("%d times interrupted: %v, %v, want %v", interrupted, got, err, want)
		}
	}
}

// Opening and closing, also in vain, leaves no socket open.
func TestOpenLeavesNoSocket(t *testing.T) {
	sockets := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("needs /proc: %v", err)
		}
		for _, e := range entries {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	before := sockets()
	for range 10 {
		if b, err := Open(Options{Family: proxy.IPv4}); err == nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if after := sockets(); after != before {
		t.Errorf("%d sockets, %d before", after, before)
	}
}

func TestOptions(t *testing.T) {
	k, settings := newFakeKernel(proxy.IPv4), fakeSysctl{}
	timeouts := genl.Timeouts{TCP: time.Hour, UDP: time.Minute}
	b := k.backend(Options{Scheduler: "mh", StrictARP: true, Timeouts: timeouts, Sysctl: settings})
	sticky := proxytest.NewService("ns/web/TCP", proxytest.Sticky(time.Hour), proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On("10.244.1.2:8080"))
	if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, sticky)); err != nil {
		t.Fatal(err)
	}
	want := genl.Server{Key: key(proxy.TCP, "10.96.0.1:80"), Scheduler: "mh", Flags: 0x10, Persistence: time.Hour}
	if got := k.list[want.Key].Server; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if k.timeouts != timeouts {
		t.Errorf("timeouts %+v", k.timeouts)
	}
	wantSettings := fakeSysctl{"net/ipv4/vs/conntrack": "1", "net/ipv4/vs/expire_nodest_conn": "1", "net/ipv4/vs/expire_quiescent_template": "1",
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
	if d := cmp.Diff(wantSettings, settings); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	b = k.backend(Options{Scheduler: "nonsense"})
	if err := b.probe(); err == nil || !strings.Contains(err.Error(), `no scheduler "nonsense"`) || !strings.Contains(err.Error(), "ipvs.scheduler") {
		t.Errorf("probe: %v", err)
	}
}
