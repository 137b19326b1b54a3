package sync

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/conntrack"
	"turnout/proxy"
	"turnout/proxy/metrics"
	"turnout/proxy/node"
)

func (r *rig) cleaned() []conntrack.Change { return r.cleaners[proxy.IPv4].take() }

// kube-proxy cleans only if endpoints changed.
func TestChangesThatReachTheFlowCleaner(t *testing.T) {
	dns := service("dns", "10.96.0.2", v1.ProtocolUDP)
	for _, c := range []struct {
		name   string
		change func(r *rig)
		want   []string // ports and endpoints of the new Service, "gone" if there is none
	}{
		{"endpoints", func(r *rig) { r.loop.SetEndpointSlice(slice(dns, "10.244.2.3")) }, []string{"80 [10.244.2.3:8080]"}},
		{"the last endpoint", func(r *rig) { r.loop.DeleteEndpointSlice("default", "dns-x") }, []string{"80 []"}},
		{"node port", func(r *rig) { r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP, nodePort(30053))) },
			[]string{"80 30053 [10.244.2.2:8080]"}},
		{"external address", func(r *rig) {
			r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP, func(s *v1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.9"} }))
		}, []string{"80 80 [10.244.2.2:8080]"}},
		{"deleted Service", func(r *rig) { r.loop.DeleteService(proxy.ServiceName{Namespace: "default", Name: "dns"}) }, []string{"gone"}},
		{"TCP Service", func(r *rig) { r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP)) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.loop.SetService(dns)
				r.loop.SetEndpointSlice(slice(dns, "10.244.2.2"))
				r.synced()
				if first := r.cleaned(); len(first) != 1 || first[0].Old != nil || first[0].New == nil {
					t.Fatalf("at the start: %v", first)
				}
				c.change(r)
				r.settle()
				var got []string
				for _, change := range r.cleaned() {
					if change.Old == nil || change.Old.Frontends[0].Addr != addr("10.96.0.2") {
						t.Errorf("the Service of before is missing: %+v", change)
					}
					got = append(got, describe(change.New))
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		})
	}
}

func describe(s *proxy.Service) string {
	if s == nil {
		return "gone"
	}
	var ports []string
	for _, f := range s.Frontends {
		ports = append(ports, strconv.Itoa(int(f.Port)))
	}
	return fmt.Sprint(strings.Join(ports, " "), " ", s.Serving)
}

// A changed address alone reaches the cleaner, too: flows to it may have bypassed the NodePorts until now.
func TestAddressesReachTheFlowCleaner(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.inputs.facts.NodePorts = node.NodePortConfig{All: true}
		r.synced()
		r.local.set(addr("192.168.77.1"))
		r.loop.AddressesChanged()
		r.settle()
		if _, addrs := r.cleaners[proxy.IPv4].calls(); !slices.Equal(addrs, []netip.Addr{addr("192.168.77.1")}) {
			t.Errorf("the cleaner knows %v", addrs)
		}
	}, exact)
}

func TestFlowsAreCleanedAfterSuccessOnly(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		before, _ := r.cleaners[proxy.IPv4].calls()
		r.setRate(1)
		r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP))
		r.after(5 * time.Minute)
		if now, _ := r.cleaners[proxy.IPv4].calls(); len(now) != len(before) {
			t.Errorf("cleaned %d times while the kernel had the rules of before", len(now)-len(before))
		}
		r.setRate(0)
		r.after(30 * time.Second)
		if n := len(r.cleaned()); n != 1 {
			t.Errorf("%d changes cleaned after the success", n)
		}
	}, exact)
}

// Cleaning takes as long as it takes: new endpoints do not wait for it, and what changes in the meantime is cleaned afterwards.
func TestCleaningHoldsUpNothing(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.cleaners[proxy.IPv4].set(time.Minute, 0)
		r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP))
		r.after(time.Second)
		r.loop.SetService(service("ntp", "10.96.0.3", v1.ProtocolUDP))
		r.after(time.Second)
		if got := r.kernels[proxy.IPv4].names(); len(got) != 2 {
			t.Errorf("the kernel holds %v while flows are cleaned", got)
		}
		if n := len(r.cleaned()); n != 1 {
			t.Errorf("%d changes in the first round", n)
		}
		r.after(time.Minute)
		if n := len(r.cleaned()); n != 1 {
			t.Errorf("%d changes in the second round", n)
		}
	}, exact)
}

func TestFailedCleaningIsTriedAgain(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		c := r.cleaners[proxy.IPv4]
		c.set(time.Millisecond, 1)
		before, _ := c.calls()
		r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP))
		r.after(10 * time.Minute)
		times, _ := c.calls()
		times = times[len(before):]
		if len(times) < 15 {
			t.Errorf("%d attempts", len(times))
		}
		for i, d := range gaps(times) {
			if want := min(100*time.Millisecond<<min(i, 20), time.Minute) + time.Millisecond; d != want {
				t.Errorf("attempt %d after %v, want %v", i+2, d, want)
			}
		}
		if !r.health.Healthy() || len(r.log.with("flows were not all removed")) != len(times) {
			t.Errorf("healthy %t; each failure should be logged", r.health.Healthy())
		}
		c.set(time.Millisecond, 0)
		r.after(time.Minute + time.Second)
		done, _ := c.calls()
		r.after(10 * time.Minute)
		if now, _ := c.calls(); len(now) != len(done) {
			t.Error("cleaning goes on after it succeeded")
		}
		r.wantValue(float64(len(done)), metrics.ConntrackDuration, ipv4)
	}, exact)
}

func TestNoFlowCleaner(t *testing.T) {
	run(t, func(r *rig) {
		for _, f := range r.loop.families {
			f.flows.cleaner = nil
		}
		r.loop.SetService(service("dns", "10.96.0.2", v1.ProtocolUDP))
		r.synced()
		if got := r.kernels[proxy.IPv4].names(); len(got) != 1 {
			t.Errorf("the kernel holds %v", got)
		}
	}, exact)
}
