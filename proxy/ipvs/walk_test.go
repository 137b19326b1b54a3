package ipvs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/proxytest"
)

// Whatever the way to a State, the kernel holds in the end what a node is given that had nothing, but for destinations on their way out; and these go
// when their connections are over.
func TestWalk(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(f)))
			k := newFakeKernel(f)
			b := k.backend(Options{})
			s := proxytest.RandomState(rng, f, 12)
			for step := range 300 {
				switch step % 10 {
				case 4:
					b = k.backend(Options{}) // a restart
				case 8:
					b.Forget()
				}
				if r, err := b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
					t.Fatalf("step %d: %+v, %v", step, r, err)
				}
				if d := cmp.Diff(fresh(t, s), k.dump(false)); d != "" {
					t.Fatalf("step %d: -want +got:\n%s", step, d)
				}
				if r, err := b.Apply(t.Context(), s); err != nil || r.Operations != 0 || r.Full {
					t.Fatalf("step %d, applied again: %+v, %v", step, r, err)
				}
				if step%3 == 2 {
					checkDrained(t, b, k)
				}
				s = proxytest.Mutate(rng, s, 1+rng.IntN(4))
			}
		})
	}
}

// fresh is what a node has that was only ever given this State.
func fresh(t *testing.T, s *proxy.State) string {
	t.Helper()
	k := newFakeKernel(s.Family)
	if r, err := k.backend(Options{}).Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return k.dump(true)
}

// checkDrained has the connections to destinations on their way out end.
func checkDrained(t *testing.T, b *Backend, k *fakeKernel) {
	t.Helper()
	if damage, err := b.Check(t.Context()); damage != "" || err != nil {
		t.Fatalf("%q, %v", damage, err)
	}
	if d := cmp.Diff(k.dump(false), k.dump(true)); d != "" {
		t.Fatalf("not drained: -want +got:\n%s", d)
	}
	if len(b.applied.draining) > 0 {
		t.Fatalf("still draining: %v", b.applied.draining)
	}
}

// No step of an update leads traffic to what is not there yet: an address comes after its virtual servers and their destinations and goes before them;
// the gate's table knows a frontend before and after.
func TestOrder(t *testing.T) {
	web := func(endpoints ...string) *proxy.Service {
		return proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On(endpoints...))
	}
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	for _, step := range []struct {
		state *proxy.State
		want  []string
	}{
		{proxytest.NewState(proxy.IPv4), []string{"admit", "retire"}},
		{proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080")), []string{"admit", "add server TCP 10.96.0.1:80",
			"add destination TCP 10.96.0.1:80 10.244.1.2:8080", "add address 10.96.0.1", "retire"}},
		{proxytest.NewState(proxy.IPv4, web("10.244.1.3:8080")), []string{"admit", "add destination TCP 10.96.0.1:80 10.244.1.3:8080",
			"set destination TCP 10.96.0.1:80 10.244.1.2:8080 0", "retire"}},
		{proxytest.NewState(proxy.IPv4), []string{"admit", "delete address 10.96.0.1", "delete server TCP 10.96.0.1:80", "retire"}},
	} {
		k.log = nil
		if _, err := b.Apply(t.Context(), step.state); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(step.want, k.log); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
}

// A kernel that refuses things now and then is followed by one that is as it should be.
func TestFaults(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{RetryRejected: 1})
	s := proxytest.RandomState(rng, proxy.IPv4, 12)
	failed := 0
	for step := range 300 {
		k.refuse = func(string) error {
			if rng.IntN(20) == 0 {
				return unix.ENOMEM
			}
			return nil
		}
		r, err := b.Apply(t.Context(), s)
		if err != nil || len(r.Rejected) > 0 {
			failed++
		}
		if err != nil && !errors.Is(err, unix.ENOMEM) {
			t.Fatalf("step %d: %v", step, err)
		}
		k.refuse = nil
		for range 2 {
			if r, err = b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
				t.Fatalf("step %d, mended: %+v, %v", step, r, err)
			}
		}
		if d := cmp.Diff(fresh(t, s), k.dump(false)); d != "" {
			t.Fatalf("step %d: -want +got:\n%s", step, d)
		}
		s = proxytest.Mutate(rng, s, 1+rng.IntN(4))
	}
	if failed < 50 {
		t.Errorf("only %d of 300 steps met a fault", failed)
	}
}

