package sync

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/metrics"
)

// since lists when Apply was called after a point in time.
func (r *rig) since(start time.Time) (out []time.Duration) {
	for _, at := range r.faults[proxy.IPv4].tries() {
		if !at.Before(start) {
			out = append(out, at.Sub(start))
		}
	}
	return out
}

// touch changes a Service in a way that matters.
func (r *rig) touch(i int) {
	r.loop.SetService(service("web", fmt.Sprintf("10.96.%d.%d", 1+i/200, 1+i%200), v1.ProtocolTCP))
}

func ms(n ...int) (out []time.Duration) {
	for _, x := range n {
		out = append(out, time.Duration(x)*time.Millisecond)
	}
	return out
}

func TestTiming(t *testing.T) {
	second := func(s *settings) { s.timing.MinPeriod = time.Second }
	for _, c := range []struct {
		name    string
		changes []time.Duration // when
		setting func(*settings)
		want    []time.Duration // when Apply is called
	}{
		{"one change waits for a quiet moment", ms(0), exact, ms(10)},
		{"changes shortly after each other are one sync", ms(0, 5, 14, 23), exact, ms(33)},
		{"changes with pauses are a sync each", ms(0, 50, 100), exact, ms(10, 60, 110)},
		// The first sync is at 100, though it is never quiet; the change at 100 may be in it.
		{"a stream of changes is held up for no longer than the limit", every(5*time.Millisecond, 41), exact, ms(100, 205, 210)},
		{"the least period begins with the sync before", ms(0, 500, 2500), second, ms(10, 1010, 2510)},
		{"changes that come during the least period are one sync", ms(0, 500, 600, 995), second, ms(10, 1010)},
		{"one that comes at its end waits for a quiet moment, but not beyond the period", ms(0, 20, 1005), second, ms(10, 1010)},
		{"no quiet moment is asked for", ms(0, 3), func(s *settings) { s.timing.Quiet, s.timing.MaxDelay = 0, 0 }, ms(0, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.synced()
				start := time.Now()
				for i, at := range c.changes {
					r.after(at - time.Since(start))
					r.touch(i)
				}
				r.settle()
				got := r.since(start)
				if len(c.changes) > 20 { // which of two timers of the same instant comes first is not said
					got, c.want = got[:1], c.want[:1]
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("Applies at -want +got:\n%s", diff)
				}
				if got := r.loop.States()[0]; text(got) != r.kernels[proxy.IPv4].holds() {
					t.Error("the last change is not programmed")
				}
			}, exact, c.setting)
		})
	}
}

func every(d time.Duration, n int) (out []time.Duration) {
	for i := range n {
		out = append(out, time.Duration(i)*d)
	}
	return out
}

// However many changes there are, the number of syncs is bounded, and no change waits for longer than the limit.
func TestStreamOfChanges(t *testing.T) {
	for _, c := range []struct {
		name       string
		setting    func(*settings)
		most, wait time.Duration // between syncs at least, and at most
	}{
		{"usual", exact, 100 * time.Millisecond, 107 * time.Millisecond},
		{"with a least period", func(s *settings) { s.timing.MinPeriod = time.Second }, time.Second, 1007 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.synced()
				start := time.Now()
				for i := range 1000 {
					r.touch(i)
					r.after(7 * time.Millisecond)
				}
				got := r.since(start)
				if len(got) < 3 {
					t.Fatalf("%d syncs in 7 seconds", len(got))
				}
				last := got[0]
				for _, at := range got[1:] {
					if d := at - last; d < c.most || d > c.wait {
						t.Errorf("%v between syncs, want %v to %v", d, c.most, c.wait)
					}
					last = at
				}
			}, exact, c.setting)
		})
	}
}

// A change during an Apply is not in it, and must lead to another sync.
func TestChangeDuringApply(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		k := r.kernels[proxy.IPv4]
		k.slow(5 * time.Second)
		r.touch(0)
		r.after(3 * time.Second)
		r.touch(1)
		r.settle()
		if got, want := k.holds(), text(r.loop.States()[0]); got != want || len(k.calls()) != 3 {
			t.Errorf("%d Applies; -want +got:\n%s", len(k.calls()), cmp.Diff(want, got))
		}
	}, exact)
}

func TestBackOff(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.setRate(1)
		r.touch(0)
		r.after(3 * time.Minute)
		got := gaps(r.faults[proxy.IPv4].tries()[1:])
		want := ms(100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000)
		if len(got) < len(want) || !cmp.Equal(want, got[:len(want)]) {
			t.Errorf("attempts after %v, want %v", got, want)
		}
		r.setRate(0)
		r.settle()
		r.setRate(1)
		start := time.Now()
		r.touch(1)
		r.after(time.Second)
		if diff := cmp.Diff(ms(10, 110, 310, 710), r.since(start)); diff != "" {
			t.Errorf("success does not end the back-off: attempts at -want +got:\n%s", diff)
		}
	}, exact)
}

// While syncs fail, a change may be the cure and does not wait for the next attempt, but neither do changes make the attempts frequent.
func TestChangesWhileSyncsFail(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.setRate(1)
		r.touch(0)
		r.after(2 * time.Minute) // the delay is 30 s by now
		last := r.faults[proxy.IPv4].tries()
		r.after(time.Until(last[len(last)-1].Add(5 * time.Second)))
		start := time.Now()
		r.touch(1)
		r.after(50 * time.Millisecond)
		if diff := cmp.Diff(ms(10), r.since(start)); diff != "" {
			t.Errorf("one change: attempts at -want +got:\n%s", diff)
		}
		for i := range 1000 {
			r.touch(2 + i)
			r.after(10 * time.Millisecond)
		}
		if n := len(r.since(start)); n < 9 || n > 11 {
			t.Errorf("%d attempts in 10 s of changes, want about one a second", n)
		}
	}, exact)
}

func TestLeastPeriodHoldsForAttempts(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.setRate(1)
		r.touch(0)
		r.after(10 * time.Second)
		for _, d := range gaps(r.faults[proxy.IPv4].tries()) {
			if d < time.Second {
				t.Errorf("%v between attempts", d)
			}
		}
	}, exact, func(s *settings) { s.timing.MinPeriod = time.Second })
}

// One family's failure does not hold up the other.
func TestFamiliesFailApart(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.faults[proxy.IPv4].setRate(1)
		both := service("web", "10.96.0.1", v1.ProtocolTCP, func(s *v1.Service) {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:10:96::1")
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, v1.IPv6Protocol)
		})
		r.loop.SetService(both)
		r.after(20 * time.Millisecond)
		if len(r.kernels[proxy.IPv4].names()) != 0 || len(r.kernels[proxy.IPv6].names()) != 1 {
			t.Errorf("the kernels hold %v and %v", r.kernels[proxy.IPv4].names(), r.kernels[proxy.IPv6].names())
		}
		r.wantValue(1, metrics.SyncFailures, ipv4)
		r.wantValue(0, metrics.SyncFailures, ipv6)
		r.faults[proxy.IPv4].setRate(0)
		r.settle()
		if len(r.kernels[proxy.IPv4].names()) != 1 {
			t.Errorf("IPv4 is not programmed after its failure")
		}
	}, exact)
}
