package sync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// other is a mode of fakes that fail with this rate.
type other struct {
	Mode
	kernels map[proxy.Family]*kernel
	faults  map[proxy.Family]*faulty
	gone    atomic.Int32
}

func newOther(name string, rate float64) *other {
	o := &other{kernels: map[proxy.Family]*kernel{}, faults: map[proxy.Family]*faulty{}}
	o.Mode = Mode{Name: name, Backends: map[proxy.Family]proxy.Backend{}, Gone: func() { o.gone.Add(1) }}
	for _, f := range proxy.Families {
		o.kernels[f] = newKernel(f)
		o.faults[f] = &faulty{Backend: o.kernels[f], rng: rand.New(rand.NewPCG(1, uint64(f))), rate: rate}
		o.Backends[f] = o.faults[f]
	}
	return o
}

// holds are the Services that a mode has in the kernel, of IPv4.
func holds(kernels map[proxy.Family]*kernel) string {
	return strings.Join(kernels[proxy.IPv4].names(), " ")
}

func (r *rig) wantHolds(what string, kernels map[proxy.Family]*kernel, want string) {
	r.t.Helper()
	if got := holds(kernels); got != want {
		r.t.Errorf("%s: the kernel holds %q, want %q", what, got, want)
	}
}

// A watched Backend says what the kernel holds of another mode at the end of each Apply, and at the start of each Cleanup.
type watched struct {
	proxy.Backend
	look func(event string)
}

func (w watched) Apply(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	report, err := w.Backend.Apply(ctx, s)
	w.look("applied")
	return report, err
}

func (w watched) Cleanup(ctx context.Context) error {
	w.look("cleanup")
	return w.Backend.Cleanup(ctx)
}

// The other mode's rules are there before the first one's go, and changes reach only the other one from then on.
func TestSwitchTo(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		second := newOther("second", 0)
		events := &recorded{}
		v4 := second.Backends[proxy.IPv4]
		second.Backends[proxy.IPv4] = watched{v4, func(event string) {
			events.add(event + " beside " + holds(r.kernels))
		}}
		results := &recorded{}
		r.loop.SwitchTo(second.Mode, func(err error) { results.add(fmt.Sprint(err)) })
		r.settle()
		if got := results.take(); !slices.Equal(got, []string{"<nil>"}) {
			t.Fatalf("results: %v, want one without error", got)
		}
		if got := events.take(); len(got) == 0 || got[0] != "applied beside default/web/TCP" {
			t.Errorf("events: %q; want the other mode applied while the first one's rules are there", got)
		}
		r.wantHolds("the first mode", r.kernels, "")
		r.wantHolds("the second mode", second.kernels, "default/web/TCP")
		before := len(r.faults[proxy.IPv4].tries())
		r.loop.SetService(service("more", "10.96.0.2", v1.ProtocolTCP))
		r.settle()
		r.wantHolds("the second mode after a change", second.kernels, "default/more/TCP default/web/TCP")
		if after := len(r.faults[proxy.IPv4].tries()); after != before {
			t.Errorf("the first mode was applied %d times more", after-before)
		}
		if second.gone.Load() != 0 {
			t.Error("the mode in use is said to be gone")
		}
	}, exact)
}

