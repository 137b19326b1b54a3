package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/nftables"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// hitlessFor bounds the whole of the hitless tests to about 15 s unless it is set.
var hitlessFor = flag.Duration("hitless.for", 1200*time.Millisecond, "how long each of the hitless tests has clients connect")

// A load is clients that connect to one address again and again, and one connection that stays open.
type load struct {
	*lab.Clients
	t    *testing.T
	host *lab.Host
	what string // is shown if something fails
}

// longTimeout is so long that only a lost packet ends it, however busy the machine is. A TCP packet that is lost once is seen by its
// retransmission instead.
const longTimeout = 5 * time.Second

// startLoad begins to connect. The load must be judged, or stopped.
func startLoad(t *testing.T, host *lab.Host, p proxy.Protocol, to netip.AddrPort, o lab.LoadOptions) *load {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = longTimeout * time.Duration(*slow)
	}
	c, err := host.Clients(p, to, o)
	if err != nil {
		t.Fatalf("connect from %s: %v", host.Name, err)
	}
	return &load{c, t, host, fmt.Sprintf("%s from %s to %s", p, host.Name, to)}
}

// goesOn waits until the clients made some more connections, or until they fail. It should be more than connect at the same time, so that some begin after
// this is called.
func (l *load) goesOn(some int) {
	l.t.Helper()
	before, _ := l.SoFar()
	eventually(l.t, "some more connections: "+l.what, func() bool {
		ok, failed := l.SoFar()
		return ok >= before+some || failed > 0
	})
}

// judge ends the clients; every connection must have succeeded at the first attempt.
func (l *load) judge() lab.ClientsReport {
	l.t.Helper()
	const enough = 20 // fewer say nothing; a busy machine gets the time
	eventually(l.t, "enough connections: "+l.what, func() bool {
		ok, failed := l.SoFar()
		return ok >= enough || failed > 0
	})
	r, err := l.Stop()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Logf("%s: %s", l.what, r)
	if fault := r.Fault(enough); fault != "" {
		l.t.Errorf("%s: %s: %s", l.what, fault, r)
	}
	return r
}

// bench is a lab whose node has Backends that tests apply hand-made States to, with nobody watching the table.
type bench struct {
	*lab.Lab
	t        *testing.T
	backends map[proxy.Family]*nftables.Backend
}

// endpointPorts are served by every pod of the bench.
var endpointPorts = []uint16{8080, 8081, 8082}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Lab: lab.ForTest(t), t: t, backends: map[proxy.Family]*nftables.Backend{}}
	for _, h := range b.Hosts() {
		if h.Pod {
			serve(t, h, endpointPorts...)
		}
	}
	for _, f := range proxy.Families {
		b.backends[f] = b.open(nftables.Options{Family: f})
	}
	return b
}

// serve answers TCP and UDP connections to some ports of a host.
func serve(t *testing.T, h *lab.Host, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
			if _, err := h.Serve(p, port); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// open returns one more Backend on the node.
func (b *bench) open(o nftables.Options) *nftables.Backend {
	b.t.Helper()
	var backend *nftables.Backend
	if err := b.Node().Do(func() (err error) { backend, err = nftables.New(o); return err }); err != nil {
		b.t.Skipf("the kernel cannot run nftables mode: %v", err)
	}
	b.t.Cleanup(func() { _ = backend.Close() })
	return backend
}

// apply makes the kernel follow a State.
func (b *bench) apply(s *proxy.State) {
	b.t.Helper()
	report, err := b.backends[s.Family].Apply(context.Background(), s)
	if err != nil {
		b.t.Fatalf("apply: %v", err)
	}
	if len(report.Rejected) > 0 {
		b.t.Fatalf("the kernel refused %v", report.Rejected)
	}
}

// endpoints lists the endpoints of a family in the order of the pods: those of this node first, marked as local.
func (b *bench) endpoints(f proxy.Family, ports ...uint16) (out []string) {
	for _, h := range b.Pods("") {
		for _, port := range ports {
			e := netip.AddrPortFrom(h.Addr(f), port).String()
			if h.Node == b.Cluster.Node {
				e += " local"
			}
			out = append(out, e)
		}
	}
	return out
}

// A disturbance is a Service whose endpoints come and go.
type disturbance struct {
	name    string
	service string // as proxytest.Name reads it
	to      string
	from    string // also the host of some endpoints that come and go
	part    []proxytest.Part
	// alone leaves out a second Service on all pods: then addresses go out of use, too.
	alone bool
}

// disturbances are the ways in which a Service's endpoints can be looked up.
func disturbances() []disturbance {
	clusterIP := func(address string) []proxytest.Part {
		return []proxytest.Part{proxytest.At(proxy.ClusterIP, address, proxytest.Internal)}
	}
	local := []proxytest.Part{proxytest.At(proxy.LoadBalancerIP, "192.168.60.3:80", proxytest.ExternalLocal)}
	return []disturbance{
		{name: "ClusterIP", service: "ns/web/TCP", to: "10.96.0.1:80", from: "pod-3", part: clusterIP("10.96.0.1:80")},
		{name: "IPv6", service: "ns/web/TCP", to: "[fd00:10:96::1]:80", from: "pod-3", part: clusterIP("[fd00:10:96::1]:80")},
		{name: "endpoints on the own host", service: "ns/own/TCP", to: "10.96.0.5:80", from: "pod-3", part: clusterIP("10.96.0.5:80"), alone: true},
		{name: "affinity", service: "ns/sticky/TCP", to: "10.96.0.2:80", from: "pod-3", part: append(clusterIP("10.96.0.2:80"), proxytest.Sticky(time.Hour))},
		{name: "policy Local", service: "ns/local/TCP", to: "192.168.60.3:80", from: "client", part: local},
		{name: "UDP", service: "ns/dns/UDP", to: "10.96.0.4:53", from: "pod-3", part: clusterIP("10.96.0.4:53")},
	}
}

func (d *disturbance) family() proxy.Family {
	return proxy.FamilyOf(netip.MustParseAddrPort(d.to).Addr())
}

// staying is the index of the endpoint that never goes: one of pod-2.
const staying = 4

// state is a State in which the Service has the endpoint that stays and, each with a probability, the others.
func (d *disturbance) state(b *bench, rng *rand.Rand, likely float64) *proxy.State {
	all := b.endpoints(d.family(), endpointPorts...)
	list := []string{all[staying]}
	for i, e := range all {
		if i != staying && rng.Float64() < likely {
			list = append(list, e)
		}
	}
	services := []*proxy.Service{proxytest.NewService(d.service, append(slices.Clone(d.part), proxytest.On(list...))...)}
	if !d.alone {
		other := netip.AddrPortFrom(proxytest.Of(d.family(), b.ServiceCIDRs)[0].Addr().Next(), 9999).String()
		services = append(services, proxytest.NewService("ns/other/TCP", proxytest.At(proxy.ClusterIP, other, proxytest.Internal), proxytest.On(all...)))
	}
	return proxytest.NewState(d.family(), services...)
}

// states are made in advance, so that nothing but Apply takes time. At times there are many endpoints, at others only the one.
func (d *disturbance) states(b *bench) []*proxy.State {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]*proxy.State, 500)
	for i := range out {
		out[i] = d.state(b, rng, float64(rng.IntN(5))/4)
	}
	return out
}

