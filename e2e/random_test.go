package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
	"turnout/proxy/source"
	proxysync "turnout/proxy/sync"
)

var (
	randomCases = flag.Int("random.cases", 400, "random Services that TestRandom sends packets to")
	randomSeed  = flag.Uint64("random.seed", 0, "first random number of TestRandom; another one each time if 0")
)

const (
	// atOnce is the number of Services that are programmed at the same time, and swap how many of them change from one State to
	// the next.
	atOnce = 80
	swap   = 40
	// packetsEach is the number of packets that are sent to each State of each family.
	packetsEach = 800
)

// TestRandom compares what becomes of packets with what the tracer says about the same objects. It walks from one set of random
// Services to another in one process, so that what is left over from earlier ones would show.
func TestRandom(t *testing.T) {
	t.Parallel()
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("to repeat: -run 'TestRandom$' -random.seed=%d -random.cases=%d", seed, *randomCases)
	for i, settings := range randomSettings {
		t.Run(settings.name, func(t *testing.T) {
			t.Parallel()
			w := &walk{cluster: newCluster(t), t: t, rng: rand.New(rand.NewPCG(seed, uint64(i))), settings: settings}
			w.run(max(atOnce, *randomCases/len(randomSettings)))
		})
	}
}

// settings are flags, and what they mean to the model.
type settings struct {
	name  string
	args  []string
	apply func(*proxysync.FactsConfig)
}

var randomSettings = []settings{
	{"defaults", nil, func(*proxysync.FactsConfig) {}},
	{"interface prefix, all node ports, masquerade all",
		[]string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth-", "--nodeport-addresses=all", "--masquerade-all"},
		func(f *proxysync.FactsConfig) {
			f.Pods = node.PodDetection{Mode: node.InterfaceNamePrefix, InterfacePrefix: "veth-"}
			f.NodePorts, f.MasqueradeAll = node.NodePortConfig{All: true}, true
		}},
}

// walk is a proxy whose objects change again and again.
type walk struct {
	*cluster
	t        *testing.T
	rng      *rand.Rand
	settings settings
	proxy    *process
	drawn    int
}

func (w *walk) run(cases int) {
	if err := w.ServeEndpoints(); err != nil {
		w.t.Fatal(err)
	}
	for i := range atOnce {
		w.draw(i)
	}
	w.write()
	w.proxy = w.start(w.settings.args...)
	for {
		w.compare()
		if w.t.Failed() || w.drawn >= cases {
			return
		}
		for _, i := range w.rng.Perm(atOnce)[:swap] {
			w.draw(i)
		}
		w.generation++
		w.write()
		w.proxy.follow()
	}
}

// draw puts another version of the i-th Service into the folder, which write brings to the proxy.
func (w *walk) draw(i int) {
	s, slices := objects.Service(w.rng, w.Cluster, i)
	for key := range w.objects {
		if strings.Contains(key, "/"+s.Name+"-") || strings.HasSuffix(key, "/"+s.Name) {
			delete(w.objects, key)
		}
	}
	w.drawn++
	if w.rng.IntN(8) == 0 { // gone for now
		return
	}
	w.objects[objectKey(s)] = s
	for _, e := range slices {
		w.objects[objectKey(e)] = e
	}
}

// compare sends packets to what the proxy serves now.
func (w *walk) compare() {
	w.t.Helper()
	states := w.states()
	w.sameStates(states)
	for _, s := range states {
		packets := proxytest.Packets(s, w.Cluster)
		total := len(packets)
		w.rng.Shuffle(total, func(i, j int) { packets[i], packets[j] = packets[j], packets[i] })
		packets = packets[:min(total, packetsEach)]
		errs := append(w.verifySlowly(withinLimits(s), packets), w.passed(s, packets)...)
		w.t.Logf("%d Services drawn, %d ports over %s: %d of %d packets, %d disagree", w.drawn, s.Services.Len(), s.Family, len(packets), total, len(errs))
		for _, err := range errs[:min(10, len(errs))] {
			w.t.Error(err)
		}
		if len(errs) > 0 {
			var text strings.Builder
			_ = proxy.WriteText(&text, s) // a Builder takes everything
			w.t.Logf("the State is\n%s", &text)
		}
	}
}

// states are what the same objects are to the model.
func (w *walk) states() []*proxy.State {
	facts := proxysync.FactsConfig{
		NodePorts:     node.NodePortConfig{DefaultPrimary: true},
		Pods:          node.PodDetection{Mode: node.ClusterCIDR, ClusterCIDRs: w.ClusterCIDRs},
		MasqueradeBit: 14, ExternalIPs: true,
		Local: func(f proxy.Family) []netip.Addr { return proxytest.AddrsOf(f, w.NodeAddrs) },
	}
	w.settings.apply(&facts)
	states, _, _ := proxysync.Preview(proxysync.Options{NodeName: w.Cluster.Node, Families: proxy.Families[:], Facts: facts}, w.deliver)
	return states
}

// deliver gives all objects to the model as the API server gives them to a proxy.
func (w *walk) deliver(to source.Sink) {
	for _, o := range append(w.all(), w.mark()) {
		switch o := o.(type) {
		case *v1.Node:
			to.SetNode(o)
		case *networking.ServiceCIDR:
			to.SetServiceCIDR(o)
		case *discovery.EndpointSlice:
			if _, headless := o.Labels[v1.IsHeadlessService]; !headless {
				to.SetEndpointSlice(o)
			}
		case *v1.Service:
			if _, foreign := o.Labels["service.kubernetes.io/service-proxy-name"]; !foreign {
				to.SetService(o)
			}
		}
	}
	to.Synced()
}

// sameStates checks that the proxy understands its objects as the model does.
func (w *walk) sameStates(states []*proxy.State) {
	w.t.Helper()
	var want bytes.Buffer
	for _, s := range states {
		if err := proxy.WriteText(&want, s); err != nil {
			w.t.Fatal(err)
		}
	}
	got, err := w.proxy.get("127.0.0.1:10249", "/debug/state")
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(withoutAddresses(want.String()), withoutAddresses(got.body)); diff != "" {
		w.t.Errorf("State of the proxy (-want +got):\n%s", diff)
	}
}

// withoutAddresses leaves out the list of the node's own addresses, of which link-local ones are random.
func withoutAddresses(state string) []string {
	lines := strings.Split(state, "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "  NodePorts on every address") })
}

// passed sends the packets that are none of the proxy's business, and returns an error for each that reached anybody but its
// addressee.
func (w *walk) passed(s *proxy.State, packets []proxytest.Packet) []error {
	var mu sync.Mutex // guards errs
	var errs []error
	var wait sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, p := range packets {
		if proxytest.Trace(s, p).Verdict != proxytest.Pass {
			continue
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			o := lab.DialOptions{Timeout: lab.VerifyTimeout, Source: netip.AddrPortFrom(p.Source, 0)}
			got := w.Host(p.From).Dial(p.Protocol, netip.AddrPortFrom(p.Destination, p.Port), o)
			if got.Result == lab.Connected && got.Endpoint.Addr() != p.Destination {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%v: got %v, want it left alone", p, got))
			}
		})
	}
	wait.Wait()
	return errs
}

// all lists the objects in the folder.
func (c *cluster) all() []metav1.Object {
	var out []metav1.Object
	for _, o := range c.objects {
		out = append(out, o)
	}
	return out
}