// A Service that the kernel refuses is left out and named; all others are served.
func TestRefused(t *testing.T) {
	service := func(n int) *proxy.Service {
		return proxytest.NewService(fmt.Sprintf("ns/s%d/TCP", n), proxytest.At(proxy.ClusterIP, fmt.Sprintf("10.96.0.%d:80", n), proxytest.Internal), proxytest.On("10.244.1.2:8080"))
	}
	for _, what := range []string{"add server TCP 10.96.0.2:80", "add destination TCP 10.96.0.2:80 10.244.1.2:8080", "add address 10.96.0.2"} {
		t.Run(what, func(t *testing.T) {
			k := newFakeKernel(proxy.IPv4)
			b := k.backend(Options{})
			k.refuse = func(text string) error {
				if text == what {
					return unix.EINVAL
				}
				return nil
			}
			for range 3 { // the first, one that finds nothing to do, and one with a change beside it
				r, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, service(1), service(2), service(3)))
				if err != nil || len(r.Rejected) != 1 || r.Rejected[0].Name != proxytest.Name("ns/s2/TCP") || !errors.Is(r.Rejected[0].Err, unix.EINVAL) {
					t.Fatalf("%+v, %v", r, err)
				}
				if d := cmp.Diff(fresh(t, proxytest.NewState(proxy.IPv4, service(1), service(3))), k.dump(true)); d != "" {
					t.Fatalf("-want +got:\n%s", d)
				}
			}
			k.refuse = nil
			s := proxytest.NewState(proxy.IPv4, service(1), service(2), service(3))
			if r, err := b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
				t.Fatalf("a Service that changed is tried again: %+v, %v", r, err)
			}
			if d := cmp.Diff(fresh(t, s), k.dump(true)); d != "" {
				t.Fatalf("-want +got:\n%s", d)
			}
		})
	}
}

// An address that the kernel refuses is that of all ports of a Service: none of them is served, and each is named.
func TestRefusedAddress(t *testing.T) {
	port := func(name, at string) *proxy.Service {
		return proxytest.NewService(name, proxytest.At(proxy.ClusterIP, at, proxytest.Internal), proxytest.On("10.244.1.2:8080"))
	}
	other := port("ns/other/TCP", "10.96.0.2:80")
	s := proxytest.NewState(proxy.IPv4, port("ns/web:http/TCP", "10.96.0.1:80"), port("ns/web:https/TCP", "10.96.0.1:443"), other)
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	k.refuse = func(text string) error {
		if text == "add address 10.96.0.1" {
			return unix.EACCES
		}
		return nil
	}
	for range 3 {
		r, err := b.Apply(t.Context(), s)
		if err != nil || len(r.Rejected) != 2 || r.Rejected[0].Name != proxytest.Name("ns/web:http/TCP") || r.Rejected[1].Name != proxytest.Name("ns/web:https/TCP") {
			t.Fatalf("%+v, %v", r, err)
		}
		if d := cmp.Diff(fresh(t, proxytest.NewState(proxy.IPv4, other)), k.dump(true)); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
	}
}

// A Service whose rules are refused is not served without them, also if it was served before.
func TestRefusedRules(t *testing.T) {
	for _, restart := range []bool{false, true} {
		k := newFakeKernel(proxy.IPv4)
		b := k.backend(Options{})
		if _, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080"))); err != nil {
			t.Fatal(err)
		}
		if restart {
			b = k.backend(Options{})
		}
		k.refuseRules = func(proxy.ServicePortName) error { return unix.EINVAL }
		r, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, web("10.244.1.3:8080")))
		if err != nil || len(r.Rejected) != 1 {
			t.Fatalf("restart %t: %+v, %v", restart, r, err)
		}
		if got := k.dump(true); got != "\n" {
			t.Errorf("restart %t: left:\n%s", restart, got)
		}
	}
}