// A mode that does not work leaves nothing, and the present mode goes on. It is for the caller to try again.
func TestSwitchToFails(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		second := newOther("second", 0)
		second.faults[proxy.IPv6].setRate(1)
		stays := &stubborn{Backend: second.Backends[proxy.IPv4]}
		stays.failing.Store(true)
		second.Backends[proxy.IPv4] = stays
		results := &recorded{}
		order := func() { r.loop.SwitchTo(second.Mode, func(err error) { results.add(fmt.Sprint(err)) }) }
		order()
		r.after(time.Minute)
		if got := results.take(); len(got) != 1 || !strings.Contains(got[0], "from mode first to mode second: "+errFaulty.Error()) {
			t.Fatalf("results: %v", got)
		}
		if second.gone.Load() != 0 {
			t.Error("the second mode is said to be gone while removing it fails")
		}
		r.loop.SetService(service("more", "10.96.0.2", v1.ProtocolTCP))
		r.after(time.Second)
		r.wantHolds("the first mode", r.kernels, "default/more/TCP default/web/TCP")
		order()
		r.after(clearPatience - time.Second)
		if got := results.take(); len(got) != 0 {
			t.Errorf("results: %v, want none while the second mode is still being removed", got)
		}
		r.after(2 * time.Second)
		if got := results.take(); len(got) != 1 || !strings.Contains(got[0], "rules of a mode that was in use before cannot be removed yet") || second.gone.Load() != 1 {
			t.Errorf("results: %v, gone %d times; want it to be given up", got, second.gone.Load())
		}
		stays.failing.Store(false)
		r.settle()
		if got := results.take(); len(got) != 0 || second.gone.Load() != 2 {
			t.Fatalf("results: %v, gone %d times", got, second.gone.Load())
		}
		r.wantHolds("the second mode, of which one family works", second.kernels, "")
		second.faults[proxy.IPv6].setRate(0)
		order()
		r.settle()
		if got := results.take(); !slices.Equal(got, []string{"<nil>"}) {
			t.Errorf("results: %v, want one without error", got)
		}
		r.wantHolds("the first mode", r.kernels, "")
		r.wantHolds("the second mode", second.kernels, "default/more/TCP default/web/TCP")
	}, exact)
}

// slow is a Backend whose first Apply takes long.
type slow struct {
	proxy.Backend
	takes time.Duration
	once  atomic.Bool
}

func (s *slow) Apply(ctx context.Context, state *proxy.State) (proxy.Report, error) {
	if !s.once.Swap(true) {
		time.Sleep(s.takes)
	}
	return s.Backend.Apply(ctx, state)
}

// While another mode is being made, the first one follows changes; the other one has them all when it takes over. UDP flows that its rules may
// have led to endpoints which were gone by then are looked for.
func TestSwitchToMeanwhile(t *testing.T) {
	run(t, func(r *rig) {
		dns := service("dns", "10.96.0.1", v1.ProtocolUDP)
		r.loop.SetService(dns)
		r.loop.SetEndpointSlice(slice(dns, "10.244.1.1", "10.244.1.2"))
		r.synced()
		second := newOther("second", 0)
		second.Backends[proxy.IPv4] = &slow{Backend: second.Backends[proxy.IPv4], takes: time.Minute}
		results := &recorded{}
		r.loop.SwitchTo(second.Mode, func(err error) { results.add(fmt.Sprint(err)) })
		r.after(time.Second)
		r.loop.SetService(service("more", "10.96.0.2", v1.ProtocolTCP))
		r.loop.SetEndpointSlice(slice(dns, "10.244.1.1"))
		r.after(time.Second)
		r.wantHolds("the first mode, meanwhile", r.kernels, "default/dns/UDP default/more/TCP")
		r.wantHolds("the second mode, meanwhile", second.kernels, "")
		if got := results.take(); len(got) != 0 {
			t.Errorf("results: %v, want none yet", got)
		}
		r.cleaners[proxy.IPv4].take()
		r.settle()
		if got := results.take(); !slices.Equal(got, []string{"<nil>"}) {
			t.Errorf("results: %v, want one without error", got)
		}
		r.wantHolds("the first mode", r.kernels, "")
		r.wantHolds("the second mode", second.kernels, "default/dns/UDP default/more/TCP")
		if got := r.cleaners[proxy.IPv4].take(); len(got) != 1 || got[0].New.Name.String() != "default/dns/UDP" {
			t.Errorf("after the change stale flows were looked for in %v, want once more for the Service", got)
		}
	}, exact)
}

