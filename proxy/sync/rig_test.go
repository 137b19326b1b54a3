package sync

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	k8s "k8s.io/component-base/metrics"
	"k8s.io/klog/v2"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/metrics"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
	"turnout/proxy/source"
)

// rig is a Loop among fakes, with real metrics and health.
type rig struct {
	t        *testing.T
	loop     *Loop
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{} // closed when Run has returned
	kernels  map[proxy.Family]*kernel
	faults   map[proxy.Family]*faulty
	cleaners map[proxy.Family]*cleaner
	local    *localAddrs
	events   *recorded
	log      *recorded
	health   *healthcheck.ProxyHealth
	registry k8s.KubeRegistry
}

// settings are what tests change of a rig.
type settings struct {
	seed    uint64
	faults  float64 // how often an Apply or a Clean fails
	timing  Timing
	timeout time.Duration // of the health
}

// The timing of the tests is that of the program.
var usual = settings{
	seed: 1, faults: 0.3, timeout: time.Minute,
	timing: Timing{Quiet: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond, MaxRetry: 30 * time.Second},
}

// exact is for tests of when things happen: nothing fails unless the test says so.
func exact(s *settings) { s.faults = 0 }

// run runs a test in a bubble of its own time, in which a running Loop waits for Synced.
func run(t *testing.T, test func(r *rig), changes ...func(*settings)) {
	synctest.Test(t, func(t *testing.T) {
		s := usual
		for _, change := range changes {
			change(&s)
		}
		r := newRig(t, s)
		go func() {
			defer close(r.done)
			r.loop.Run(r.ctx)
		}()
		synctest.Wait()
		test(r)
		r.cancel()
		<-r.done
		for f, k := range r.kernels {
			for _, err := range k.problems {
				t.Errorf("%s: a State that breaks the model's promises: %v", f, err)
			}
		}
	})
}

func newRig(t *testing.T, s settings) *rig {
	c := proxytest.Addressing()
	r := &rig{
		t: t, done: make(chan struct{}), kernels: map[proxy.Family]*kernel{}, faults: map[proxy.Family]*faulty{}, cleaners: map[proxy.Family]*cleaner{},
		local: &localAddrs{addrs: c.NodeAddrs}, events: &recorded{}, log: &recorded{}, registry: k8s.NewKubeRegistry(),
	}
	r.ctx, r.cancel = context.WithCancel(klog.NewContext(t.Context(), r.log.logger()))
	r.health = healthcheck.NewProxyHealth(healthcheck.ProxyHealthOptions{Timeout: s.timeout, Families: proxy.Families[:]})
	backends, cleaners := map[proxy.Family]proxy.Backend{}, map[proxy.Family]FlowCleaner{}
	for _, f := range proxy.Families {
		r.kernels[f] = newKernel(f)
		r.faults[f] = &faulty{Backend: r.kernels[f], rng: rand.New(rand.NewPCG(s.seed, uint64(f))), rate: s.faults}
		r.cleaners[f] = &cleaner{rng: rand.New(rand.NewPCG(s.seed, 10+uint64(f))), rate: s.faults}
		backends[f], cleaners[f] = r.faults[f], r.cleaners[f]
	}
	r.loop = New(Options{
		NodeName: c.Node, Families: proxy.Families[:], Mode: Mode{Name: "first", Backends: backends}, Facts: factsConfig(r.local), Timing: s.timing,
		Metrics: metrics.New(r.registry.MustRegister), Health: r.health, Conntrack: cleaners, Events: r.events,
	})
	return r
}

// factsConfig serves NodePorts on the node's main addresses and knows pods by the cluster's prefixes.
func factsConfig(l *localAddrs) FactsConfig {
	return FactsConfig{
		NodePorts: node.NodePortConfig{Primary: true}, Pods: node.PodDetection{ClusterCIDRs: proxytest.Addressing().ClusterCIDRs},
		MasqueradeBit: 14, ExternalIPs: true, Local: l.of,
	}
}

// synced starts the loop with the usual node, and waits until it has nothing to do.
func (r *rig) synced() {
	r.loop.SetNode(objects.Node(proxytest.Addressing()))
	r.loop.Synced()
	r.settle()
}

// settle waits longer than anything takes.
func (r *rig) settle() {
	time.Sleep(10 * time.Minute)
	synctest.Wait()
}

// after lets time pass.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// setRate makes this part of all Applies fail.
func (r *rig) setRate(rate float64) {
	for _, f := range r.faults {
		f.setRate(rate)
	}
}

// value returns a metric's value, or its number of samples if it is a histogram. labels are "name=value".
func (r *rig) value(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			if strings.Join(has, ",") != strings.Join(labels, ",") {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				return float64(h.GetSampleCount())
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	r.t.Fatalf("no series %s %v", name, labels)
	return 0
}

const ipv4, ipv6 = "ip_family=IPv4", "ip_family=IPv6"

// wantValue compares a metric.
func (r *rig) wantValue(want float64, name string, labels ...string) {
	r.t.Helper()
	if got := r.value(name, labels...); got != want {
		r.t.Errorf("%s %v is %v, want %v", name, labels, got, want)
	}
}

// service is an IPv4 Service default/name with one port.
func service(name, clusterIP string, protocol v1.Protocol, changes ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Unix(1700000000, 0)},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Protocol: protocol, Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

// nodePort makes it a Service of type NodePort.
func nodePort(n int32) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = v1.ServiceTypeNodePort, n }
}

// slice is the one EndpointSlice of a Service.
func slice(of *v1.Service, addrs ...string) *discovery.EndpointSlice {
	e := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: of.Namespace, Name: of.Name + "-x", Labels: map[string]string{discovery.LabelServiceName: of.Name}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new(""), Protocol: new(of.Spec.Ports[0].Protocol), Port: new(int32(8080))}},
	}
	for _, a := range addrs {
		e.Endpoints = append(e.Endpoints, discovery.Endpoint{Addresses: []string{a}, NodeName: new("n2")})
	}
	return e
}

// triggered adds what says when the change of a slice was made in the cluster.
func triggered(e *discovery.EndpointSlice, at time.Time) *discovery.EndpointSlice {
	e.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: at.Format(time.RFC3339Nano)}
	return e
}

func serviceCIDR(name string, cidrs ...string) *networking.ServiceCIDR {
	return &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networking.ServiceCIDRSpec{CIDRs: cidrs}}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// gaps are the times between points in time.
func gaps(times []time.Time) (out []time.Duration) {
	for i := 1; i < len(times); i++ {
		out = append(out, times[i].Sub(times[i-1]))
	}
	return out
}

// preview is Preview with the configuration of a rig.
func preview(deliver func(*Loop)) ([]*proxy.State, []string, []string) {
	c := proxytest.Addressing()
	o := Options{NodeName: c.Node, Families: proxy.Families[:], Facts: factsConfig(&localAddrs{addrs: c.NodeAddrs})}
	return Preview(o, func(s source.Sink) { deliver(s.(*Loop)) })
}

// body returns what the health server answers.
func (r *rig) body(path string) string {
	w := httptest.NewRecorder()
	r.health.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Body.String()
}

// get returns the status that a path is answered with.
func get(h http.Handler, path string) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code
}

// sum returns the sum of a histogram.
func (r *rig) sum(name, label string) (sum float64) {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetName()+"="+m.GetLabel()[0].GetValue() == label {
				sum = m.GetHistogram().GetSampleSum()
			}
		}
	}
	return sum
}
