package sync

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
)

// changedNode is the usual Node with something changed.
func changedNode(change func(*v1.Node)) *v1.Node {
	n := objects.Node(proxytest.Addressing())
	change(n)
	return n
}

// hinted gives each endpoint of a slice the hint of a zone.
func hinted(e *discovery.EndpointSlice, zones ...string) *discovery.EndpointSlice {
	for i, z := range zones {
		e.Endpoints[i].Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: z}}}
	}
	return e
}

// What the node is, and not only Services, is followed at once: kube-proxy restarts or waits for up to an hour.
func TestFactsAreFollowedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name         string
		config       func(*FactsConfig)
		change       func(r *rig)
		before, want string // a line of what the kernel holds
	}{
		{"zone of the node", nil,
			func(r *rig) {
				r.loop.SetNode(changedNode(func(n *v1.Node) { n.Labels[v1.LabelTopologyZone] = "zone-b" }))
			},
			"cluster pool 10.244.2.2:8080\n", "cluster pool 10.244.2.3:8080\n"},
		{"zone label removed", nil,
			func(r *rig) { r.loop.SetNode(changedNode(func(n *v1.Node) { n.Labels = nil })) },
			"cluster pool 10.244.2.2:8080\n", "cluster pool 10.244.2.2:8080 10.244.2.3:8080\n"},
		{"address of the Node object", nil,
			func(r *rig) {
				r.loop.SetNode(changedNode(func(n *v1.Node) { n.Status.Addresses[0].Address = "192.168.51.1" }))
			},
			"NodePorts on 192.168.50.1\n", "NodePorts on 192.168.51.1\n"},
		{"local address, NodePorts by prefix", func(f *FactsConfig) {
			f.NodePorts = node.NodePortConfig{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}
		},
			func(r *rig) { r.local.set(addr("192.168.77.1")); r.loop.AddressesChanged() },
			"NodePorts on 192.168.50.1 192.168.51.1\n", "NodePorts on 192.168.77.1\n"},
		{"local address, NodePorts everywhere", func(f *FactsConfig) { f.NodePorts = node.NodePortConfig{All: true} },
			func(r *rig) { r.local.set(addr("192.168.77.1"), addr("127.0.0.1")); r.loop.AddressesChanged() },
			"every address of the node, at present 10.244.1.1 192.168.50.1 192.168.51.1\n", "at present 192.168.77.1\n"},
		{"pod prefix of the Node object", func(f *FactsConfig) { f.Pods = node.PodDetection{Mode: node.NodeCIDR} },
			func(r *rig) {
				r.loop.SetNode(changedNode(func(n *v1.Node) { n.Spec.PodCIDRs = []string{"10.9.9.7/24"} }))
			},
			"pods are in 10.244.1.0/24\n", "pods are in 10.9.9.0/24\n"},
		{"old field of the pod prefix", func(f *FactsConfig) { f.Pods = node.PodDetection{Mode: node.NodeCIDR} },
			func(r *rig) {
				r.loop.SetNode(changedNode(func(n *v1.Node) { n.Spec.PodCIDRs, n.Spec.PodCIDR = nil, "10.8.8.0/24" }))
			},
			"pods are in 10.244.1.0/24\n", "pods are in 10.8.8.0/24\n"},
		{"ServiceCIDR added", nil,
			func(r *rig) { r.loop.SetServiceCIDR(serviceCIDR("more", "10.97.0.0/16", "fd00:97::/112")) },
			"service CIDRs 10.96.0.0/16\n", "service CIDRs 10.96.0.0/16 10.97.0.0/16\n"},
		{"ServiceCIDR within another", nil,
			func(r *rig) { r.loop.SetServiceCIDR(serviceCIDR("within", "10.96.8.0/24", "10.98.0.0/16")) },
			"service CIDRs 10.96.0.0/16\n", "service CIDRs 10.96.0.0/16 10.98.0.0/16\n"},
		{"ServiceCIDR deleted", nil, func(r *rig) { r.loop.DeleteServiceCIDR("kubernetes") },
			"service CIDRs 10.96.0.0/16\n", "service CIDRs none\n"},
		{"Node deleted: the machine keeps its addresses", nil, func(r *rig) { r.loop.DeleteNode() },
			"NodePorts on 192.168.50.1\n", "NodePorts on 192.168.50.1\n"},
		{"Node made again, without addresses at first", nil,
			func(r *rig) {
				r.loop.DeleteNode()
				r.loop.SetNode(changedNode(func(n *v1.Node) {
					n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: "n1"}}
				}))
			},
			"NodePorts on 192.168.50.1\n", "NodePorts on 192.168.50.1\n"},
		{"Node made again, without pod prefixes at first", func(f *FactsConfig) { f.Pods = node.PodDetection{Mode: node.NodeCIDR} },
			func(r *rig) {
				r.loop.SetNode(changedNode(func(n *v1.Node) { n.Spec.PodCIDRs, n.Spec.PodCIDR = nil, "" }))
			},
			"pods are in 10.244.1.0/24\n", "pods are in 10.244.1.0/24\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(r *rig) {
				if c.config != nil {
					c.config(&r.loop.inputs.facts)
				}
				web := service("web", "10.96.0.1", v1.ProtocolTCP)
				r.loop.SetService(web)
				r.loop.SetEndpointSlice(hinted(slice(web, "10.244.2.2", "10.244.2.3"), "zone-a", "zone-b"))
				r.loop.SetServiceCIDR(serviceCIDR("kubernetes", "10.96.0.0/16"))
				r.synced()
				k := r.kernels[proxy.IPv4]
				if got := k.holds(); !strings.Contains(got, c.before) {
					t.Fatalf("before, the kernel has no %q:\n%s", c.before, got)
				}
				c.change(r)
				r.after(15 * time.Millisecond)
				if got := k.holds(); !strings.Contains(got, c.want) {
					t.Errorf("the kernel has no %q:\n%s", c.want, got)
				}
			}, exact)
		})
	}
}

