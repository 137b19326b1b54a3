package sync

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/metrics"
)

// destroyed has another process destroy the table, as the watcher of the table reports it.
func (r *rig) destroyed() {
	r.kernels[proxy.IPv4].destroy()
	r.loop.Interfered(r.ctx, proxy.IPv4, "delete table", "nft", 4711)
}

func (r *rig) whole() bool {
	return r.kernels[proxy.IPv4].holds() == text(r.loop.States()[0])
}

func (r *rig) wantWhole() {
	r.t.Helper()
	if !r.whole() {
		r.t.Errorf("the table is not whole; the kernel holds %s", r.kernels[proxy.IPv4].holds())
	}
}

func TestInterferenceIsRepaired(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		r.destroyed()
		r.after(11 * time.Millisecond)
		r.wantWhole()
		r.settle()
		calls := r.kernels[proxy.IPv4].calls()
		if len(calls) != 2 || !calls[1].full {
			t.Errorf("Applies %+v, want a full one for the repair", calls)
		}
		if slices.ContainsFunc(r.kernels[proxy.IPv6].calls()[1:], func(a apply) bool { return a.full }) {
			t.Error("the other family was rebuilt, too")
		}
		r.wantValue(1, metrics.TableRepairs, ipv4)
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=foreign")
		r.wantValue(0, metrics.TableRepairs, ipv6)
		if lines := r.log.with("Another process changed the table"); len(lines) != 1 {
			t.Errorf("logged as %q", lines)
		}
	}, exact)
}

// However often somebody destroys the table: repairs take at most a fifth of the time, each is counted, one line is logged for each, and
// in the end the table is whole.
func TestRepairsAreSpacedOut(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		k := r.kernels[proxy.IPv4]
		k.slow(200 * time.Millisecond)
		start := time.Now()
		for time.Since(start) < 20*time.Second {
			r.destroyed()
			r.after(3 * time.Millisecond)
		}
		var full int
		for _, c := range k.calls() {
			if c.full && !c.at.Before(start) {
				full++
			}
		}
		if most := int(20*time.Second/(5*200*time.Millisecond)) + 1; full > most || full < most-6 {
			t.Errorf("%d rebuilds of 200 ms in 20 s, want nearly %d", full, most)
		}
		r.settle()
		r.wantWhole()
		if lines := r.log.with("Another process changed the table"); len(lines) > full+2 {
			t.Errorf("%d lines in the log for %d repairs", len(lines), full)
		}
	}, exact)
}

// The repair of what is destroyed while, or just after, a rebuild takes place has to wait; nothing else must be needed to bring it about.
func TestDelayedRepairIsNotForgotten(t *testing.T) {
	for name, when := range map[string]time.Duration{
		"while the rebuild is prepared": 50 * time.Millisecond,
		"after it was committed":        250 * time.Millisecond,
		"just before repairs may begin": 990 * time.Millisecond,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
				r.synced()
				k := r.kernels[proxy.IPv4]
				k.slow(200 * time.Millisecond)
				r.destroyed()
				time.Sleep(10*time.Millisecond + when) // the rebuild begins after 10 ms
				r.destroyed()
				r.after(1200*time.Millisecond - when + 20*time.Millisecond)
				r.wantWhole()
				r.settle()
				if n := len(k.calls()); n > 4 {
					t.Errorf("%d Applies", n)
				}
				r.wantValue(2, metrics.TableRepairs, ipv4)
			}, exact)
		})
	}
}

// A repair that fails is tried again until it succeeds, and a table that a rebuild for another reason made whole is not rebuilt again.
func TestRepairAndFailure(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		r.setRate(1)
		r.destroyed()
		r.after(time.Minute)
		r.setRate(0)
		r.after(30 * time.Second)
		r.wantWhole()
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=foreign")
		r.wantValue(1, metrics.TableRepairs, ipv4)
		before := len(r.kernels[proxy.IPv4].calls())
		r.settle()
		r.touch(1)
		r.settle()
		if calls := r.kernels[proxy.IPv4].calls(); len(calls) != before+1 || calls[before].full {
			t.Errorf("after the repair: %+v", calls[before:])
		}
	}, exact)
}
