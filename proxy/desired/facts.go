package desired

import (
	"net/netip"
	"slices"

	"turnout/proxy"
)

// Facts is what Build needs to know besides the API objects. It must not be modified once Build has seen it.
type Facts struct {
	// NodeName is the name of the own node, which hints of endpoints refer to.
	NodeName string
	// Zone is the own node's label topology.kubernetes.io/zone, "" if it has none.
	Zone string
	// NodeIPs are the own node's addresses, in any order. Where a source range contains one of them, the addresses that the
	// range protects are allowed as sources too: connections from the node to a load-balancer address that the node itself
	// owns have that same address as source.
	NodeIPs []netip.Addr
	// MasqueradeAll asks for masquerading all connections to ClusterIPs.
	MasqueradeAll bool
	// ExternalIPs tells that spec.externalIPs are served (feature gate AllowServiceExternalIPs).
	ExternalIPs bool
	// Families are those in use, in any order.
	Families []proxy.Family
	// Node has what holds for the whole node in each family; what is missing counts as a zero Node.
	Node map[proxy.Family]proxy.Node
}

func (f *Facts) has(fam proxy.Family) bool { return slices.Contains(f.Families, fam) }

// knowsPods tells whether connections from local pods can be recognised.
func (f *Facts) knowsPods(fam proxy.Family) bool {
	n := f.Node[fam]
	return !n.LocalPods.None()
}

// sameForServices tells that no Service depends on what differs between the two.
func (f *Facts) sameForServices(o *Facts) bool {
	for _, fam := range proxy.Families {
		if f.has(fam) != o.has(fam) || f.knowsPods(fam) != o.knowsPods(fam) {
			return false
		}
	}
	return f.NodeName == o.NodeName && f.Zone == o.Zone && f.MasqueradeAll == o.MasqueradeAll && f.ExternalIPs == o.ExternalIPs &&
		slices.Equal(f.NodeIPs, o.NodeIPs)
}
