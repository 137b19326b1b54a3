package sync

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/node"
)

// FactsConfig is what is configured of the facts that States depend on.
type FactsConfig struct {
	BindAddress   netip.Addr // invalid if not configured
	NodePorts     node.NodePortConfig
	Pods          node.PodDetection // PodCIDRs and Primary are filled in from the Node
	MasqueradeAll bool
	MasqueradeBit uint8
	ExternalIPs   bool
	// Local lists the machine's addresses of a family as they are now.
	Local func(proxy.Family) []netip.Addr
}

// facts makes desired.Facts of the configuration and of what was delivered, and lists what a user should know.
func (c *FactsConfig) facts(name string, families []proxy.Family, n *v1.Node, cidrs []netip.Prefix) (*desired.Facts, []string) {
	f := &desired.Facts{NodeName: name, MasqueradeAll: c.MasqueradeAll, ExternalIPs: c.ExternalIPs, Families: families, Node: map[proxy.Family]proxy.Node{}}
	if n != nil {
		f.Zone = n.Labels[v1.LabelTopologyZone]
	}
	pods, addresses := c.pods(families, n)
	ips, warnings := node.DetectIPs(c.BindAddress, addresses)
	pods.Primary = ips.Primary
	for _, family := range families {
		if a := ips.Of(family); a.IsValid() {
			f.NodeIPs = append(f.NodeIPs, a)
		}
		local := c.Local(family)
		ports, more := node.SelectNodePorts(family, c.NodePorts, ips, local)
		// Also where every address serves NodePorts, what it is now must be known: to recognise flows that were sent to one.
		ports.Addrs = node.NodePortAddrs(family, ports, local)
		warnings = append(warnings, more...)
		detect, more, err := node.LocalPods(family, pods)
		if err != nil {
			more = append(more, err.Error())
		}
		warnings = append(warnings, more...)
		f.Node[family] = proxy.Node{NodePorts: ports, LocalPods: detect, ServiceCIDRs: ofFamily(family, cidrs), MasqueradeMark: 1 << c.MasqueradeBit}
	}
	return f, warnings
}

// Check tells whether pods can be recognised with this configuration on a Node, which may be nil. A setting that can never work should end
// the start; what changes later is only warned of.
func (c *FactsConfig) Check(families []proxy.Family, n *v1.Node) error {
	pods, addresses := c.pods(families, n)
	ips, _ := node.DetectIPs(c.BindAddress, addresses)
	pods.Primary = ips.Primary
	var errs []error
	for _, family := range families {
		_, _, err := node.LocalPods(family, pods)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// pods returns how pods are recognised on a Node, and the Node's addresses.
func (c *FactsConfig) pods(families []proxy.Family, n *v1.Node) (node.PodDetection, []node.Address) {
	pods := c.Pods
	pods.SingleStack = len(families) == 1
	if n == nil {
		return pods, nil
	}
	pods.PodCIDRs = podCIDRs(n)
	var addresses []node.Address
	for _, a := range n.Status.Addresses {
		addresses = append(addresses, node.Address{Type: string(a.Type), Addr: a.Address})
	}
	return pods, addresses
}

// inherit returns a Node with the addresses and pod CIDRs of the one before, which may be nil, as far as it has none of its own: a Node
// that was deleted and made again gets them from controllers only later, but the machine never lost them.
func inherit(n, before *v1.Node) *v1.Node {
	if before == nil {
		return n
	}
	out := *n
	if !slices.ContainsFunc(n.Status.Addresses, func(a v1.NodeAddress) bool {
		return a.Type == v1.NodeInternalIP || a.Type == v1.NodeExternalIP
	}) {
		out.Status.Addresses = before.Status.Addresses
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) == 0 {
		out.Spec.PodCIDR, out.Spec.PodCIDRs = before.Spec.PodCIDR, before.Spec.PodCIDRs
	}
	return &out
}

// podCIDRs lists the prefixes of a Node's pods; what cannot be read is left out.
func podCIDRs(n *v1.Node) (out []netip.Prefix) {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	for _, t := range texts {
		if p, err := netip.ParsePrefix(strings.TrimSpace(t)); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// ofFamily returns the prefixes of a family, sorted, without those that lie within another.
func ofFamily(f proxy.Family, all []netip.Prefix) (out []netip.Prefix) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	for _, p := range sorted {
		inside := func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) }
		if proxy.FamilyOf(p.Addr()) == f && !slices.ContainsFunc(out, inside) {
			out = append(out, p)
		}
	}
	return out
}

// takeFacts returns new facts if something that they depend on changed, else those of before and nil for the warnings.
func (l *Loop) takeFacts(before *desired.Facts) (*desired.Facts, []string) {
	l.inputs.mu.Lock()
	if !l.inputs.dirty && before != nil {
		l.inputs.mu.Unlock()
		return before, nil
	}
	l.inputs.dirty = false
	n, config := l.inputs.node, l.inputs.facts
	var cidrs []netip.Prefix
	warnings := []string{} // not nil: the last one may have gone
	for _, c := range l.inputs.cidrs {
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				warnings = append(warnings, "ServiceCIDR "+c.Name+": spec.cidrs has "+text+", which is no prefix; it is ignored")
				continue
			}
			cidrs = append(cidrs, p.Masked())
		}
	}
	l.inputs.mu.Unlock()
	facts, more := config.facts(l.options.NodeName, l.inUse(), n, cidrs)
	slices.Sort(warnings)
	return facts, append(warnings, more...)
}