// A mode that an earlier process left, and that takes over before the first sync has ended, is not removed.
func TestSwitchToWhatWasLeft(t *testing.T) {
	run(t, func(r *rig) {
		second := newOther("second", 0)
		left := newOther("second", 0)
		left.Backends = second.Backends
		r.loop.options.Leave = []Mode{left.Mode}
		results := &recorded{}
		r.setRate(1) // so that the first mode never follows
		r.loop.SwitchTo(second.Mode, func(err error) { results.add(fmt.Sprint(err)) })
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		r.setRate(0)
		r.settle()
		if got := results.take(); !slices.Equal(got, []string{"<nil>"}) || left.gone.Load() != 1 {
			t.Errorf("results: %v, want one without error; gone %d times", got, left.gone.Load())
		}
		r.wantHolds("the second mode", second.kernels, "default/web/TCP")
	}, exact)
}

// What others remove of the other mode's rules while these are made is back before the first mode's rules go.
func TestSwitchToDamaged(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		second := newOther("second", 0)
		second.Backends[proxy.IPv4] = &inspected{kernel: second.kernels[proxy.IPv4]}
		second.Backends[proxy.IPv6] = &slow{Backend: second.Backends[proxy.IPv6], takes: time.Minute}
		results := &recorded{}
		r.loop.SwitchTo(second.Mode, func(err error) {
			results.add(fmt.Sprintf("%v, with %s", err, holds(second.kernels)))
		})
		r.after(time.Second)
		r.wantHolds("the second mode, in the making", second.kernels, "default/web/TCP")
		second.kernels[proxy.IPv4].mu.Lock()
		second.kernels[proxy.IPv4].services = map[proxy.ServicePortName]*proxy.Service{}
		second.kernels[proxy.IPv4].mu.Unlock()
		r.settle()
		if got := results.take(); !slices.Equal(got, []string{"<nil>, with default/web/TCP"}) {
			t.Errorf("results: %q, want one without error, when the Service was there", got)
		}
		r.wantHolds("the first mode", r.kernels, "")
	}, exact)
}

// late is a Backend of another process's rules in a kernel, which takes its time to remove them.
type late struct{ *kernel }

func (l late) Cleanup(context.Context) error {
	time.Sleep(time.Second)
	l.destroy()
	return nil
}

// Nothing that an earlier process left is removed while another mode is being made, which may be what was left. The rest goes afterwards.
func TestSwitchToWhatWasLeftAtOnce(t *testing.T) {
	run(t, func(r *rig) {
		second, left, third := newOther("second", 0), newOther("second", 0), newOther("third", 0)
		for f, k := range second.kernels {
			left.Backends[f] = late{k}
			third.kernels[f].services = map[proxy.ServicePortName]*proxy.Service{{}: nil}
		}
		r.loop.options.Leave = []Mode{left.Mode, third.Mode}
		results := &recorded{}
		r.loop.SwitchTo(second.Mode, func(err error) { results.add(fmt.Sprint(err)) })
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		if got := results.take(); !slices.Equal(got, []string{"<nil>"}) || left.gone.Load() != 1 || third.gone.Load() != 1 {
			t.Errorf("results: %v, want one without error; gone %d and %d times, want once each", got, left.gone.Load(), third.gone.Load())
		}
		r.wantHolds("the first mode", r.kernels, "")
		r.wantHolds("the second mode", second.kernels, "default/web/TCP")
		r.wantHolds("the third mode", third.kernels, "")
	}, exact)
}

// used is a Backend that connections still need after another mode has taken over.
type used struct {
	proxy.Backend
	connections atomic.Int32
	retired     atomic.Int32
}

func (u *used) Retire(ctx context.Context) (int, error) {
	u.retired.Add(1)
	if n := u.connections.Load(); n > 0 {
		return int(n), nil
	}
	return 0, u.Cleanup(ctx)
}

