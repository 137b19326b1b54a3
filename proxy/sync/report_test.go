package sync

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/metrics"
	"turnout/proxy/proxytest"
)

var errNoMemory = errors.New("cannot allocate memory")

// Somebody is told of a Service that the kernel refuses once, and of its being accepted; it is tried again without a change.
func TestRejectedService(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		k := r.kernels[proxy.IPv4]
		k.refuse("default/bad/TCP", errNoMemory)
		r.log.take()
		r.loop.SetService(service("good", "10.96.0.1", v1.ProtocolTCP))
		r.loop.SetService(service("bad", "10.96.0.2", v1.ProtocolTCP))
		start, before := time.Now(), len(k.calls())
		r.after(2*time.Minute + time.Second)
		if diff := cmp.Diff([]string{"default/good/TCP"}, k.names()); diff != "" {
			t.Errorf("the kernel holds -want +got:\n%s", diff)
		}
		want := []string{"default/bad ServiceRejectedByKernel: left out of IPv4 rules: cannot allocate memory"}
		if diff := cmp.Diff(want, r.events.take()); diff != "" {
			t.Errorf("events -want +got:\n%s", diff)
		}
		if lines := r.log.with("A Service is left out"); len(lines) != 1 {
			t.Errorf("logged as %q", lines)
		}
		r.wantValue(1, metrics.Rejected, ipv4)
		var tries []time.Duration
		for _, c := range k.calls()[before:] {
			tries = append(tries, c.at.Sub(start)-10*time.Millisecond)
		}
		if diff := cmp.Diff([]time.Duration{0, 30 * time.Second, time.Minute, 90 * time.Second, 2 * time.Minute}, tries); diff != "" {
			t.Errorf("tried at -want +got:\n%s", diff)
		}
		if !r.health.Healthy() {
			t.Error("unhealthy because of one Service")
		}

		k.refuse("default/bad/TCP", errors.New("another reason"))
		r.after(30 * time.Second)
		k.refuse("default/bad/TCP", nil)
		r.after(30 * time.Second)
		if len(k.names()) != 2 {
			t.Errorf("the kernel holds %v", k.names())
		}
		if got := r.events.take(); len(got) != 1 || !strings.Contains(got[0], "another reason") {
			t.Errorf("events of the new reason: %q", got)
		}
		if lines := r.log.with("left out is programmed or gone"); len(lines) != 1 {
			t.Errorf("the end is logged as %q", lines)
		}
		r.wantValue(0, metrics.Rejected, ipv4)
		n := len(k.calls())
		r.settle()
		if len(k.calls()) != n {
			t.Error("the loop goes on trying what is programmed")
		}
	}, exact)
}

// A Service that is refused in both families is two rejections.
func TestRejectedInBothFamilies(t *testing.T) {
	run(t, func(r *rig) {
		for _, k := range r.kernels {
			k.refuse("default/bad/TCP", errNoMemory)
		}
		r.loop.SetService(service("bad", "10.96.0.2", v1.ProtocolTCP, func(s *v1.Service) {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:10:96::2")
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, v1.IPv6Protocol)
		}))
		r.synced()
		if got := r.events.take(); len(got) != 2 {
			t.Errorf("events %q", got)
		}
		r.loop.DeleteService(proxy.ServiceName{Namespace: "default", Name: "bad"})
		r.settle()
		r.wantValue(0, metrics.Rejected, ipv4)
		r.wantValue(0, metrics.Rejected, ipv6)
		if lines := r.log.with("left out is programmed or gone"); len(lines) != 2 {
			t.Errorf("the end is logged as %q", lines)
		}
	})
}

func TestProblemsAreReportedOnce(t *testing.T) {
	bad := func(ips ...string) *v1.Service {
		return service("web", "10.96.0.1", v1.ProtocolTCP, func(s *v1.Service) { s.Spec.ExternalIPs = ips })
	}
	run(t, func(r *rig) {
		r.loop.SetService(bad("1.2.3"))
		r.synced()
		var counts []int
		count := func() {
			r.settle()
			logged, events := r.log.with("cannot be proxied"), r.events.take()
			if len(logged) != len(events) {
				t.Errorf("logged %q, events %q", logged, events)
			}
			counts = append(counts, len(events))
		}
		count()
		r.loop.SetEndpointSlice(slice(bad(), "10.244.2.2")) // the Service is built anew
		count()
		r.loop.SetService(bad("1.2.3", "127.0.0.1")) // one more
		count()
		r.loop.SetService(bad("1.2.3", "127.0.0.1", "1.2.4", "127.0.0.2")) // two more, together
		r.settle()
		if logged, events := r.log.with("cannot be proxied"), r.events.take(); len(logged) != 2 || len(events) != 1 ||
			!strings.Contains(events[0], `"1.2.4"`) || !strings.Contains(events[0], `"127.0.0.2"`) {
			t.Errorf("two at once: logged %q, events %q", logged, events)
		}
		r.loop.SetService(bad()) // solved
		count()
		r.loop.SetService(bad("1.2.3")) // back
		count()
		if diff := cmp.Diff([]int{1, 0, 1, 0, 1}, counts); diff != "" {
			t.Errorf("reports -want +got:\n%s", diff)
		}
		if len(r.kernels[proxy.IPv4].names()) != 1 {
			t.Error("the rest of the Service is not served")
		}
	})
}

