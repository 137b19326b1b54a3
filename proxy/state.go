package proxy

import (
	"net/netip"
	"slices"

	"turnout/proxy/hamt"
)

// Services maps names to Services; it shares structure between versions.
type Services = hamt.Map[ServicePortName, *Service]

// HealthChecks maps Services to what their health-check node ports answer.
type HealthChecks = hamt.Map[ServiceName, HealthCheck]

// State says what must happen to every packet sent to each address of one family. It is immutable once published.
type State struct {
	Family   Family
	Node     *Node
	Services Services
	// HealthChecks has an entry for each Service that asks for a health-check node port.
	HealthChecks HealthChecks
}

// HealthCheck is what the server on a Service's health-check node port tells external load balancers.
type HealthCheck struct {
	Port uint16
	// LocalEndpoints is the number of distinct addresses of ready endpoints on this node.
	LocalEndpoints int
}

// Node is what holds for the whole node rather than for one Service. An unchanged Node keeps its pointer.
type Node struct {
	NodePorts    NodePorts
	LocalPods    LocalPods
	ServiceCIDRs []netip.Prefix // sorted; no prefix contains another
	// MasqueradeMark is the bit of the packet mark that asks for masquerading, such as 0x4000.
	MasqueradeMark uint32
}

// NodePorts says on which of the node's addresses NodePorts are served.
type NodePorts struct {
	// Any means every local address that is not a loopback one, also those that are added later.
	Any bool
	// Addrs are sorted, without loopback addresses. With Any they are what every address is at present: flows that were
	// sent to a NodePort are recognised by them.
	Addrs []netip.Addr
}

// LocalPods says how a packet that comes from a pod is recognised. At most one field is set; with none, no packet is FromPod
// and connections to ClusterIPs are not masqueraded unless masquerade-all asks for it.
type LocalPods struct {
	Prefixes        []netip.Prefix // the source address lies in one of these; sorted, no prefix contains another
	Interface       string         // the packet came in on this interface (a bridge)
	InterfacePrefix string         // the packet came in on an interface whose name starts so
}

// None tells that there is no way to recognise pods.
func (l *LocalPods) None() bool {
	return len(l.Prefixes) == 0 && l.Interface == "" && l.InterfacePrefix == ""
}

// Equal compares the contents of two Nodes; nil equals only nil.
func (n *Node) Equal(o *Node) bool {
	if n == nil || o == nil {
		return n == o
	}
	return n.NodePorts.Any == o.NodePorts.Any && slices.Equal(n.NodePorts.Addrs, o.NodePorts.Addrs) &&
		slices.Equal(n.LocalPods.Prefixes, o.LocalPods.Prefixes) && n.LocalPods.Interface == o.LocalPods.Interface &&
		n.LocalPods.InterfacePrefix == o.LocalPods.InterfacePrefix &&
		slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs) && n.MasqueradeMark == o.MasqueradeMark
}