// churn applies States in turn, as fast as it can, and returns how often.
func (b *bench) churn(states []*proxy.State, lasting time.Duration) int {
	n := 0
	for end := time.Now().Add(lasting); time.Now().Before(end); n++ {
		b.apply(states[n%len(states)])
	}
	return n
}

// load has clients connect to the Service.
func (d *disturbance) load(b *bench, o lab.LoadOptions) *load {
	b.t.Helper()
	return startLoad(b.t, b.Host(d.from), proxytest.Name(d.service).Protocol, netip.MustParseAddrPort(d.to), o)
}

// TestHitlessEndpoints has the endpoints of one Service come and go thousands of times a second, with one that stays. A packet whose
// lookups straddle an update must still find an endpoint.
func TestHitlessEndpoints(t *testing.T) {
	b := newBench(t)
	for _, d := range disturbances() {
		t.Run(d.name, func(t *testing.T) {
			b := &bench{b.Lab, t, b.backends}
			states := d.states(b)
			b.apply(states[0])
			l := d.load(b, lab.LoadOptions{})
			start := time.Now()
			n := b.churn(states, *hitlessFor)
			for n < 100 && time.Since(start) < patience { // fewer prove nothing; a busy machine gets the time
				n += b.churn(states, *hitlessFor)
			}
			l.judge()
			t.Logf("%d updates in %v", n, time.Since(start))
			b.apply(d.state(b, rand.New(rand.NewPCG(0, 0)), 0))
			d.checkStaying(b)
		})
	}
}

// checkStaying connects while only the one endpoint is left: no client may still be led to one that went.
func (d *disturbance) checkStaying(b *bench) {
	b.t.Helper()
	p := proxytest.Name(d.service).Protocol
	if p == proxy.UDP {
		return // ports of clients come again, and connection tracking is not cleaned here
	}
	want := strings.TrimSuffix(b.endpoints(d.family(), endpointPorts...)[staying], " local")
	for range 20 {
		o := b.Host(d.from).Dial(p, netip.MustParseAddrPort(d.to), lab.DialOptions{Timeout: longTimeout})
		if o.Endpoint.String() != want {
			b.t.Fatalf("with one endpoint left: %s, want %s", o, want)
		}
	}
}

// TestHitlessCanFail breaks what makes updates hitless: the rule by which a packet that straddles an update falls back to the first
// endpoint. Connections must fail then, or TestHitlessEndpoints would prove nothing.
func TestHitlessCanFail(t *testing.T) {
	b := newBench(t)
	d := disturbances()[0]
	states := d.states(b)
	b.apply(states[0])
	n := newNft(t, b.Node())
	broken := 0
	for _, r := range n.rules("ip", nftables.TableName) {
		if strings.HasPrefix(r.chain, "pick-") && r.chain != "pick-1" && r.text == "goto slot0" {
			n.run("delete", "rule", "ip", nftables.TableName, r.chain, "handle", r.handle)
			broken++
		}
	}
	if broken < 10 {
		t.Fatalf("found %d rules to break, want at least 10", broken)
	}
	l := d.load(b, lab.LoadOptions{Timeout: 1500 * time.Millisecond})
	// Clients that met the race wait for an answer that does not come, so it shows by SYNs that are sent again after a second.
	eventually(t, "a SYN is sent again without the fall-back", func() bool {
		b.churn(states, 100*time.Millisecond)
		again, err := l.Again()
		if err != nil {
			t.Fatal(err)
		}
		return again > 0
	})
	r, err := l.Stop()
	t.Logf("without the fall-back: %s, %v", r, err)
}
