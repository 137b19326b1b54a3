package iptables

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/iptables/nfacct"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// fakeCounters are counters in memory.
type fakeCounters struct {
	made   map[string]uint64
	broken error // what is returned by everything
}

func (c *fakeCounters) ensure(name string) error {
	if c.broken == nil {
		c.made[name] += 0
	}
	return c.broken
}

func (c *fakeCounters) packets(name string) (uint64, error) {
	n, ok := c.made[name]
	if c.broken == nil && !ok {
		return 0, fs.ErrNotExist
	}
	return n, c.broken
}

func (c *fakeCounters) remove(name string) error {
	delete(c.made, name)
	return c.broken
}

// A countingRig is a Backend with NodePorts on loopback addresses, on a kernel and counters in memory.
type countingRig struct {
	*Backend
	t        *testing.T
	kernel   *fakeKernel
	counters *fakeCounters
}

func newCountingRig(t *testing.T) *countingRig {
	r := &countingRig{t: t, kernel: newFakeKernel(), counters: &fakeCounters{made: map[string]uint64{}}}
	r.Backend = newBackend(Options{Family: proxy.IPv4, LocalhostNodePorts: true}, r.kernel)
	r.Backend.counters = r.counters
	return r
}

func (r *countingRig) apply(services ...*proxy.Service) proxy.Report {
	r.t.Helper()
	report, err := r.Apply(r.t.Context(), proxytest.NewState(proxy.IPv4, services...))
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// wantRules checks how many rules count.
func (r *countingRig) wantRules(what string, want int) {
	r.t.Helper()
	got := 0
	for _, l := range r.kernel.dump(r.rules) {
		if strings.Contains(l, "nfacct") {
			got++
		}
	}
	if got != want {
		r.t.Errorf("%s: %d rules count, want %d", what, got, want)
	}
}

func (r *countingRig) wantPackets(what string, want proxy.PacketCounts, ok bool) {
	r.t.Helper()
	if got, has := r.Packets(); got != want || has != ok {
		r.t.Errorf("%s: %+v, %t; want %+v, %t", what, got, has, want, ok)
	}
}

// Rules count where both the kernel and the programs can; where one of them cannot, or no longer, they do without, and no number is told.
func TestCounters(t *testing.T) {
	r := newCountingRig(t)
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("before it is known that they can", 0)
	r.wantPackets("before it is known that they can", proxy.PacketCounts{}, false)

	r.counters.broken = errors.New("no counters in\nthis kernel")
	if r.tryCounters(t.Context()); r.Choice().Uncounted == "" || strings.Contains(r.Choice().String(), "\n") {
		t.Errorf("choice: %s", r.Choice())
	}
	r.counters.broken, r.kernel.refuse = nil, func(l string) bool { return strings.Contains(l, "nfacct") }
	if r.tryCounters(t.Context()); !strings.Contains(r.Choice().String(), "not accepted") {
		t.Errorf("choice: %s", r.Choice())
	}
	r.Forget()
	if report := r.apply(web(proxy.IPv4, 0, "2")); report.Failures.All != 0 {
		t.Errorf("tried rules that the program does not know: %+v", report)
	}
	r.wantRules("programs that cannot", 0)

	r.kernel.refuse, r.choice.Uncounted = nil, ""
	if r.tryCounters(t.Context()); r.Choice().Uncounted != "" {
		t.Fatalf("choice: %s", r.Choice())
	}
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("both can", 2)
	r.counters.made[invalidDropped], r.counters.made[localhostAccepted] = 3, 5
	r.wantPackets("both can", proxy.PacketCounts{InvalidDropped: 3, LocalhostAccepted: 5}, true)
	if err := r.Cleanup(t.Context()); err != nil || len(r.counters.made) > 0 {
		t.Errorf("cleanup: %v, left %v", err, r.counters.made)
	}
	r.wantPackets("after cleanup", proxy.PacketCounts{}, false)
}

// The rule for loopback addresses comes before the one for all, and both change together.
func TestCountersOfNodePorts(t *testing.T) {
	r := newCountingRig(t)
	r.tryCounters(t.Context())
	r.apply()
	r.wantRules("no NodePort", 1)
	delete(r.counters.made, localhostAccepted) // as happens to what no rule counts with
	r.wantPackets("one of which is gone", proxy.PacketCounts{}, true)
	if report := r.apply(web(proxy.IPv4, 0, "2")); report.Full {
		t.Errorf("a NodePort that comes: %+v", report)
	}
	if _, ok := r.counters.made[localhostAccepted]; !ok {
		t.Error("a rule counts with a counter that is not there")
	}
	to := "-j " + namingOf(web(proxy.IPv4, 0, "2").Name).chain(entryPrefix, "")
	port := `-p tcp -m tcp --dport 30080 -m comment --comment "ns/web NodePort" `
	want := []string{"-d 127.0.0.0/8 " + port + "-m nfacct --nfacct-name localhost_nps_accepted_pkts " + to, port + to}
	if diff := cmp.Diff(want, r.kernel.tables[nat][nodePortsChain]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	r.apply()
	r.wantRules("no NodePort any more", 1)
	r.options.LocalhostNodePorts = false
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("no NodePorts on loopback addresses", 1)
	r.options.KeepInvalid = true
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("packets that nobody can place are kept", 0)
}

// Counters never keep rules from being written: not if they cannot be made any more, nor if rules with them are refused, with a line or without.
func TestCountersBreakLater(t *testing.T) {
	r := newCountingRig(t)
	r.tryCounters(t.Context())
	r.counters.broken = errors.New("no counters")
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("cannot be made", 0)
	r.wantPackets("cannot be made", proxy.PacketCounts{}, false)
	r.counters.broken = nil
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("can be made again", 2)
	r.counters.broken = errors.New("cannot be read")
	r.wantPackets("cannot be read", proxy.PacketCounts{}, false)
	r.counters.broken = nil

	r.kernel.refuse = func(l string) bool { return strings.Contains(l, "nfacct") }
	r.Forget()
	report := r.apply(web(proxy.IPv4, 0, "2"))
	if len(report.Rejected) > 0 || report.Failures != (proxy.Failures{All: 1}) {
		t.Errorf("%+v", report)
	}
	r.wantRules("are refused", 0)
	report = r.apply(web(proxy.IPv4, 0, "2", "3"))
	if report.Full || report.Failures.All > 0 {
		t.Errorf("a change after that: %+v", report)
	}
	r.kernel.refuse = nil
	r.kernel.fail = &Error{Program: "fake", Kind: Refused, Detail: "no line is told"}
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("are refused without a line", 0)
	r.Forget()
	r.apply(web(proxy.IPv4, 0, "2"))
	r.wantRules("are accepted again", 2)

	// A Service at fault is left out, and the rest counts.
	r.kernel.refuse = func(l string) bool { return strings.Contains(l, "10.96.0.9") }
	bad := proxytest.NewService("ns/bad/TCP", proxytest.On("10.244.1.2:8080"), proxytest.At(proxy.ClusterIP, "10.96.0.9:80", proxytest.Internal))
	report = r.apply(web(proxy.IPv4, 0, "2"), bad)
	if len(report.Rejected) != 1 || report.Rejected[0].Name != bad.Name || report.Failures != (proxy.Failures{All: 2, Changes: 1}) {
		t.Errorf("%+v", report)
	}
	r.wantRules("beside a Service that is refused", 2)
}

// countingNode is a node whose kernel and programs count.
func countingNode(t *testing.T, o Options) *node {
	t.Helper()
	n := newNode(t, o)
	if why := n.backend.Choice().Uncounted; why != "" {
		t.Skip(why)
	}
	if err := n.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) wantPackets(what string, want proxy.PacketCounts) {
	n.t.Helper()
	n.do(func() error {
		if got, ok := n.backend.Packets(); got != want || !ok {
			n.t.Errorf("%s: %+v, %t; want %+v", what, got, ok, want)
		}
		return nil
	})
}

// The kernel counts the packets that are dropped because nobody can place them, and neither a rebuild nor another process loses the number.
func TestKernelCountsInvalid(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, o Options) {
		t.Parallel()
		n := countingNode(t, o)
		state := proxytest.NewState(o.Family, web(o.Family, 0, "2"))
		n.apply(state)
		n.wantPackets("at first", proxy.PacketCounts{})
		const packets = 5
		if err := n.Client().Do(func() error { return sendInvalid(n.Host("pod-1").Addr(o.Family), packets) }); err != nil {
			t.Fatal(err)
		}
		want := proxy.PacketCounts{InvalidDropped: packets}
		n.wantPackets("after packets", want)
		n.do(func() error {
			if damage, err := n.backend.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("damage %q, %v", damage, err)
			}
			return nil
		})
		n.backend.Forget()
		n.apply(state)
		n.wantPackets("after a rebuild", want)
		n.do(func() (err error) { n.backend, err = New(t.Context(), o); return err })
		n.apply(state)
		n.wantPackets("of another process", want)
		n.do(func() error { return n.backend.Cleanup(t.Context()) })
		n.do(func() error {
			for _, name := range Counters {
				if _, err := nfacct.Packets(name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after cleanup, %s: %v", name, err)
				}
			}
			return nil
		})
	})
}

