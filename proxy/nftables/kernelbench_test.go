package nftables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/proxytest"
	"turnout/proxy/track"
)

// The benchmarks in this file measure the way from API objects to the commit's return, on the real kernel. They report ratios to
// what the kernel itself needs, taken in the same run: absolute times depend on the machine.

var benchSizes = []int{100, 1000, 10000, 30000}

const benchEndpoints = 5

// pipeline is everything between a source and the kernel.
type pipeline struct {
	services  *track.ServiceChangeTracker
	endpoints *track.EndpointsChangeTracker
	facts     *desired.Facts
	result    *desired.Result
	backend   *Backend
	socket    *recorder
}

// recorder keeps the longest batch that was sent: that of the first sync.
type recorder struct {
	socket
	batch []byte
}

func (r *recorder) send(b []byte) error {
	if len(b) > len(r.batch) {
		r.batch = slices.Clone(b)
	}
	return r.socket.send(b)
}

func newPipeline(tb testing.TB, record bool) *pipeline {
	s, err := openSocket()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.close() })
	p := &pipeline{services: track.NewServiceChangeTracker(), endpoints: track.NewEndpointsChangeTracker("n1")}
	p.facts = &desired.Facts{NodeName: "n1", Families: []proxy.Family{proxy.IPv4}, Node: map[proxy.Family]proxy.Node{proxy.IPv4: {
		MasqueradeMark: 0x4000, LocalPods: proxy.LocalPods{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")}},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/12")},
	}}}
	p.backend = newBackend(Options{Family: proxy.IPv4}, s)
	if record {
		p.socket = &recorder{socket: s}
		p.backend = newBackend(Options{Family: proxy.IPv4}, p.socket)
	}
	return p
}

func (p *pipeline) sync(tb testing.TB) {
	in := desired.Input{Services: p.services.Snapshot(), Facts: p.facts}
	in.Endpoints, _ = p.endpoints.Snapshot()
	p.result = desired.Build(p.result, in)
	if _, err := p.backend.Apply(context.Background(), p.result.States[proxy.IPv4]); err != nil {
		tb.Fatal(err)
	}
}

func benchService(i int) *v1.Service {
	ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i/100), Name: fmt.Sprintf("service-%d", i)},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}
}

func benchSlice(i, endpoints int) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", i/100), Name: fmt.Sprintf("service-%d-x", i), Labels: map[string]string{discovery.LabelServiceName: fmt.Sprintf("service-%d", i)}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new("http"), Protocol: ptr.To(v1.ProtocolTCP), Port: ptr.To[int32](8080)}},
	}
	for e := range endpoints {
		n := i*(benchEndpoints+1) + e
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{
			Addresses: []string{netip.AddrFrom4([4]byte{10, 128 | byte(n>>16), byte(n >> 8), byte(n)}).String()},
			NodeName:  new(fmt.Sprintf("n%d", n%50)), Conditions: discovery.EndpointConditions{Ready: new(true)},
		})
	}
	return s
}

func (p *pipeline) fill(n int) {
	for i := range n {
		p.services.Set(benchService(i))
		p.endpoints.Set(benchSlice(i, benchEndpoints))
	}
}

// BenchmarkFirstSync measures the way from objects in memory to the programmed kernel, beside sending the same bytes again: the
// kernel's own part, below which no proxy can be.
func BenchmarkFirstSync(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			proxytest.InNamespace(b, func() { benchFirstSync(b, n) })
		})
	}
}