// Programming latency is observed once for each change, and only when the kernel follows it.
func TestNetworkProgrammingLatency(t *testing.T) {
	run(t, func(r *rig) {
		web := service("web", "10.96.0.1", v1.ProtocolTCP)
		r.loop.SetService(web)
		r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.2"), time.Now().Add(-time.Hour)))
		r.synced()
		r.wantValue(0, metrics.NetworkProgramming, ipv4) // what happened before the start is not ours to measure
		r.setRate(1)
		r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.3"), time.Now()))
		r.after(2 * time.Second)
		r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.2", "10.244.2.3"), time.Now()))
		r.after(2 * time.Second)
		r.wantValue(0, metrics.NetworkProgramming, ipv4)
		r.setRate(0)
		r.after(4 * time.Second)
		r.wantValue(2, metrics.NetworkProgramming, ipv4)
		if sum := r.sum(metrics.NetworkProgramming, ipv4); sum < 4 || sum > 16 {
			t.Errorf("the two took %v s together", sum)
		}
		r.touch(1)
		r.settle()
		r.wantValue(2, metrics.NetworkProgramming, ipv4)
		r.wantValue(0, metrics.NetworkProgramming, ipv6)
	}, exact)
}

// However long nothing can be programmed, what waits to be measured does not fill the memory.
func TestNetworkProgrammingLatencyIsBounded(t *testing.T) {
	run(t, func(r *rig) {
		web := service("web", "10.96.0.1", v1.ProtocolTCP)
		r.loop.SetService(web)
		r.synced()
		r.setRate(1)
		for range 3 {
			for range maxPending / 2 {
				r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.2"), time.Now()))
				r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.3"), time.Now()))
			}
			r.after(time.Second)
		}
		r.cancel()
		<-r.done
		if p := r.loop.families[0].pending; len(p) != maxPending || cap(p) > 3*maxPending {
			t.Errorf("%d times wait, and there is room for %d; want %d", len(p), cap(p), maxPending)
		}
	}, exact)
}

func TestHealth(t *testing.T) {
	run(t, func(r *rig) {
		ready := func(want int) {
			t.Helper()
			if got := get(r.health, "/readyz"); got != want {
				t.Errorf("/readyz answers %d, want %d", got, want)
			}
		}
		ready(503)
		r.synced()
		ready(200)
		r.setRate(1)
		r.touch(0)
		r.after(59 * time.Second)
		if !r.health.Healthy() {
			t.Error("unhealthy before the timeout")
		}
		r.after(2 * time.Second)
		if r.health.Healthy() {
			t.Error("healthy although a change waits for longer than the timeout")
		}
		ready(200) // the rules of before are still there
		r.setRate(0)
		r.after(30 * time.Second)
		if !r.health.Healthy() {
			t.Error("unhealthy after a success")
		}
		r.after(time.Hour)
		if !r.health.Healthy() {
			t.Error("unhealthy without any change")
		}
	}, exact)
}

// A sync that never ends makes the proxy unhealthy, too.
func TestHealthOfASyncThatHangs(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.kernels[proxy.IPv4].slow(time.Hour)
		r.touch(0)
		r.after(2 * time.Minute)
		if r.health.Healthy() {
			t.Error("healthy although nothing is programmed any more")
		}
	}, exact)
}

