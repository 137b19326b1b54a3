package nftables

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// plain is a Service with one ClusterIP and one endpoint.
func plain(i int) *proxy.Service {
	return proxytest.NewService(fmt.Sprintf("ns/s%02d/TCP", i), proxytest.At(proxy.ClusterIP, fmt.Sprintf("10.96.0.%d:80", i), proxytest.Internal),
		proxytest.On(fmt.Sprintf("10.244.2.%d:80", i)))
}

func plains(n int) (out []*proxy.Service) {
	for i := range n {
		out = append(out, plain(i))
	}
	return out
}

// rejected lists the Services of a Report by name, without their errors, which must all be errno.
func rejected(t *testing.T, r proxy.Report, errno syscall.Errno) (out []string) {
	t.Helper()
	for _, x := range r.Rejected {
		out = append(out, x.Name.Name)
		if !errors.Is(x.Err, errno) {
			t.Errorf("%s is left out: %v, want %v", x.Name, x.Err, errno)
		}
	}
	return out
}

// refusalBench is a Backend whose kernel refuses elements of some Services.
type refusalBench struct {
	t       *testing.T
	kernel  *fakeKernel
	backend *Backend
	clock   time.Time
	refused map[string]bool // names of Services
}

func newRefusalBench(t *testing.T, mute bool) *refusalBench {
	b := &refusalBench{t: t, kernel: newFakeKernel(proxy.IPv4), clock: time.Unix(1000, 0), refused: map[string]bool{}}
	b.kernel.mute = mute
	b.kernel.refuse = func(_ string, e *fakeElement) syscall.Errno {
		if _, name, ok := strings.Cut(e.comment, "/"); ok && b.refused[strings.TrimSuffix(name, "/TCP")] {
			return unix.ERANGE
		}
		return 0
	}
	b.backend = b.kernel.backend(Options{RetryRejected: time.Minute})
	b.backend.now = func() time.Time { return b.clock }
	return b
}

// apply applies Services and compares what is left out, and that all others are programmed.
func (b *refusalBench) apply(what string, services []*proxy.Service, want ...string) proxy.Report {
	b.t.Helper()
	r, err := b.backend.Apply(b.t.Context(), proxytest.NewState(proxy.IPv4, services...))
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	if got := rejected(b.t, r, unix.ERANGE); !slices.Equal(got, want) {
		b.t.Fatalf("%s: left out: %v, want %v", what, got, want)
	}
	var programmed, wanted []string
	for _, e := range b.kernel.tables[TableName].set("frontends").elements {
		programmed = append(programmed, e.comment)
	}
	for _, s := range services {
		if !slices.Contains(want, s.Name.Name) {
			wanted = append(wanted, s.Name.String())
		}
	}
	slices.Sort(programmed)
	slices.Sort(wanted)
	if diff := cmp.Diff(wanted, programmed); diff != "" {
		b.t.Fatalf("%s: programmed: -want +got:\n%s", what, diff)
	}
	return r
}

// A Service that the kernel refuses is left out, and no other; it is tried again after a while, and at once if it changed.
func TestRefusal(t *testing.T) {
	for name, mute := range map[string]bool{"the kernel names the element": false, "the kernel names the message only": true} {
		t.Run(name, func(t *testing.T) {
			b := newRefusalBench(t, mute)
			services := plains(20)
			b.refused["s03"], b.refused["s17"] = true, true
			b.apply("at start", services[:10], "s03")
			b.apply("more Services, another culprit", services, "s03", "s17")
			if b.backend.kernel.encoder.apart {
				t.Error("elements are still sent apart")
			}
			sent := b.kernel.sent
			if r := b.apply("again", services, "s03", "s17"); r.Full || r.Operations > 0 || b.kernel.sent != sent {
				t.Errorf("refused Services are tried again at once: %+v", r)
			}
			if r := b.apply("another one changes", append(services, plain(20)), "s03", "s17"); r.Full {
				t.Errorf("one refused Service makes every change a rebuild: %+v", r)
			}

			b.clock = b.clock.Add(59 * time.Second)
			b.refused["s03"] = false
			b.apply("before it is time", services, "s03", "s17")
			b.clock = b.clock.Add(2 * time.Second)
			b.apply("when it is time", services, "s17")
			sent = b.kernel.sent
			b.apply("not again so soon", services, "s17")
			if b.kernel.sent != sent {
				t.Error("tried again too soon")
			}

			b.refused["s17"] = false
			changed := *services[17]
			services[17] = &changed
			b.apply("it changed", services)

			b.refused["s05"], b.refused["s06"], b.refused["s07"] = true, true, true
			for _, i := range []int{5, 6, 7} {
				changed := *services[i]
				changed.Frontends = append(slices.Clone(changed.Frontends), services[i].Frontends[0])
				changed.Frontends[1].Port = 81
				services[i] = &changed
			}
			b.apply("three go bad at once", services, "s05", "s06", "s07")
			b.backend.Forget()
			b.apply("after a foreign change", services, "s05", "s06", "s07")
			if r := b.apply("one is deleted", slices.Delete(slices.Clone(services), 6, 7), "s05", "s07"); r.Full {
				t.Errorf("deleting what was left out is a rebuild: %+v", r)
			}
		})
	}
}

