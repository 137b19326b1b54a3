package node

import (
	"fmt"
	"net/netip"
	"slices"

	"turnout/proxy"
)

// NodePortConfig is the setting nodePortAddresses, and what it means to the mode that is used. The zero value serves
// NodePorts on all addresses.
type NodePortConfig struct {
	Prefixes []netip.Prefix
	// Primary, Localhost and All are the keywords.
	Primary, Localhost, All bool
	// DefaultPrimary makes an empty setting mean the keyword primary rather than all: so in nftables mode.
	DefaultPrimary bool
	// LocalhostServed tells that the mode serves NodePorts on loopback addresses of IPv4 by means of its own (iptables with
	// localhostNodePorts), so that there is nothing to warn of.
	LocalhostServed bool
}

func (c *NodePortConfig) empty() bool {
	return len(c.Prefixes) == 0 && !c.Primary && !c.Localhost && !c.All
}

var loopbacks = map[proxy.Family]netip.Prefix{
	proxy.IPv4: netip.MustParsePrefix("127.0.0.0/8"),
	proxy.IPv6: netip.MustParsePrefix("::1/128"),
}

// SelectNodePorts decides where NodePorts of a family are served, given the node's main addresses and all local ones. The
// warnings are for the log; they name the setting, what follows, and the remedy.
//
//   - A setting that says nothing about a family means all addresses of that family. This is how kube-proxy reads the list,
//     and surprising: "primary" on a node with an IPv4 address only serves NodePorts on every IPv6 address. If no address at
//     all is known of the node, "primary" selects nothing until one is.
//   - The node's main address is selected by primary even while it is not (yet) among the local ones.
//   - Loopback addresses are never selected: the kernel drops packets between a loopback address and another machine, also
//     after translation (unless route_localnet is set, which opens the node's private services to its neighbours).
func SelectNodePorts(family proxy.Family, c NodePortConfig, main IPs, local []netip.Addr) (proxy.NodePorts, []string) {
	if c.empty() {
		if !c.DefaultPrimary {
			return proxy.NodePorts{Any: true}, []string{fmt.Sprintf("nodePortAddresses is not set, so NodePorts are served on all %s addresses of the node; "+
				"set it to [primary] to serve them on its main addresses only", family)}
		}
		c.Primary = true
	}
	wanted := c.prefixes(family, main)
	switch {
	case c.All || slices.ContainsFunc(wanted, func(p netip.Prefix) bool { return p.Bits() == 0 }):
		return proxy.NodePorts{Any: true}, nil
	case len(wanted) > 0:
		return selected(family, c, wanted, main, local)
	case len(c.Prefixes) == 0 && !main.V4.IsValid() && !main.V6.IsValid():
		return proxy.NodePorts{}, []string{fmt.Sprintf("no address of the node is known, so NodePorts are not served over %s; "+
			"the Node object needs an InternalIP, or bindAddress (--bind-address) must be set", family)}
	}
	var warnings []string
	if slices.ContainsFunc(local, func(a netip.Addr) bool { return proxy.FamilyOf(a) == family && reachable(a) }) {
		warnings = append(warnings, fmt.Sprintf("nodePortAddresses selects no %s address, which means all: NodePorts are served on every %s address of the node; "+
			"add an %s prefix to nodePortAddresses, such as %s for none", family, family, family, loopbacks[family]))
	}
	return proxy.NodePorts{Any: true}, warnings
}

// prefixes returns what the setting says about a family.
func (c *NodePortConfig) prefixes(family proxy.Family, main IPs) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range c.Prefixes {
		if proxy.FamilyOf(p.Addr()) == family {
			out = append(out, p)
		}
	}
	if a := main.Of(family); c.Primary && a.IsValid() {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	if c.Localhost {
		out = append(out, loopbacks[family])
	}
	return out
}

func selected(family proxy.Family, c NodePortConfig, wanted []netip.Prefix, main IPs, local []netip.Addr) (proxy.NodePorts, []string) {
	var warnings []string
	for _, p := range wanted {
		loopback := loopbacks[family]
		if p.Bits() >= loopback.Bits() && loopback.Contains(p.Addr()) && !(c.LocalhostServed && family == proxy.IPv4) {
			warnings = append(warnings, fmt.Sprintf("nodePortAddresses asks for NodePorts on %s: they are never served on %s loopback addresses in this mode", p, family))
			break
		}
	}
	candidates := local
	if a := main.Of(family); c.Primary && a.IsValid() {
		candidates = append(slices.Clone(local), a)
		if !a.IsLoopback() && !slices.Contains(local, a) {
			warnings = append(warnings, fmt.Sprintf("the node's %s address %s is on none of its interfaces: NodePorts are served for packets to it all the same; "+
				"set nodePortAddresses to the prefixes that clients use", family, a))
		}
	}
	var addrs []netip.Addr
	for _, a := range candidates {
		if !a.IsLoopback() && slices.ContainsFunc(wanted, func(p netip.Prefix) bool { return p.Contains(a) }) {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return proxy.NodePorts{Addrs: slices.Compact(addrs)}, warnings
}

// reachable tells addresses that others may send to from those that only this machine or its links know.
func reachable(a netip.Addr) bool { return !a.IsLoopback() && !a.IsLinkLocalUnicast() }

// NodePortAddrs returns the addresses on which NodePorts are served: those selected, or all local ones of the family but
// loopback. Sorted.
func NodePortAddrs(family proxy.Family, n proxy.NodePorts, local []netip.Addr) []netip.Addr {
	if !n.Any {
		return n.Addrs
	}
	var out []netip.Addr
	for _, a := range local {
		if proxy.FamilyOf(a) == family && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
