package proxytest

import (
	"net/netip"
	"slices"

	"turnout/proxy"
)

// Host is a machine or a pod that sends packets to the node under test, or receives them through it.
type Host struct {
	Name string
	// Addrs are all its addresses. The first of a family is the one by which others know it.
	Addrs []netip.Addr
	// Node is the name of the node that the host is, or is a pod of; "" outside of the cluster.
	Node string
	// Pod tells a pod from a node.
	Pod bool
	// Interface is where packets of the host enter the node under test; "" for the node itself.
	Interface string
}

// Addr returns the first address of a family, or the invalid one.
func (h *Host) Addr(f proxy.Family) netip.Addr {
	i := slices.IndexFunc(h.Addrs, func(a netip.Addr) bool { return proxy.FamilyOf(a) == f })
	if i < 0 {
		return netip.Addr{}
	}
	return h.Addrs[i]
}

// Cluster is the addressing of a small cluster, as seen by its node under test.
type Cluster struct {
	// Node is the name of the node under test, and NodeAddrs are all its addresses but loopback ones.
	Node      string
	NodeAddrs []netip.Addr
	// Hosts are the node under test first, then its pods, another node, its pods, and the outside client.
	Hosts []Host
	// PodCIDRs are the pods of the node under test, ClusterCIDRs all pods.
	PodCIDRs, ClusterCIDRs []netip.Prefix
	ServiceCIDRs           []netip.Prefix
	// LoadBalancerCIDRs are addresses that belong to nobody and that everybody sends to the node under test.
	LoadBalancerCIDRs []netip.Prefix
	// Gateways are the addresses of the node on the links to its pods, which pods see as the source of masqueraded
	// connections.
	Gateways []netip.Addr
}

// Addressing is the one Cluster that the package lab builds: nodes n1 (under test) and n2, three pods on n1, two on n2, and
// a client outside with three addresses.
func Addressing() *Cluster {
	return &Cluster{
		Node:      "n1",
		NodeAddrs: addrs("10.244.1.1", "192.168.50.1", "192.168.51.1", "fd00:10:244:1::1", "fd50::1", "fd51::1"),
		Hosts: []Host{
			{Name: "n1", Node: "n1", Addrs: addrs("192.168.50.1", "192.168.51.1", "fd50::1", "fd51::1")},
			{Name: "pod-1", Node: "n1", Pod: true, Interface: "veth-pod-1", Addrs: addrs("10.244.1.2", "fd00:10:244:1::2")},
			{Name: "pod-2", Node: "n1", Pod: true, Interface: "veth-pod-2", Addrs: addrs("10.244.1.3", "fd00:10:244:1::3")},
			{Name: "pod-3", Node: "n1", Pod: true, Interface: "veth-pod-3", Addrs: addrs("10.244.1.4", "fd00:10:244:1::4")},
			{Name: "n2", Node: "n2", Interface: "eth1", Addrs: addrs("192.168.51.2", "fd51::2")},
			{Name: "pod-4", Node: "n2", Pod: true, Interface: "eth1", Addrs: addrs("10.244.2.2", "fd00:10:244:2::2")},
			{Name: "pod-5", Node: "n2", Pod: true, Interface: "eth1", Addrs: addrs("10.244.2.3", "fd00:10:244:2::3")},
			{Name: "client", Interface: "eth0", Addrs: addrs("192.168.50.100", "192.168.50.101", "192.168.50.102",
				"fd50::100", "fd50::101", "fd50::102")},
		},
		PodCIDRs:          prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		ClusterCIDRs:      prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		ServiceCIDRs:      prefixes("10.96.0.0/16", "fd00:10:96::/112"),
		LoadBalancerCIDRs: prefixes("192.168.60.0/24", "fd60::/112"),
		Gateways:          addrs("10.244.1.1", "fd00:10:244:1::1"),
	}
}

// Host returns the host of a name, nil if there is none.
func (c *Cluster) Host(name string) *Host {
	i := slices.IndexFunc(c.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Hosts[i]
}

// Pods returns the pods of a node, or of all nodes if node is "".
func (c *Cluster) Pods(node string) []Host {
	var pods []Host
	for _, h := range c.Hosts {
		if h.Pod && (node == "" || h.Node == node) {
			pods = append(pods, h)
		}
	}
	return pods
}

// Of returns those of some prefixes that belong to a family.
func Of(f proxy.Family, prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return proxy.FamilyOf(p.Addr()) != f })
}

// AddrsOf returns those of some addresses that belong to a family.
func AddrsOf(f proxy.Family, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return proxy.FamilyOf(a) != f })
}

func addrs(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParseAddr(t)
	}
	return out
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}
