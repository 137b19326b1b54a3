package sync

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
)

// A new configuration is taken as a whole, by one sync of each family.
func TestConfigure(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		start := time.Now()
		f := factsConfig(r.local)
		f.NodePorts, f.MasqueradeAll, f.MasqueradeBit = node.NodePortConfig{All: true}, true, 3
		f.Pods = node.PodDetection{Mode: node.InterfaceNamePrefix, InterfacePrefix: "veth"}
		if err := r.loop.Configure(f, r.loop.timing()); err != nil {
			t.Fatal(err)
		}
		r.settle()
		if diff := cmp.Diff(ms(10), r.since(start)); diff != "" {
			t.Errorf("Apply was called: -want +got\n%s", diff)
		}
		for _, s := range r.loop.States() {
			n := s.Node
			if !n.NodePorts.Any || n.MasqueradeMark != 1<<3 || n.LocalPods.InterfacePrefix != "veth" || len(n.LocalPods.Prefixes) != 0 {
				t.Errorf("%s: State has %+v", s.Family, n)
			}
			if diff := cmp.Diff(text(s), r.kernels[s.Family].holds()); diff != "" {
				t.Errorf("%s: the kernel does not follow: -State +kernel\n%s", s.Family, diff)
			}
		}
	}, exact)
}

// What cannot work on the node as it is is refused, and what was configured before stays.
func TestConfigureRefuses(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		n := objects.Node(proxytest.Addressing())
		n.Spec.PodCIDRs = []string{"fd00::/64"} // and the node's main family is IPv4
		r.loop.SetNode(n)
		r.settle()
		start, before := time.Now(), r.kernels[proxy.IPv4].holds()
		f := factsConfig(r.local)
		f.MasqueradeBit = 3
		f.Pods = node.PodDetection{Mode: node.NodeCIDR}
		err := r.loop.Configure(f, Timing{})
		r.settle()
		if err == nil || !strings.Contains(err.Error(), "spec.podCIDRs of the Node fd00::/64 has no IPv4 prefix") {
			t.Errorf("error %v", err)
		}
		if got := r.loop.timing(); got != usual.timing {
			t.Errorf("timing %+v", got)
		}
		r.touch(1) // leads to a sync
		r.settle()
		if len(r.since(start)) != 1 || before == "nothing" || strings.Contains(r.kernels[proxy.IPv4].holds(), "0x8") {
			t.Errorf("Apply at %v, the kernel holds\n%s", r.since(start), r.kernels[proxy.IPv4].holds())
		}
	}, exact)
}

// A shorter period counts at once, also for a change that waits already.
func TestConfigureTiming(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		start := time.Now()
		r.touch(1)
		r.after(time.Second)
		r.touch(2)
		r.after(10 * time.Second)
		if diff := cmp.Diff(ms(10), r.since(start)); diff != "" {
			t.Fatalf("with the long period: -want +got\n%s", diff)
		}
		if err := r.loop.Configure(factsConfig(r.local), usual.timing); err != nil {
			t.Fatal(err)
		}
		r.settle()
		if diff := cmp.Diff(ms(10, 11000), r.since(start)); diff != "" {
			t.Errorf("with the short period: -want +got\n%s", diff)
		}
	}, exact, func(s *settings) { s.timing.MinPeriod = 5 * time.Minute })
}