func benchFirstSync(b *testing.B, n int) {
	var ours, floor []time.Duration
	var operations float64
	for b.Loop() {
		b.StopTimer()
		p := newPipeline(b, true)
		p.fill(n)
		runtime.GC()
		b.StartTimer()
		start := time.Now()
		p.sync(b)
		ours = append(ours, time.Since(start))
		b.StopTimer()
		operations = float64(len(p.backend.table.programs))
		replay := slices.Clone(p.socket.batch)
		if err := p.backend.Cleanup(context.Background()); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		start = time.Now()
		if err := p.backend.kernel.exchange(replay); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(start))
		if err := p.backend.Cleanup(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(milli(median(ours)), "ms/sync")
	b.ReportMetric(milli(median(floor)), "ms/floor")
	b.ReportMetric(milli(median(ours))/milli(median(floor)), "x-floor")
	if int(operations) != n {
		b.Fatalf("%v services programmed, want %d", operations, n)
	}
}

// BenchmarkEndpointChange measures one endpoint coming or going, from the tracker accepting the EndpointSlice to the commit's return. The
// changes are to 100 Services at every size, so that only the size of the cluster differs.
func BenchmarkEndpointChange(b *testing.B) {
	benchEndpointChange(b, func(rng *rand.Rand, n int) int { return rng.IntN(100) * (n / 100) })
}

// BenchmarkEndpointChangeAnywhere is the same with changes to any Service: in a large cluster it is one that the processor's caches do not
// hold.
func BenchmarkEndpointChangeAnywhere(b *testing.B) {
	benchEndpointChange(b, func(rng *rand.Rand, n int) int { return rng.IntN(n) })
}

func benchEndpointChange(b *testing.B, draw func(rng *rand.Rand, n int) int) {
	benchChange(b, func(n int) func(p *pipeline) func() {
		rng, now := rand.New(rand.NewPCG(1, 1)), make([]int, n)
		return func(p *pipeline) func() {
			i := draw(rng, n)
			if now[i] != 0 {
				now[i] = 0
			} else {
				now[i] = 1 - 2*rng.IntN(2)
			}
			slice := benchSlice(i, benchEndpoints+now[i])
			return func() { p.endpoints.Set(slice) }
		}
	})
}

// BenchmarkServiceAdded measures a Service with five endpoints coming and, every other time, going again.
func BenchmarkServiceAdded(b *testing.B) {
	benchChange(b, func(n int) func(p *pipeline) func() {
		i := 0
		return func(p *pipeline) func() {
			s, e := benchService(n+i/2), benchSlice(n+i/2, benchEndpoints)
			i++
			if i%2 == 1 {
				return func() { p.services.Set(s); p.endpoints.Set(e) }
			}
			return func() {
				p.services.Delete(proxy.ServiceName{Namespace: s.Namespace, Name: s.Name})
				p.endpoints.Delete(e.Namespace, e.Name)
			}
		}
	})
}

// benchChange times single changes: prepare makes the objects, and what it returns delivers them.
func benchChange(b *testing.B, prepare func(n int) func(*pipeline) func()) {
	var smallest time.Duration // the median at the first size, which the others are compared with
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			proxytest.InNamespace(b, func() {
				p := newPipeline(b, false)
				p.fill(n)
				p.sync(b)
				next := prepare(n)
				runtime.GC()
				var took []time.Duration
				b.ReportAllocs()
				for b.Loop() {
					deliver := next(p)
					start := time.Now()
					deliver()
					p.sync(b)
					took = append(took, time.Since(start))
				}
				b.ReportMetric(micro(quantile(took, 0.5)), "us/p50")
				b.ReportMetric(micro(quantile(took, 0.99)), "us/p99")
				if n == benchSizes[0] {
					smallest = median(took)
				}
				if smallest > 0 {
					b.ReportMetric(float64(median(took))/float64(smallest), "x-smallest")
				}
			})
		})
	}
}

// BenchmarkMemory reports what the proxy keeps in memory for each Service with its endpoints.
func BenchmarkMemory(b *testing.B) {
	for _, n := range benchSizes[1:] {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			proxytest.InNamespace(b, func() {
				var live, allocated float64
				for b.Loop() {
					var before, after runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&before)
					p := newPipeline(b, false)
					p.fill(n)
					p.sync(b)
					runtime.GC()
					runtime.ReadMemStats(&after)
					live = float64(after.HeapAlloc) - float64(before.HeapAlloc)
					allocated = float64(after.TotalAlloc) - float64(before.TotalAlloc)
					runtime.KeepAlive(p)
					if err := p.backend.Cleanup(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(live/float64(n), "live-B/service")
				b.ReportMetric(allocated/float64(n), "alloc-B/service")
				b.ReportMetric(live/float64(n)/benchEndpoints, "live-B/endpoint")
			})
		})
	}
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func milli(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