// What the node is, is not worked out again for each change of a Service.
func TestFactsAreMadeForAReason(t *testing.T) {
	run(t, func(r *rig) {
		r.synced()
		var reads atomic.Int32
		r.local.onRead(func() { reads.Add(1) })
		r.touch(0)
		r.settle()
		if n := reads.Load(); n != 0 {
			t.Errorf("the addresses were read %d times for a change of a Service", n)
		}
		r.loop.AddressesChanged()
		r.settle()
		r.touch(1)
		r.settle()
		if n := reads.Load(); n != 2 { // once for each family
			t.Errorf("the addresses were read %d times for one change of theirs", n)
		}
	}, exact)
}

// The own Node decides whether load balancers should send connections here, without any sync.
func TestNodeEligibility(t *testing.T) {
	tainted := changedNode(func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: healthcheck.ToBeDeletedTaint}} })
	deleting := changedNode(func(n *v1.Node) { n.DeletionTimestamp = new(n.CreationTimestamp) })
	cordoned := changedNode(func(n *v1.Node) { n.Spec.Unschedulable = true; n.Spec.Taints = []v1.Taint{{Key: "other"}} })
	run(t, func(r *rig) {
		for _, step := range []struct {
			name string
			do   func()
			want int
		}{
			{"unknown", func() {}, 503},
			{"known", func() { r.loop.SetNode(objects.Node(proxytest.Addressing())) }, 200},
			{"tainted", func() { r.loop.SetNode(tainted) }, 503},
			{"cordoned", func() { r.loop.SetNode(cordoned) }, 200},
			{"deleting", func() { r.loop.SetNode(deleting) }, 503},
			{"known again", func() { r.loop.SetNode(objects.Node(proxytest.Addressing())) }, 200},
			{"deleted", func() { r.loop.DeleteNode() }, 503},
		} {
			step.do()
			if got := get(r.health, "/healthz"); got != step.want {
				t.Errorf("%s: /healthz answers %d, want %d", step.name, got, step.want)
			}
			if got := get(r.health, "/livez"); got != 200 {
				t.Errorf("%s: /livez answers %d", step.name, got)
			}
		}
	}, exact)
}

// A warning is logged once for as long as it lasts, and again if it comes back.
func TestNodeWarningsAreLoggedOnce(t *testing.T) {
	run(t, func(r *rig) {
		bad, good := serviceCIDR("c", "10.96.0.0"), serviceCIDR("c", "10.96.0.0/16")
		r.loop.SetServiceCIDR(bad)
		r.synced()
		counts := []int{len(r.log.with("ServiceCIDR c"))}
		for _, step := range []func(){
			func() { r.loop.SetNode(changedNode(func(n *v1.Node) { n.Labels = nil })) },
			func() { r.loop.SetServiceCIDR(good) },
			func() { r.loop.SetServiceCIDR(bad) },
		} {
			step()
			r.settle()
			counts = append(counts, len(r.log.with("ServiceCIDR c")))
		}
		if diff := cmp.Diff([]int{1, 0, 0, 1}, counts); diff != "" {
			t.Errorf("times logged -want +got:\n%s", diff)
		}
	})
}

func TestOfFamily(t *testing.T) {
	var in, want []netip.Prefix
	for _, s := range []string{"10.98.0.0/16", "fd00::/112", "10.96.1.0/24", "10.96.0.0/16", "10.96.0.0/16", "10.96.0.0/20"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	for _, s := range []string{"10.96.0.0/16", "10.98.0.0/16"} {
		want = append(want, netip.MustParsePrefix(s))
	}
	if diff := cmp.Diff(want, ofFamily(proxy.IPv4, in), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A setting that can never recognise pods ends the start; one that may once the Node says more does not.
func TestCheck(t *testing.T) {
	v6only := []netip.Prefix{netip.MustParsePrefix("fd00::/48")}
	usual := objects.Node(proxytest.Addressing())
	for _, c := range []struct {
		name     string
		pods     node.PodDetection
		families []proxy.Family
		node     *v1.Node
		want     string // in the error; "" for none
	}{
		{"both families", node.PodDetection{ClusterCIDRs: proxytest.Addressing().ClusterCIDRs}, proxy.Families[:], usual, ""},
		{"nothing is said", node.PodDetection{}, proxy.Families[:], usual, ""},
		{"the only family is missing", node.PodDetection{ClusterCIDRs: v6only}, proxy.Families[:1], usual, "has no IPv4 prefix"},
		{"pod prefixes of a Node that is not known yet", node.PodDetection{Mode: node.NodeCIDR}, proxy.Families[:], nil, ""},
		{"pod prefixes of the wrong family", node.PodDetection{Mode: node.NodeCIDR}, proxy.Families[:],
			changedNode(func(n *v1.Node) { n.Spec.PodCIDRs = []string{"fd00::/64"} }), "spec.podCIDRs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := (&FactsConfig{Pods: c.pods}).Check(c.families, c.node)
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
