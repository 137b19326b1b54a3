package iptables

import (
	"fmt"

	"turnout/proxy"
)

// sharedChain is a chain that has rules of many Services.
type sharedChain uint8

const (
	natServices sharedChain = iota
	natNodePorts
	filterFirewall
	filterExternal
	filterServices
	filterClusterIPs
	filterNodePorts
	sharedChains
)

var sharedNames = [sharedChains]struct{ table, name string }{
	natServices: {nat, servicesChain}, natNodePorts: {nat, nodePortsChain},
	filterFirewall: {filter, firewallChain}, filterExternal: {filter, externalServicesChain}, filterServices: {filter, servicesChain},
	filterClusterIPs: {filter, clusterIPsChain}, filterNodePorts: {filter, nodePortsChain},
}

// translated ends a chain for connections that table nat led to an endpoint, or another program elsewhere: they have passed.
const translated = "-m conntrack --ctstate DNAT -j RETURN"

// headOf are the rules of a shared chain before those of Services.
func (r *renderer) headOf(c sharedChain) []string {
	switch c {
	case filterFirewall, filterExternal:
		return []string{translated}
	case filterServices:
		// The hook output has no way to KUBE-EXTERNAL-SERVICES of its own. What is dropped must come before what is rejected, whatever the order of
		// the jumps from the kernel's chains.
		return []string{translated, "-j " + firewallChain, "-j " + externalServicesChain}
	case filterNodePorts:
		if r.localhost {
			// With route_localnet, which NodePorts on loopback addresses need, packets from outside could reach the node's own servers.
			return []string{"! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"}
		}
	case natServices, natNodePorts, filterClusterIPs:
	}
	return nil
}

// tailOf are the rules of a shared chain behind those of Services.
func (r *renderer) tailOf(c sharedChain) (out []string) {
	switch c {
	case natServices:
		for _, to := range r.nodeAddrs() {
			out = append(out, to+"-j "+nodePortsChain)
		}
		if r.localhost {
			out = append(out, "-d "+r.loopback()+" -m addrtype --dst-type LOCAL -j "+nodePortsChain)
		}
	case filterServices:
		for _, p := range r.node.ServiceCIDRs {
			out = append(out, fmt.Sprintf("-d %s -j %s", p, clusterIPsChain))
		}
		for _, p := range r.node.ServiceCIDRs {
			out = append(out, fmt.Sprintf("-d %s -m addrtype ! --dst-type LOCAL -j DROP", p))
		}
	case natNodePorts, filterFirewall, filterExternal, filterClusterIPs, filterNodePorts:
	}
	return out
}

// fixed are the chains of a table that no Service changes.
func (r *renderer) fixed(table string) []chain {
	canary := chain{canaryChain, []string{`-m comment --comment "turnout: if this is gone, all is" -j RETURN`}}
	mark := fmt.Sprintf("%#x", r.node.MasqueradeMark)
	switch table {
	case nat:
		return []chain{
			{postroutingChain, []string{
				"-m mark ! --mark " + mark + "/" + mark + " -j RETURN",
				"-j MARK --set-xmark " + mark + "/0x0", // packets that are encapsulated must not be masqueraded once more
				"-j MASQUERADE --random-fully",
			}},
			{markChain, []string{"-j MARK --set-xmark " + mark + "/" + mark}},
			canary,
		}
	case filter:
		forward := []string{"-m mark --mark " + mark + "/" + mark + " -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"}
		if !r.keepInvalid {
			// Connections break if such a packet is sent on untranslated, and the other side answers with a reset.
			invalid := "-m conntrack --ctstate INVALID "
			if r.count {
				invalid += countWith(invalidDropped)
			}
			forward = append([]string{invalid + "-j DROP"}, forward...)
		}
		return []chain{
			{forwardChain, forward},
			{rejectChain, []string{"-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT"}},
			canary,
		}
	}
	return []chain{canary}
}

// sameText tells that two Nodes make the same rules.
func sameText(a, b *proxy.Node) bool {
	if a == b {
		return true
	}
	x, y := *a, *b
	if x.NodePorts.Any && y.NodePorts.Any {
		x.NodePorts.Addrs, y.NodePorts.Addrs = nil, nil // no rule names them
	}
	return x.Equal(&y)
}