// A mode that connections still need goes when they have ended. It is in nobody's way, and can come back meanwhile.
func TestDraining(t *testing.T) {
	first := newOther("drained", 0)
	v4 := &used{Backend: first.kernels[proxy.IPv4]}
	v4.connections.Store(7)
	first.Backends[proxy.IPv4] = v4
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		results := &recorded{}
		to := func(m Mode) {
			t.Helper()
			r.loop.SwitchTo(m, func(err error) { results.add(fmt.Sprint(err)) })
			r.after(time.Second)
			if got := results.take(); !slices.Equal(got, []string{"<nil>"}) {
				t.Fatalf("to %s: results %v, want one without error", m.Name, got)
			}
		}
		to(first.Mode)
		second, third := newOther("second", 0), newOther("third", 0)
		to(second.Mode)
		r.after(time.Minute)
		if n := v4.retired.Load(); n < 6 || n > 8 || first.gone.Load() != 0 {
			t.Errorf("asked %d times in a minute whether connections are left, gone %d times", n, first.gone.Load())
		}
		to(third.Mode)
		r.wantHolds("the mode that connections need", first.kernels, "default/web/TCP")
		to(first.Mode)
		r.settle()
		v4.connections.Store(0)
		before := v4.retired.Load()
		r.after(time.Minute)
		if v4.retired.Load() != before || holds(first.kernels) != "default/web/TCP" || first.gone.Load() != 1 {
			t.Errorf("the mode in use holds %q, was removed %d times, gone %d times", holds(first.kernels), v4.retired.Load()-before, first.gone.Load())
		}
		to(second.Mode)
		r.settle()
		r.wantHolds("the mode that no connection needs any longer", first.kernels, "")
		if first.gone.Load() != 2 {
			t.Errorf("gone %d times, want twice", first.gone.Load())
		}
	}, exact)
}

// stubborn is a Backend whose rules cannot be removed.
type stubborn struct {
	proxy.Backend
	failing atomic.Bool
	tried   atomic.Int32
}

func (s *stubborn) Cleanup(ctx context.Context) error {
	s.tried.Add(1)
	if s.failing.Load() {
		return errFaulty
	}
	return s.Backend.Cleanup(ctx)
}

// Rules that an earlier process left in other modes go once those of this mode are there, however often that fails. There is no way back to
// a mode whose rules are being removed.
func TestLeave(t *testing.T) {
	left := newOther("left", 0)
	v4 := &stubborn{Backend: left.kernels[proxy.IPv4]}
	v4.failing.Store(true)
	left.Backends[proxy.IPv4] = v4
	run(t, func(r *rig) {
		r.loop.options.Leave = []Mode{left.Mode}
		web := service("web", "10.96.0.1", v1.ProtocolTCP)
		left.kernels[proxy.IPv4].services = map[proxy.ServicePortName]*proxy.Service{{}: nil}
		r.setRate(1)
		r.loop.SetService(web)
		r.synced()
		if v4.tried.Load() != 0 {
			t.Fatalf("tried to remove other rules %d times before those of this mode were there", v4.tried.Load())
		}
		r.setRate(0)
		r.settle()
		if v4.tried.Load() < 3 || left.gone.Load() != 0 {
			t.Errorf("tried to remove %d times, gone %d times", v4.tried.Load(), left.gone.Load())
		}
		results := &recorded{}
		order := func() { r.loop.SwitchTo(newOther("left", 0).Mode, func(err error) { results.add(fmt.Sprint(err)) }) }
		order()
		r.settle()
		if got := results.take(); len(got) != 1 || !strings.Contains(got[0], "cannot be removed yet") {
			t.Errorf("switched to a mode whose rules are being removed: %v", got)
		}
		v4.failing.Store(false)
		r.settle()
		order()
		r.settle()
		if got := results.take(); left.gone.Load() != 1 || holds(left.kernels) != "" || !slices.Equal(got, []string{"<nil>"}) {
			t.Errorf("gone %d times, left %q, results %v", left.gone.Load(), holds(left.kernels), got)
		}
	}, exact)
}
