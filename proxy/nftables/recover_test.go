package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// values are what frontends lead to, by address.
func (k *fakeKernel) values() map[string]string {
	out := map[string]string{}
	for _, e := range k.tables[TableName].set("frontends").elements {
		out[netipBytes(e.key[:4]).String()] = classid(binary.NativeEndian.Uint32(e.value))
	}
	return out
}

// Numbers and classes outlive a process.
func TestRestartKeepsValues(t *testing.T) {
	at := func(address string, endpoints ...string) *proxy.Service {
		name := strings.ReplaceAll(address, ".", "-")
		return proxytest.NewService("ns/s-"+name+"/TCP", proxytest.At(proxy.ClusterIP, address+":80", proxytest.Internal), proxytest.On(endpoints...))
	}
	one, two, three := "10.244.2.1:80", "10.244.2.2:80", "10.244.2.3:80"
	k := newFakeKernel(proxy.IPv4)
	apply := func(s *proxy.State) {
		t.Helper()
		if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	apply(proxytest.NewState(proxy.IPv4, at("10.96.0.5", one), at("10.96.0.6", one, two), at("10.96.0.7", one, two, three)))
	if diff := cmp.Diff(map[string]string{"10.96.0.5": "10:1", "10.96.0.6": "20:2", "10.96.0.7": "30:3"}, k.values()); diff != "" {
		t.Fatalf("at first: -want +got:\n%s", diff)
	}
	// One comes before all others, the first goes, and the last has as many endpoints as the first had.
	apply(proxytest.NewState(proxy.IPv4, at("10.96.0.1", one, two, three), at("10.96.0.6", one, two), at("10.96.0.7", one)))
	if diff := cmp.Diff(map[string]string{"10.96.0.1": "30:4", "10.96.0.6": "20:2", "10.96.0.7": "10:3"}, k.values()); diff != "" {
		t.Errorf("after a restart: -want +got:\n%s", diff)
	}
	if got := len(k.tables[TableName].set("endpoints").elements); got != 6 {
		t.Errorf("%d endpoints, want 6", got)
	}
}

// While no process looked, a Service lost a frontend to one that is new. The old one keeps its number: its other frontends' packets may
// be under way.
func TestRestartFindsNamesFirst(t *testing.T) {
	at := func(name, endpoint string, addresses ...string) *proxy.Service {
		parts := []proxytest.Part{proxytest.On(endpoint)}
		for _, a := range addresses {
			parts = append(parts, proxytest.At(proxy.ExternalIP, a+":80", proxytest.External))
		}
		return proxytest.NewService("ns/"+name+"/TCP", parts...)
	}
	for i := range 20 { // the order of Services in a State depends on their names
		old, heir := fmt.Sprintf("old-%d", i), fmt.Sprintf("new-%d", i)
		k := newFakeKernel(proxy.IPv4)
		for _, s := range []*proxy.State{
			proxytest.NewState(proxy.IPv4, at(old, "10.244.2.1:80", "10.0.0.1", "10.0.0.2")),
			proxytest.NewState(proxy.IPv4, at(old, "10.244.2.1:80", "10.0.0.2"), at(heir, "10.244.2.2:80", "10.0.0.1")),
		} {
			if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(map[string]string{"10.0.0.1": "10:2", "10.0.0.2": "10:1"}, k.values()); diff != "" {
			t.Fatalf("%s: -want +got:\n%s", old, diff)
		}
	}
}

// After an update that the kernel did not carry out, numbers that it would have freed still lead to their Services.
func TestFailedUpdateFreesNoNumber(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	var f *failing
	b := k.backendThrough(Options{}, func(s socket) socket { f = &failing{socket: s}; return &switchable{f, false} })
	apply := func(services ...*proxy.Service) error {
		_, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, services...))
		return err
	}
	if err := apply(plain(1), plain(2)); err != nil {
		t.Fatal(err)
	}
	f.how, f.errno = "send", 1
	b.kernel.socket.(*switchable).fails = true
	if err := apply(plain(2)); err == nil {
		t.Fatal("the update was carried out")
	}
	b.kernel.socket.(*switchable).fails = false
	if err := apply(plain(2), plain(3)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"10.96.0.2": "10:2", "10.96.0.3": "10:3"}, k.values()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// switchable is a failing socket that can be mended.
type switchable struct {
	*failing
	fails bool
}

func (s *switchable) send(b []byte) error {
	if s.fails {
		return s.failing.send(b)
	}
	return s.socket.send(b)
}

// When the numbers of classes are used up, a rebuild gives out those again that nothing leads to.
func TestClassNumbersComeFree(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	apply := func(n int) (proxy.Report, string) {
		t.Helper()
		var endpoints []string
		for i := range n {
			endpoints = append(endpoints, fmt.Sprintf("10.244.2.%d:80", i+1))
		}
		s := proxytest.NewService("ns/web/TCP", proxytest.At(proxy.LoadBalancerIP, "10.0.0.1:80", proxytest.External), proxytest.On(endpoints...))
		r, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, s, plain(1)))
		if err != nil || len(r.Rejected) > 0 {
			t.Fatalf("%d endpoints: %+v, %v", n, r, err)
		}
		return r, k.values()["10.0.0.1"]
	}
	apply(1)
	b.table.classes.next = maxClass - 3 // as if all before had been given
	var full []int
	var values []string
	for n := 2; n <= 9; n++ {
		r, value := apply(n)
		if r.Full {
			full = append(full, n)
		}
		values = append(values, value)
	}
	if diff := cmp.Diff([]int{6}, full); diff != "" {
		t.Errorf("rebuilt with: -want +got:\n%s", diff)
	}
	// Number 1 is the other Service's class, and 2 that of one endpoint, which the kernel still has a way to.
	if diff := cmp.Diff([]string{"ffc0:2", "ffd0:2", "ffe0:2", "fff0:2", "30:2", "40:2", "50:2", "60:2"}, values); diff != "" {
		t.Errorf("classes: -want +got:\n%s", diff)
	}
}