// sendInvalid sends resets of connections that never were.
func sendInvalid(to netip.Addr, n int) error {
	network := "ip4:tcp"
	if to.Is6() {
		network = "ip6:tcp"
	}
	c, err := net.Dial(network, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	for range n {
		header := []byte{0x80, 0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 1 << 2, 0, 0, 0, 0, 0, 0} // reset
		if _, err := c.Write(header); err != nil {
			return err
		}
	}
	return nil
}

// Both families count with the same counters; the one that goes first leaves them to the other.
func TestKernelCountersShared(t *testing.T) {
	for _, v := range variants {
		o := Options{Variant: v}
		o.setDefaults()
		if _, err := findPrograms(t.Context(), &o, v); err != nil {
			t.Skipf("needs iptables: %v", err)
		}
		proxytest.InNamespace(t, func() {
			var both []*Backend
			for _, f := range proxy.Families {
				o.Family = f
				b := newKernelBackend(t, o)
				if b.Choice().Uncounted != "" {
					t.Skip(b.Choice().Uncounted)
				}
				mustApply(t, b, proxytest.NewState(f))
				both = append(both, b)
			}
			for i, gone := range []bool{false, true} {
				if err := both[i].Cleanup(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := nfacct.Packets(invalidDropped); errors.Is(err, fs.ErrNotExist) != gone {
					t.Errorf("%s: %s is gone: %t, want %t (%v)", v, both[i].options.Family, !gone, gone, err)
				}
			}
		})
	}
}

// The kernel counts connections to NodePorts on loopback addresses, and no others.
func TestKernelCountsLocalhost(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			o := Options{Family: proxy.IPv4, Variant: v, LocalhostNodePorts: true}
			o.setDefaults()
			if _, err := findPrograms(t.Context(), &o, v); err != nil {
				t.Skipf("needs iptables: %v", err)
			}
			n := countingNode(t, o)
			n.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o644) })
			n.apply(proxytest.NewState(proxy.IPv4))
			n.apply(proxytest.NewState(proxy.IPv4, web(proxy.IPv4, 0, "2")))
			for _, to := range []string{"127.0.0.1:30080", "127.0.0.2:30080", "192.168.50.1:30080", "10.96.0.1:80"} {
				if got := n.Node().Dial(proxy.TCP, netip.MustParseAddrPort(to), lab.DialOptions{}); got.Result != lab.Connected {
					t.Errorf("%s: %v", to, got)
				}
			}
			n.wantPackets("two of four connections", proxy.PacketCounts{LocalhostAccepted: 2})
			if r := n.apply(proxytest.NewState(proxy.IPv4)); r.Full {
				t.Errorf("a NodePort that goes: %+v", r)
			}
			n.wantPackets("without the NodePort", proxy.PacketCounts{LocalhostAccepted: 2})
		})
	}
}

