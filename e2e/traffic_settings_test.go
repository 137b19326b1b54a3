package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// bothFamilies makes a probe of each family.
func (c *cluster) bothFamilies(name string, from client, to func(proxy.Family) netip.AddrPort, want expectation) (out []probe) {
	for _, f := range proxy.Families {
		out = append(out, probe{name + "/" + f.String(), from, proxy.TCP, to(f), want})
	}
	return out
}

// TestMasqueradeAll has connections from pods to ClusterIPs masqueraded, too.
func TestMasqueradeAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.symmetric()
	c.serve("pod-2", "pod-5")
	s, local := newService(1, "web"), newService(2, "local", internalLocal, externalLocal)
	c.set(append(c.with(s, on("pod-2"), on("pod-5")), c.with(local, on("pod-2"), on("pod-5"))...)...)
	c.start("--masquerade-all")
	var probes []probe
	for _, origin := range origins {
		probes = append(probes, c.bothFamilies("ClusterIP from "+origin, c.from(origin), c.of(s, proxy.ClusterIP), masqueraded("pod-2", "pod-5"))...)
		probes = append(probes, c.bothFamilies("ClusterIP of policy Local from "+origin, c.from(origin), c.of(local, proxy.ClusterIP), masqueraded("pod-2"))...)
	}
	// Only ClusterIPs are meant.
	probes = append(probes, c.bothFamilies("NodePort of policy Local", c.from(outside), c.of(local, proxy.NodePort), kept("pod-2"))...)
	c.probe(t, probes...)
}

// of is where the TCP port of a Service is reached in each family.
func (c *cluster) of(s *v1.Service, k proxy.Kind) func(proxy.Family) netip.AddrPort {
	return func(f proxy.Family) netip.AddrPort { return c.address(s, k, f, proxy.TCP) }
}

// TestPodDetection recognises pods in ways other than by the cluster's prefixes.
func TestPodDetection(t *testing.T) {
	t.Parallel()
	// By the name of the interface or by the node's own prefix, only pods on the node are recognised.
	here := map[string]bool{localPod: true}
	for _, row := range []struct {
		args []string
		pods map[string]bool // origins that are recognised as pods
	}{
		{[]string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth-"}, here},
		{[]string{"--detect-local-mode=NodeCIDR"}, here},
		{[]string{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface=veth-pod-1"}, here},
		{[]string{"--detect-local-mode=ClusterCIDR"}, map[string]bool{localPod: true, remotePod: true}},
	} {
		t.Run(strings.TrimPrefix(row.args[0], "--detect-local-mode="), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.symmetric()
			c.serve("pod-2", "pod-5")
			s := newService(1, "local", externalLocal)
			c.set(c.with(s, on("pod-2"), on("pod-5"))...)
			c.start(row.args...)
			var probes []probe
			for _, origin := range origins {
				inside, external := masqueraded("pod-2", "pod-5"), kept("pod-2")
				switch {
				case row.pods[origin]:
					inside, external = kept("pod-2", "pod-5"), unlessLimited("one-pool", kept("pod-2", "pod-5"), kept("pod-2"))
				case origin == thisNode:
					external = unlessLimited("one-pool", masqueraded("pod-2", "pod-5"), masqueraded("pod-2"))
				}
				probes = append(probes, c.bothFamilies("ClusterIP from "+origin, c.from(origin), c.of(s, proxy.ClusterIP), inside)...)
				probes = append(probes, c.bothFamilies("NodePort from "+origin, c.from(origin), c.of(s, proxy.NodePort), external)...)
			}
			c.probe(t, probes...)
		})
	}
}

// TestNoPodDetection serves a cluster whose prefixes nobody told.
func TestNoPodDetection(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-2", "pod-5")
	s := newService(1, "local", externalLocal)
	c.set(c.with(s, on("pod-2"), on("pod-5"))...)
	p := c.start("--cluster-cidr=")
	var probes []probe
	// Nothing is known to need masquerading, and pods count as being outside.
	probes = append(probes, c.bothFamilies("ClusterIP", c.from(localPod), c.of(s, proxy.ClusterIP), kept("pod-2", "pod-5"))...)
	probes = append(probes, c.bothFamilies("ClusterIP from outside", c.from(outside), c.of(s, proxy.ClusterIP), kept("pod-2", "pod-5"))...)
	probes = append(probes, c.bothFamilies("NodePort", c.from(localPod), c.of(s, proxy.NodePort), kept("pod-2"))...)
	c.probe(t, probes...)
	p.warned("clusterCIDR")
}

// TestNodePortAddresses serves NodePorts on some of the node's addresses.
func TestNodePortAddresses(t *testing.T) {
	t.Parallel()
	addresses := map[string][2]string{"primary": {"192.168.50.1", "fd50::1"}, "second": {"192.168.51.1", "fd51::1"}, "gateway": {"10.244.1.1", "fd00:10:244:1::1"}}
	for _, row := range []struct {
		value  string // "" for the default
		served string // names of addresses
		warns  string
	}{
		{"", "primary", ""},
		{"primary", "primary", ""},
		{"all", "primary second gateway", ""},
		{"0.0.0.0/0,::/0", "primary second gateway", ""},
		{"192.168.51.0/24,fd51::/64", "second", ""},
		{"192.168.51.0/24,fd51::/64,primary", "primary second", ""},
		{"localhost", "", "loopback"},
	} {
		t.Run("value "+row.value, func(t *testing.T) {
			t.Parallel()
			c, s := oneService(t)
			var args []string
			if row.value != "" {
				args = append(args, "--nodeport-addresses="+row.value)
			}
			p := c.start(args...)
			var probes []probe
			for name, texts := range addresses {
				to := func(f proxy.Family) netip.AddrPort {
					return netip.AddrPortFrom(netip.MustParseAddr(texts[index(f)]), uint16(s.Spec.Ports[0].NodePort))
				}
				want := refused
				if strings.Contains(row.served, name) {
					want = masqueraded("pod-2")
				}
				for _, origin := range origins {
					probes = append(probes, c.bothFamilies(fmt.Sprintf("%s from %s", name, origin), c.from(origin), to, want)...)
				}
			}
			loopback := func(f proxy.Family) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr([]string{"127.0.0.1", "::1"}[index(f)]), uint16(s.Spec.Ports[0].NodePort))
			}
			for _, b := range c.bothFamilies("loopback", c.from(thisNode), loopback, refused) {
				b.from.any = true
				if localhostServed(row.value) && b.to.Addr().Is4() {
					b.want = masqueraded("pod-2")
				}
				probes = append(probes, b)
			}
			c.probe(t, probes...)
			if row.warns != "" && !localhostServed(row.value) {
				p.warned(row.warns)
			}
		})
	}
}

func index(f proxy.Family) int {
	if f == proxy.IPv6 {
		return 1
	}
	return 0
}

// TestExternalIPsOff takes spec.externalIPs out of service.
func TestExternalIPsOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.strays()
	c.serve("pod-2")
	s := newService(1, "web")
	c.set(c.with(s, on("pod-2"))...)
	c.start("--feature-gates=AllowServiceExternalIPs=false")
	var probes []probe
	for _, origin := range insiders {
		probes = append(probes, c.bothFamilies("external IP from "+origin, c.from(origin), c.of(s, proxy.ExternalIP), passed())...)
		probes = append(probes, c.bothFamilies("load-balancer IP from "+origin, c.from(origin), c.of(s, proxy.LoadBalancerIP), masqueraded("pod-2"))...)
	}
	c.probe(t, probes...)
}