// Whatever stands where our table should be, what is there afterwards is our table.
func TestKernelTakeOver(t *testing.T) {
	state := proxytest.NewState(proxy.IPv4, append(plains(3), proxytest.NewService("ns/sticky/TCP", proxytest.Sticky(time.Hour),
		proxytest.At(proxy.NodePort, ":30080", proxytest.ExternalLocal), proxytest.On("10.244.1.2:80 local", "10.244.2.2:80")))...)
	for _, row := range []struct {
		name string
		ours bool     // applied before
		do   []string // nft commands
	}{
		{"nothing", false, nil},
		{"our own table", true, nil},
		{"kube-proxy's table", false, []string{
			`add table ip kube-proxy { comment "rules for kube-proxy"; }`,
			`add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }`,
			`add chain ip kube-proxy service-A`,
			`add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100; }`,
			`add chain ip kube-proxy filter-input { type filter hook input priority -110; }`,
			`add rule ip kube-proxy nat-prerouting ip daddr . meta l4proto . th dport vmap @service-ips`,
			`add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-A }`,
		}},
		{"a table of an older layout", false, []string{
			`add table ip kube-proxy { comment "turnout layout 0"; }`,
			`add set ip kube-proxy frontends { type ipv4_addr; }`,
		}},
		{"an empty table that says it is ours", false, []string{`add table ip kube-proxy { comment "` + layoutComment + `"; }`}},
		{"a map of another type under our name", false, []string{
			`add table ip kube-proxy { comment "` + layoutComment + `"; }`,
			`add map ip kube-proxy frontends { type ipv4_addr : classid; }`,
		}},
		{"our rules flushed", true, []string{`flush table ip kube-proxy`}},
		{"our elements flushed", true, []string{`flush map ip kube-proxy frontends`, `flush map ip kube-proxy endpoints`, `flush map ip kube-proxy dispatch`}},
		{"a set missing", true, []string{`flush table ip kube-proxy`, `delete set ip kube-proxy hairpin`}},
		{"a map missing", true, []string{`flush table ip kube-proxy`, `delete map ip kube-proxy endpoints`}},
		{"a chain missing", true, []string{`flush table ip kube-proxy`, `delete chain ip kube-proxy nat-prerouting`}},
		{"a foreign rule", true, []string{`insert rule ip kube-proxy services drop`}},
		{"a foreign chain", true, []string{`add chain ip kube-proxy foreign { type filter hook input priority 0; policy drop; }`}},
		{"another endpoint", true, []string{`delete element ip kube-proxy endpoints { 0:1 . 0 }`, `add element ip kube-proxy endpoints { 0:1 . 0 : 10.0.0.1 . 1 }`}},
		{"the table gone", true, []string{`delete table ip kube-proxy`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			inKernel(t, func() {
				b := newTestBackend(t, Options{Family: proxy.IPv4})
				if row.ours {
					if _, err := b.Apply(t.Context(), state); err != nil {
						t.Fatal(err)
					}
				}
				for _, command := range row.do {
					nft(t, command)
				}
				b.Forget()
				for _, who := range []*Backend{b, newTestBackend(t, Options{Family: proxy.IPv4})} {
					if r, err := who.Apply(t.Context(), state); err != nil || len(r.Rejected) > 0 || !r.Full {
						t.Fatalf("%+v, %v", r, err)
					}
					if diff := cmp.Diff(blocks(textOf(t, state)), blocks(listTable(t, proxy.IPv4))); diff != "" {
						t.Errorf("-want +kernel:\n%s", diff)
					}
				}
			})
		})
	}
}