// The only Service, and the one with all endpoints, may be one that was left out.
func TestRefusalOfAll(t *testing.T) {
	b := newRefusalBench(t, false)
	b.refused["s00"] = true
	b.apply("at start", plains(1), "s00")
	if r := b.apply("deleted", nil); r.Full {
		t.Errorf("deleting what was left out is a rebuild: %+v", r)
	}
	b.apply("there again", plains(1), "s00")
	b.refused["s00"] = false
	changed := *plain(0)
	if r := b.apply("it changed", []*proxy.Service{&changed}); r.Full {
		t.Errorf("a change of what was left out is a rebuild: %+v", r)
	}
}

// An element that belongs to no Service is nobody's fault: that is an error, and no Service is left out.
func TestRefusalOfNobody(t *testing.T) {
	for _, mute := range []bool{false, true} {
		b := newRefusalBench(t, mute)
		b.kernel.refuse = func(set string, _ *fakeElement) syscall.Errno {
			if set == "service-cidrs" {
				return unix.ERANGE
			}
			return 0
		}
		state := proxytest.NewState(proxy.IPv4, plains(5)...)
		if r, err := b.backend.Apply(t.Context(), state); !errors.Is(err, unix.ERANGE) || !strings.Contains(err.Error(), "service-cidrs") {
			t.Errorf("mute %t: %+v, %v", mute, r, err)
		}
		b.kernel.refuse = nil
		b.apply("when it is accepted", plains(5))
	}
}

// An element is found in a message of any length, wherever it stands.
func TestRefusalAnywhere(t *testing.T) {
	const n = 3000 // some six messages
	services := make([]*proxy.Service, n)
	for i := range services {
		services[i] = proxytest.NewService(fmt.Sprintf("ns/s%d/TCP", i), proxytest.At(proxy.ClusterIP, fmt.Sprintf("10.96.%d.%d:80", i/250, i%250), proxytest.RejectAll))
	}
	for _, culprit := range []int{0, 1, 700, 1500, n - 1} {
		b := newRefusalBench(t, false)
		name := fmt.Sprintf("s%d", culprit)
		b.refused[name] = true
		r, err := b.backend.Apply(t.Context(), proxytest.NewState(proxy.IPv4, services...))
		if got := rejected(t, r, unix.ERANGE); err != nil || !slices.Equal(got, []string{name}) {
			t.Errorf("left out: %v, %v; want %s", got, err, name)
		}
		if b.kernel.sent > 8 {
			t.Errorf("%s: sent %d times", name, b.kernel.sent)
		}
		if got := len(b.kernel.tables[TableName].set("frontends").elements); got != n-1 {
			t.Errorf("%s: %d are programmed, want %d", name, got, n-1)
		}
	}
}

// The kernel itself refuses a frontend that two Services claim: one of them has it, all else is programmed, and when one of them goes the
// other gets it.
func TestKernelRefusal(t *testing.T) {
	inKernel(t, func() {
		b := newTestBackend(t, Options{Family: proxy.IPv4})
		clock := time.Unix(1000, 0)
		b.now = func() time.Time { return clock }
		services := plains(20)
		services[11].Frontends[0].Addr = services[4].Frontends[0].Addr
		services[13].Frontends[0].Addr = services[4].Frontends[0].Addr
		state := proxytest.NewState(proxy.IPv4, services...)
		r, err := b.Apply(t.Context(), state)
		if got := rejected(t, r, unix.EEXIST); err != nil || !slices.Equal(got, []string{"s11", "s13"}) {
			t.Fatalf("left out: %v, %v", got, err)
		}
		var rest []*proxy.Service
		for i, s := range services {
			if i != 11 && i != 13 {
				rest = append(rest, s)
			}
		}
		if diff := cmp.Diff(textOf(t, proxytest.NewState(proxy.IPv4, rest...)), listTable(t, proxy.IPv4)); diff != "" {
			t.Errorf("-want +kernel:\n%s", diff)
		}
		next := *state
		next.Services = next.Services.Delete(services[4].Name).Delete(services[13].Name)
		clock = clock.Add(time.Hour)
		if r, err := b.Apply(t.Context(), &next); err != nil || len(r.Rejected) > 0 {
			t.Errorf("when the owner went: %+v, %v", r, err)
		}
		if got := strings.Count(listTable(t, proxy.IPv4), `comment "ns/s11/TCP"`); got != 1 {
			t.Errorf("s11 has %d frontends, want 1", got)
		}
	})
}