// With programs that lack the extension, everything works but counting, and the choice tells why.
func TestKernelWithoutExtension(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/*/xtables/libx*.so")
	if err != nil || len(found) == 0 {
		t.Skipf("needs iptables with extensions in /usr/lib/*/xtables: %v", err)
	}
	extensions := t.TempDir()
	all, err := filepath.Glob(filepath.Dir(found[0]) + "/*.so")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if filepath.Base(file) == "libxt_nfacct.so" {
			continue
		}
		if err := os.Symlink(file, filepath.Join(extensions, filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XTABLES_LIBDIR", extensions)
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		if !strings.Contains(b.Choice().String(), "packets are not counted: ") {
			t.Errorf("choice: %s", b.Choice())
		}
		if r := mustApply(t, b, proxytest.NewState(o.Family, web(o.Family, 0, "2"))); r.Failures.All > 0 {
			t.Errorf("%+v", r)
		}
		if _, ok := b.Packets(); ok {
			t.Error("a number is told of what nobody counts")
		}
		if text := strings.Join(saved(t, o), "\n"); !strings.Contains(text, "--ctstate INVALID -j DROP") {
			t.Errorf("rules:\n%s", text)
		}
	})
}

// sizes are the numbers of rules in our chains.
func (k *fakeKernel) sizes() map[string]int {
	out := map[string]int{}
	for _, table := range [...]string{nat, filter} {
		for name, rules := range k.tables[table] {
			if !slices.Contains(builtin[table], name) {
				out[table] += len(rules)
			}
		}
	}
	return out
}

