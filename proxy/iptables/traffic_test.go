package iptables

import (
	"flag"
	"math/rand/v2"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
	"turnout/proxy/proxytest/lab"
)

var (
	seed    = flag.Uint64("random.seed", 0, "first random number of TestTraffic; another one each time if 0")
	steps   = flag.Int("random.steps", 4, "States that TestTraffic walks through, for each variant and family")
	packets = flag.Int("random.packets", 250, "packets that are sent to each State")
)

var variants = []Variant{NFT, Legacy}

// eachVariant runs a test for the programs of each variant and each family, at the same time.
func eachVariant(t *testing.T, fn func(t *testing.T, o Options)) {
	for _, v := range variants {
		for _, f := range proxy.Families {
			t.Run(string(v)+" "+f.String(), func(t *testing.T) {
				o := Options{Family: f, Variant: v}
				o.setDefaults()
				if _, err := findPrograms(t.Context(), &o, v); err != nil {
					t.Skipf("needs iptables: %v", err)
				}
				fn(t, o)
			})
		}
	}
}

// node is a Backend in the node of a lab.
type node struct {
	*lab.Lab
	t       *testing.T
	backend *Backend
}

func newNode(t *testing.T, o Options) *node {
	t.Helper()
	n := &node{Lab: lab.ForTest(t), t: t}
	n.do(func() (err error) {
		n.backend, err = New(t.Context(), o)
		return err
	})
	return n
}

// do runs fn in the node's namespace.
func (n *node) do(fn func() error) {
	n.t.Helper()
	if err := n.Node().Do(fn); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) apply(s *proxy.State) (report proxy.Report) {
	n.t.Helper()
	n.do(func() (err error) {
		report, err = n.backend.Apply(n.t.Context(), s)
		return err
	})
	if len(report.Rejected) > 0 {
		n.t.Fatalf("rejected: %+v", report.Rejected)
	}
	return report
}

// What becomes of packets is what the tracer says of the State, of every case and while Services come, change and go.
func TestTraffic(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1e9) + 1
	}
	t.Logf("to repeat: -run 'TestTraffic$' -random.seed=%d -random.steps=%d", first, *steps)
	eachVariant(t, func(t *testing.T, o Options) {
		t.Parallel()
		open := func(t *testing.T, _ proxy.Family) proxy.Backend { return newKernelBackend(t, o) }
		cases.Mode{Open: open, Seed: first, Random: *steps, Most: *packets}.Traffic(t, o.Family)
	})
}

// follows applies a State and sends some of its packets.
func (n *node) follows(s *proxy.State, rng *rand.Rand) {
	n.t.Helper()
	report := n.apply(s)
	all := proxytest.Packets(s, n.Cluster)
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	some := all[:min(len(all), *packets)]
	errs := n.Verify(s, some)
	n.t.Logf("%d operations, full: %t, %d of %d packets, %d disagree", report.Operations, report.Full, len(some), len(all), len(errs))
	for _, err := range errs[:min(len(errs), 8)] {
		n.t.Error(err)
	}
}
