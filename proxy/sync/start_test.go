package sync

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/metrics"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
)

func TestNothingIsWrittenBeforeSynced(t *testing.T) {
	run(t, func(r *rig) {
		web := service("web", "10.96.0.1", v1.ProtocolTCP)
		r.loop.SetNode(objects.Node(proxytest.Addressing()))
		r.loop.SetService(web)
		r.loop.SetServiceCIDR(serviceCIDR("kubernetes", "10.96.0.0/16"))
		r.loop.AddressesChanged()
		r.loop.Interfered(r.ctx, proxy.IPv4, "delete table", "nft", 4711)
		r.settle()
		if n := len(r.faults[proxy.IPv4].tries()) + len(r.faults[proxy.IPv6].tries()); n != 0 || len(r.loop.States()) != 0 {
			t.Fatalf("%d Applies before all objects were delivered, States %v", n, r.loop.States())
		}
		r.loop.SetEndpointSlice(slice(web, "10.244.2.2"))
		r.loop.Synced()
		r.loop.Synced() // a source may say so again
		r.settle()
		first := r.kernels[proxy.IPv4].calls()[0]
		if !first.full || first.operations != 2 {
			t.Errorf("the first Apply is %+v, want a full one of the node and one Service", first)
		}
		if got := r.kernels[proxy.IPv4].names(); !cmp.Equal(got, []string{"default/web/TCP"}) {
			t.Errorf("the kernel holds %v", got)
		}
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=start")
		r.wantValue(0, metrics.TableRepairs, ipv4)
	}, exact)
}

// kube-proxy ignores what became of its first sync, and may then wait for an hour.
func TestFirstSyncIsTriedAgain(t *testing.T) {
	run(t, func(r *rig) {
		r.setRate(1)
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.loop.Synced()
		r.after(2 * time.Minute)
		if r.kernels[proxy.IPv4].holds() != "nothing" || r.health.Healthy() {
			t.Fatalf("healthy %t with a kernel that holds %s", r.health.Healthy(), r.kernels[proxy.IPv4].holds())
		}
		if body := r.body("/readyz"); !strings.Contains(body, errFaulty.Error()) {
			t.Errorf("/readyz does not say why: %s", body)
		}
		r.setRate(0)
		r.after(30 * time.Second)
		if got := r.kernels[proxy.IPv4].names(); !cmp.Equal(got, []string{"default/web/TCP"}) || !r.health.Healthy() {
			t.Errorf("healthy %t with a kernel that holds %v", r.health.Healthy(), got)
		}
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=start")
	}, exact)
}

// Neither what was delivered before the first sync nor what a sync finds done anyway leads to another sync.
func TestNoSyncWithoutReason(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		if n := len(r.faults[proxy.IPv4].tries()); n != 1 {
			t.Errorf("%d Applies for what was there at the start", n)
		}
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.settle()
		if calls := r.kernels[proxy.IPv4].calls(); len(calls) != 2 || calls[1].operations != 0 {
			t.Errorf("a change without effect: %+v", calls)
		}
	}, exact)
}

func TestEndOfContext(t *testing.T) {
	ends := map[string]func(r *rig){
		"before Synced": func(*rig) {},
		"idle":          func(r *rig) { r.synced() },
		"waiting for a quiet moment": func(r *rig) {
			r.synced()
			r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
			r.after(time.Millisecond)
		},
		"waiting to try again": func(r *rig) {
			r.synced()
			r.setRate(1)
			r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
			r.settle()
		},
		"cleaning flows": func(r *rig) {
			r.cleaners[proxy.IPv4].set(time.Hour, 0)
			r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP))
			r.synced()
		},
	}
	for name, prepare := range ends {
		t.Run(name, func(t *testing.T) {
			run(t, func(r *rig) {
				prepare(r)
				before, start := r.kernels[proxy.IPv4].holds(), time.Now()
				r.cancel()
				<-r.done
				if took := time.Since(start); took != 0 {
					t.Errorf("Run took %v to return", took)
				}
				if got := r.kernels[proxy.IPv4].holds(); got != before {
					t.Errorf("the rules are others than before (-before +after):\n%s", cmp.Diff(before, got))
				}
				if lines := r.log.with("flows were not all removed"); len(lines) > 0 {
					t.Errorf("the end of the process is logged as an error: %v", lines)
				}
			}, exact)
		})
	}
}

func TestPreview(t *testing.T) {
	web := service("web", "10.96.0.1", v1.ProtocolTCP, func(s *v1.Service) { s.Spec.ExternalIPs = []string{"nonsense"} })
	states, warnings, problems := preview(func(l *Loop) {
		l.SetNode(objects.Node(proxytest.Addressing()))
		l.SetService(web)
		l.SetEndpointSlice(slice(web, "10.244.2.2"))
		l.SetServiceCIDR(serviceCIDR("bad", "10.96.0.0"))
		l.Synced()
	})
	if len(states) != 2 || states[0].Services.Len() != 1 || states[1].Services.Len() != 0 {
		t.Errorf("States %v", states)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "ServiceCIDR bad") {
		t.Errorf("warnings %q", warnings)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "spec.externalIPs[0]") {
		t.Errorf("problems %q", problems)
	}
}