// blocks splits a table's text into its sets and chains, sorted: what was missing is made behind the others.
func blocks(text string) []string {
	return slices.Sorted(strings.SplitSeq(strings.TrimSuffix(text, "}\n"), "\t}\n"))
}

// A foreign change is met by the next update, too, without anybody having told of it.
func TestKernelUpdateMeetsForeignChange(t *testing.T) {
	inKernel(t, func() {
		b := newTestBackend(t, Options{Family: proxy.IPv4})
		if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, plains(3)...)); err != nil {
			t.Fatal(err)
		}
		nft(t, `flush map ip kube-proxy frontends`)
		state := proxytest.NewState(proxy.IPv4, plains(2)...)
		if r, err := b.Apply(t.Context(), state); err != nil || !r.Full {
			t.Fatalf("%+v, %v", r, err)
		}
		if diff := cmp.Diff(textOf(t, state), listTable(t, proxy.IPv4)); diff != "" {
			t.Errorf("-want +kernel:\n%s", diff)
		}
	})
}

func TestKernelCleanup(t *testing.T) {
	inKernel(t, func() {
		nft(t, `add table ip foreign`)
		for _, f := range proxy.Families {
			nft(t, `add table inet kube-proxy`)
			b := newTestBackend(t, Options{Family: f})
			state := proxytest.NewState(f)
			for range 2 {
				if err := b.Cleanup(t.Context()); err != nil { // also when there is nothing
					t.Fatal(err)
				}
				if _, err := b.Apply(t.Context(), state); err != nil {
					t.Fatal(err)
				}
			}
			other, err := Open(Options{Family: f})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := other.Cleanup(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := other.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if got := nft(t, "list", "tables"); got != "table ip foreign\ntable inet kube-proxy\n" {
			t.Errorf("tables left: %s", got)
		}
	})
}

// affinityBench has a Service with affinity, and remembers clients of it.
type affinityBench struct {
	t       *testing.T
	backend *Backend
	service *proxy.Service
}

func newAffinityBench(t *testing.T, timeout time.Duration) *affinityBench {
	a := &affinityBench{t: t, backend: newTestBackend(t, Options{Family: proxy.IPv4})}
	a.service = proxytest.NewService("ns/sticky/TCP", proxytest.Sticky(timeout),
		proxytest.At(proxy.LoadBalancerIP, "10.0.0.1:80", proxytest.ExternalLocal), proxytest.On("10.244.1.2:80 local", "10.244.2.2:80", "10.244.2.3:80"))
	a.apply(a.service)
	return a
}

func (a *affinityBench) apply(services ...*proxy.Service) proxy.Report {
	a.t.Helper()
	r, err := a.backend.Apply(a.t.Context(), proxytest.NewState(proxy.IPv4, services...))
	if err != nil || len(r.Rejected) > 0 {
		a.t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// remember makes the kernel remember a client, as its rules would.
func (a *affinityBench) remember(client, endpoint string, local bool, left time.Duration) {
	a.t.Helper()
	table := a.backend.table
	p := table.programs[a.service.Name]
	number := p.number
	if local {
		number |= localBit
	}
	key := append(host(number), netip.MustParseAddr(client).AsSlice()...)
	tx := &transaction{}
	tx.add(element{set: table.sets.affinity, key: key, value: table.bytes.addrPort(netip.MustParseAddrPort(endpoint)),
		more: &details{timeout: a.service.Affinity, expires: left}}, -1)
	if err := a.backend.kernel.commit(tx); err != nil {
		a.t.Fatal(err)
	}
}

// clients lists what the kernel remembers: the client, whether it is of the pool Local, and the time that is left, rounded to minutes.
func (a *affinityBench) clients() map[string]string {
	a.t.Helper()
	out := map[string]string{}
	all, err := a.backend.kernel.remembered(newSets(capacity{}).affinity, func(*remembered) bool { return true })
	if err != nil {
		a.t.Fatal(err)
	}
	for _, r := range all {
		name := netipBytes(r.key[4:8]).String()
		if r.number()&localBit != 0 {
			name += " local"
		}
		out[name] = fmt.Sprintf("%s:%d, %v", netipBytes(r.value[:4]), binary.BigEndian.Uint16(r.value[4:]), r.expires.Round(time.Minute))
	}
	return out
}

// Clients stay known over updates, rebuilds, restarts and tables that are replaced, for the time that they had left; and they are
// forgotten when their endpoint goes.
func TestKernelAffinity(t *testing.T) {
	for _, timeout := range []time.Duration{time.Hour, affinityDefault} { // the second is the map's own
		t.Run(timeout.String(), func(t *testing.T) {
			inKernel(t, func() {
				a := newAffinityBench(t, timeout)
				a.remember("192.168.0.1", "10.244.2.2:80", false, 20*time.Minute)
				a.remember("192.168.0.2", "10.244.1.2:80", true, 30*time.Minute)
				a.remember("192.168.0.2", "10.244.1.2:80", false, 40*time.Minute)
				a.remember("192.168.0.3", "10.244.2.3:80", false, timeout)
				want := map[string]string{
					"192.168.0.1": "10.244.2.2:80, 20m0s", "192.168.0.2 local": "10.244.1.2:80, 30m0s",
					"192.168.0.2": "10.244.1.2:80, 40m0s", "192.168.0.3": "10.244.2.3:80, " + timeout.String(),
				}
				check := func(what string) {
					t.Helper()
					if diff := cmp.Diff(want, a.clients()); diff != "" {
						t.Errorf("%s: -want +got:\n%s", what, diff)
					}
				}
				check("at first")
				a.apply(a.service, plain(1))
				check("an update")
				a.backend.Forget()
				a.apply(a.service, plain(1))
				check("a rebuild")
				a.backend = newTestBackend(t, Options{Family: proxy.IPv4})
				a.apply(plain(1), a.service)
				check("a restart")

				var many []*proxy.Service
				for i := range minCapacity {
					many = append(many, proxytest.NewService(fmt.Sprintf("ns/a%d/TCP", i), proxytest.At(proxy.ExternalIP, fmt.Sprintf("10.1.%d.%d:80", i/250, i%250), proxytest.RejectAll)))
				}
				if r := a.apply(append(many, a.service)...); !r.Full {
					t.Errorf("more frontends than the map holds: %+v", r)
				}
				check("a larger map")
				if got := nft(t, "-t", "list", "map", "ip", TableName, "frontends"); !strings.Contains(got, "size 16384") {
					t.Errorf("the map has another size:\n%s", got)
				}
				a.backend = newTestBackend(t, Options{Family: proxy.IPv4})
				a.apply(append(many[:4], a.service)...)
				check("a restart with few Services")

				less := *a.service
				less.Cluster = a.service.Cluster[1:] // without 10.244.1.2
				a.apply(append(many[:4], &less)...)
				delete(want, "192.168.0.2")
				check("an endpoint left the pool Cluster")
				gone := *a.service
				gone.Affinity, gone.Cluster, gone.Local, gone.Frontends = 0, nil, nil, nil
				a.apply(append(many[:4], &gone)...)
				want = map[string]string{}
				check("no endpoints")
			})
		})
	}
}