// A listing that misses a virtual server is no Service's fault: the next attempt reads everything anew.
func TestIncompleteListing(t *testing.T) {
	s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080"))
	k := newFakeKernel(proxy.IPv4)
	if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b := k.backend(Options{})
	k.hidden = key(proxy.TCP, "10.96.0.1:80")
	if r, err := b.Apply(t.Context(), s); !errors.Is(err, unix.EEXIST) {
		t.Errorf("%+v, %v, want EEXIST", r, err)
	}
	if r, err := b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A NodePort and an address of another Service may come to the same address and port. The address goes first, as in the table, and the NodePort gets it when that goes.
func TestSameServer(t *testing.T) {
	byPort := proxytest.NewService("ns/by-port/TCP", proxytest.At(proxy.NodePort, ":30080", proxytest.External), proxytest.On("10.244.1.2:8080"))
	moved := proxytest.NewService("ns/by-port/TCP", proxytest.At(proxy.NodePort, ":30080", proxytest.External), proxytest.On("10.244.1.4:8080"))
	byAddress := proxytest.NewService("ns/by-address/TCP", proxytest.At(proxy.ExternalIP, "192.168.50.1:30080", proxytest.External), proxytest.On("10.244.1.3:8080"))
	states := []*proxy.State{
		proxytest.NewState(proxy.IPv4), proxytest.NewState(proxy.IPv4, byPort), proxytest.NewState(proxy.IPv4, moved), proxytest.NewState(proxy.IPv4, byAddress),
		proxytest.NewState(proxy.IPv4, byPort, byAddress), proxytest.NewState(proxy.IPv4, moved, byAddress),
	}
	at := key(proxy.TCP, "192.168.50.1:30080")
	for _, s := range states {
		s.Node.NodePorts.Addrs = []netip.Addr{at.At.Addr()}
	}
	for i, from := range states {
		for j, to := range states {
			k := newFakeKernel(proxy.IPv4)
			k.others[at.At.Addr()] = true
			b := k.backend(Options{})
			for _, s := range []*proxy.State{from, to} {
				if r, err := b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 {
					t.Fatalf("%d to %d: %+v, %v", i, j, r, err)
				}
			}
			want := ""
			for _, x := range []struct {
				service *proxy.Service
				at      string
			}{{byPort, "10.244.1.2"}, {moved, "10.244.1.4"}, {byAddress, "10.244.1.3"}} { // the last one counts
				if is, _ := to.Services.Get(x.service.Name); is == x.service {
					want = "-A -t 192.168.50.1:30080 -s rr\n-a -t 192.168.50.1:30080 -r " + x.at + ":8080 -w 1"
				}
			}
			if d := cmp.Diff(want+"\n", k.dump(false)); d != "" {
				t.Errorf("%d to %d: -want +got:\n%s", i, j, d)
			}
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("%d to %d: %q, %v", i, j, damage, err)
			}
		}
	}
}

// The work of an update is in proportion to what changed.
func TestWork(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	s := proxytest.RandomState(rng, proxy.IPv4, 400)
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	if _, err := b.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	name := proxytest.Name("new/one/TCP")
	next := *s
	next.Services = s.Services.Set(name, proxytest.NewService("new/one/TCP", proxytest.At(proxy.ClusterIP, "10.96.99.1:80", proxytest.Internal), proxytest.On("10.244.1.2:8080")))
	k.log = nil
	if r, err := b.Apply(t.Context(), &next); err != nil || r.Full {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(k.log) != 5 {
		t.Errorf("%d steps for one Service: %s", len(k.log), strings.Join(k.log, "; "))
	}
}

func sortedKeys(m map[genl.Key]*fakeServer) (out []genl.Key) {
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, genl.Key.Compare)
	return out
}

// Wherever a proxy is killed, the next one leaves nothing behind, and takes nothing that is not its own.
func TestKilled(t *testing.T) {
	foreign := key(proxy.TCP, "192.168.50.1:29999")
	rng := rand.New(rand.NewPCG(9, 9))
	for run := range 150 {
		k := newFakeKernel(proxy.IPv4)
		k.list[foreign] = &fakeServer{genl.Server{Key: foreign, Scheduler: "rr"}, nil}
		s := proxytest.RandomState(rng, proxy.IPv4, 6)
		if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		for range 3 { // at first by a proxy that just started, then by one that knows the kernel
			b := k.backend(Options{})
			left := rng.IntN(30)
			k.refuse = func(string) error {
				if left--; left < 0 {
					return errKilled
				}
				return nil
			}
			for range 3 {
				s = proxytest.Mutate(rng, s, 2)
				_, _ = b.Apply(t.Context(), s) // after its end all of its attempts fail, so what was done before stays
			}
			k.refuse = nil
		}
		s = proxytest.Mutate(rng, s, 3)
		if _, err := k.backend(Options{}).Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if k.list[foreign] == nil {
			t.Fatalf("run %d: the foreign server is gone", run)
		}
		delete(k.list, foreign)
		if d := cmp.Diff(fresh(t, s), k.dump(false)); d != "" {
			t.Fatalf("run %d: -want +got:\n%s", run, d)
		}
	}
}

var errKilled = errors.New("killed")