func TestMetricsOfWhatIsProgrammed(t *testing.T) {
	local := new(v1.ServiceInternalTrafficPolicyLocal)
	web := service("web", "10.96.0.1", v1.ProtocolTCP, nodePort(30080), func(s *v1.Service) {
		s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = local, v1.ServiceExternalTrafficPolicyLocal
	})
	dns := service("dns", "10.96.0.2", v1.ProtocolUDP)
	run(t, func(r *rig) {
		wants := func(services, endpoints, frontends, internal, external float64) {
			t.Helper()
			r.settle()
			r.wantValue(services, metrics.Services, ipv4)
			r.wantValue(endpoints, metrics.Endpoints, ipv4)
			r.wantValue(frontends, metrics.Frontends, ipv4)
			r.wantValue(internal, metrics.NoLocalEndpoints, ipv4, "traffic_policy=internal")
			r.wantValue(external, metrics.NoLocalEndpoints, ipv4, "traffic_policy=external")
		}
		r.synced()
		wants(0, 0, 0, 0, 0)
		r.loop.SetService(web)
		r.loop.SetEndpointSlice(slice(web, "10.244.2.2", "10.244.2.3"))
		r.loop.SetService(dns)
		wants(2, 2, 3, 1, 1)
		e := slice(web, "10.244.2.2", "10.244.1.2")
		e.Endpoints[1].NodeName = new(proxytest.Addressing().Node)
		r.loop.SetEndpointSlice(e)
		wants(2, 2, 3, 0, 0)
		r.loop.DeleteEndpointSlice("default", "web-x")
		wants(2, 0, 3, 0, 0)
		r.loop.DeleteService(proxy.ServiceName{Namespace: "default", Name: "web"})
		wants(1, 0, 1, 0, 0)
		r.wantValue(3, metrics.ServiceChanges)
		r.wantValue(3, metrics.EndpointChanges)
	})
}

func TestMetricsOfSyncs(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		r.wantValue(1, metrics.SyncDuration, ipv4)
		r.wantValue(1, metrics.FullSyncDuration, ipv4)
		r.setRate(1)
		start := time.Now()
		r.touch(0)
		r.touch(1)
		r.after(5 * time.Millisecond)
		r.wantValue(1, metrics.ServiceChangesPending)
		r.wantValue(float64(start.UnixMicro())/1e6, metrics.LastQueued, ipv4)
		r.after(500 * time.Millisecond) // attempts after 10, 110, 310 ms
		r.wantValue(0, metrics.ServiceChangesPending)
		r.wantValue(3, metrics.SyncFailures, ipv4)
		r.setRate(0)
		r.after(300 * time.Millisecond)
		r.wantValue(float64(start.Add(710*time.Millisecond).UnixMicro())/1e6, metrics.LastSync, ipv4)
		r.wantValue(5, metrics.SyncDuration, ipv4)
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=start")
		r.wantValue(1, metrics.FullSyncs, ipv4, "reason=error")
	}, exact)
}

// A mistake in the program that one object brings to light must not take the process down, nor what is programmed; when the object is
// gone everything goes on.
func TestPanicWhileBuilding(t *testing.T) {
	run(t, func(r *rig) {
		web := service("web", "10.96.0.1", v1.ProtocolTCP)
		r.loop.SetService(web)
		r.synced()
		r.local.onRead(func() { panic("index out of range") })
		r.loop.AddressesChanged()
		r.loop.SetEndpointSlice(triggered(slice(web, "10.244.2.2"), time.Now()))
		r.after(2 * time.Minute)
		if r.health.Healthy() || !strings.Contains(r.kernels[proxy.IPv4].holds(), "default/web/TCP") {
			t.Errorf("healthy %t; the kernel holds %s", r.health.Healthy(), r.kernels[proxy.IPv4].holds())
		}
		if lines := r.log.with("Mistake in the program"); len(lines) == 0 || !strings.Contains(lines[0], "facts.go") {
			t.Errorf("logged as %q, want the place", lines)
		}
		if n := r.value(metrics.SyncFailures, ipv4); n < 3 {
			t.Errorf("%v failures counted", n)
		}
		r.local.onRead(nil)
		r.local.set(addr("192.168.50.1"))
		r.after(30 * time.Second)
		if got, want := r.kernels[proxy.IPv4].holds(), text(r.loop.States()[0]); got != want || !strings.Contains(got, "10.244.2.2") || !r.health.Healthy() {
			t.Errorf("healthy %t; -want +got:\n%s", r.health.Healthy(), cmp.Diff(want, got))
		}
		r.wantValue(1, metrics.NetworkProgramming, ipv4)
	}, exact)
}

// A panic before anything was ever built.
func TestPanicInTheFirstBuild(t *testing.T) {
	run(t, func(r *rig) {
		n := 0
		r.local.onRead(func() {
			if n++; n < 5 {
				panic(fmt.Sprint("reading ", n))
			}
		})
		r.synced()
		if r.kernels[proxy.IPv4].holds() == "nothing" || !r.health.Healthy() {
			t.Error("not programmed after the panics ended")
		}
	})
}