func sizesOf(r proxy.Report) map[string]int {
	out := map[string]int{}
	for _, table := range r.Tables {
		out[table.Name] = table.Rules
	}
	return out
}

// Reports have the numbers of rules that the kernel has, and of those that were written last.
func TestKernelNumbersOfRules(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		o.LocalhostNodePorts = o.Family == proxy.IPv4
		b := newKernelBackend(t, o)
		check := func(what string, r proxy.Report, written map[string]int) {
			t.Helper()
			want := map[string]int{}
			for _, l := range saved(t, o) {
				if words := strings.Fields(l); words[1] == "-A" && words[0] != mangle && strings.HasPrefix(words[2], "KUBE-") {
					want[words[0]]++
				}
			}
			got := sizesOf(r)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: rules: -in the kernel +reported:\n%s", what, diff)
			}
			wrote := map[string]int{}
			for _, table := range r.Tables {
				wrote[table.Name] = table.Written
			}
			if written == nil {
				written = got
			}
			if diff := cmp.Diff(written, wrote); diff != "" {
				t.Errorf("%s: written: -want +got:\n%s", what, diff)
			}
		}
		check("a rebuild", mustApply(t, b, proxytest.NewState(o.Family, web(o.Family, 0, "2", "3"))), nil)
		// The pool's chain anew, which is a rule for masquerading and one for each endpoint, and the two rules of the new endpoint's chain.
		more := proxytest.NewState(o.Family, web(o.Family, 0, "2", "3", "4"))
		endpoint := map[string]int{nat: 1 + 3 + 2, filter: 0}
		check("an endpoint more", mustApply(t, b, more), endpoint)
		check("nothing", mustApply(t, b, more), endpoint)
		check("none", mustApply(t, b, proxytest.NewState(o.Family)), map[string]int{nat: 0, filter: 0})
	})
}

// What is refused is counted, also if it is all that happens.
func TestFailures(t *testing.T) {
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	for i, row := range []struct {
		fail Kind
		want proxy.Failures
		ok   bool
	}{
		{TimedOut, proxy.Failures{All: 1}, false},           // a rebuild
		{Refused, proxy.Failures{All: 1}, false},            // a rebuild, with nobody to blame
		{Refused, proxy.Failures{All: 1, Changes: 1}, true}, // a change, and then a rebuild that is accepted
		{TimedOut, proxy.Failures{All: 1, Changes: 1}, false},
	} {
		if row.want.Changes > 0 {
			if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4)); err != nil {
				t.Fatal(err)
			}
		}
		k.fail = &Error{Program: "fake", Kind: row.fail}
		r, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, web(proxy.IPv4, 0, strconv.Itoa(2+i))))
		if (err == nil) != row.ok || r.Failures != row.want {
			t.Errorf("%d: %+v, %v; want %+v", i, r, err, row.want)
		}
	}
}
