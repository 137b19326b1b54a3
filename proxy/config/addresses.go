package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	netutils "k8s.io/utils/net"

	"turnout/proxy"
)

// The words that may stand among nodePortAddresses.
const (
	wordPrimary   = "primary"
	wordLocalhost = "localhost"
	wordAll       = "all"
)

// parseAddr reads an IP address as leniently as kube-proxy does (leading zeros); IPv4-mapped addresses become IPv4.
func parseAddr(s string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(s))
	return a.Unmap(), ok
}

// parsePrefix reads a CIDR as leniently as kube-proxy does (leading zeros, host bits), and masks it.
func parsePrefix(s string) (netip.Prefix, bool) {
	_, ipNet, err := netutils.ParseCIDRSloppy(strings.TrimSpace(s))
	if err != nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(ipNet.IP)
	ones, _ := ipNet.Mask.Size()
	return netip.PrefixFrom(a, ones), ok
}

// bindAddress parses the address that overrides the node's own.
func (v *validator) bindAddress() netip.Addr {
	a, ok := parseAddr(v.conf.BindAddress)
	if !ok {
		v.add("bindAddress", "%q is not an IP address; give one such as 0.0.0.0 or ::", v.conf.BindAddress)
	}
	return a
}

// serverAddress parses the IP:port of one of the servers.
func (v *validator) serverAddress(field, value string) netip.AddrPort {
	const remedy = "give IP:port such as 0.0.0.0:10256 or [::]:10256"
	i := strings.LastIndexByte(value, ':')
	if i < 0 {
		v.add(field, "%q is not an IP address with a port; %s", value, remedy)
		return netip.AddrPort{}
	}
	host := value[:i]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		host = ""
	}
	a, ok := parseAddr(host)
	if !ok {
		v.add(field, "%q has no IP address before the port; %s", value, remedy)
		return netip.AddrPort{}
	}
	port, err := strconv.ParseUint(value[i+1:], 10, 16)
	if err != nil || port == 0 {
		v.add(field, "%q has no port from 1 to 65535; %s", value, remedy)
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// clusterCIDRs parses the pods' CIDRs: none, one, or one of each family. They matter in mode ClusterCIDR only.
func (v *validator) clusterCIDRs() []netip.Prefix {
	if v.conf.ClusterCIDR == "" || LocalMode(v.conf.DetectLocalMode) != DetectClusterCIDR {
		return nil
	}
	var prefixes []netip.Prefix
	parts := strings.SplitSeq(v.conf.ClusterCIDR, ",")
	for part := range parts {
		p, ok := parsePrefix(part)
		if !ok {
			v.add("clusterCIDR", "%q is not a CIDR; give one such as 10.244.0.0/16", part)
			return nil
		}
		prefixes = append(prefixes, p)
	}
	sameFamily := len(prefixes) == 2 && proxy.FamilyOf(prefixes[0].Addr()) == proxy.FamilyOf(prefixes[1].Addr())
	if len(prefixes) > 2 || sameFamily {
		v.add("clusterCIDR", "%q: give one CIDR, or one of each family such as 10.244.0.0/16,fd00:244::/56", v.conf.ClusterCIDR)
		return nil
	}
	return prefixes
}

// excludeCIDRs parses the list of CIDRs of mode ipvs.
func (v *validator) excludeCIDRs() (out []netip.Prefix) {
	for i, s := range v.conf.IPVS.ExcludeCIDRs {
		p, ok := parsePrefix(s)
		if !ok {
			v.add("ipvs.excludeCIDRs", "entry %d, %q, is not a CIDR; give one such as 10.0.0.0/8", i, s)
			continue
		}
		out = append(out, p)
	}
	return out
}

// nodePortAddresses parses the list of keywords and CIDRs.
func (v *validator) nodePortAddresses() NodePortAddresses {
	list := v.conf.NodePortAddresses
	n := NodePortAddresses{Set: len(list) > 0}
	n.Primary = !n.Set && defaultNodePorts(v.mode) == wordPrimary
	n.All = !n.Set && !n.Primary
	words := map[string]*bool{wordPrimary: &n.Primary, wordLocalhost: &n.Localhost, wordAll: &n.All}
	for i, s := range list {
		if word, ok := words[s]; ok {
			if *word {
				v.add("nodePortAddresses", "entry %d, %q, is there twice; remove one", i, s)
			}
			*word = true
			continue
		}
		p, ok := parsePrefix(s)
		if !ok {
			v.add("nodePortAddresses", "entry %d, %q, is not a CIDR%s; %s", i, s,
				didYouMean(s, []string{wordPrimary, wordLocalhost, wordAll}), nodePortRemedy(s))
			continue
		}
		n.Prefixes = append(n.Prefixes, p)
	}
	return n
}

// nodePortRemedy shows how an address becomes a CIDR.
func nodePortRemedy(s string) string {
	if a, ok := parseAddr(s); ok {
		return fmt.Sprintf("write %s/%d", a, a.BitLen())
	}
	return "give a CIDR such as 192.168.0.0/24, or primary, localhost or all"
}

// addressWarnings are about addresses that are valid but likely to be a mistake.
func (c *Config) addressWarnings() (ws Warnings) {
	if c.DetectLocal.Mode == DetectClusterCIDR && c.External.ClusterCIDR == "" {
		ws.add("clusterCIDR", "clusterCIDR is empty, so local pods cannot be recognised: "+
			"traffic to ClusterIPs from outside the cluster is not masqueraded; set it, or another detectLocalMode")
	}
	n := c.NodePortAddresses
	loopback := func(p netip.Prefix) bool { return p.Addr().IsLoopback() }
	served := c.Mode == IPTables && *c.External.IPTables.LocalhostNodePorts
	if (n.Localhost || slices.ContainsFunc(n.Prefixes, loopback)) && !served {
		ws.add("nodePortAddresses", "nodePortAddresses has loopback addresses: NodePorts are not served on them in mode %s", c.Mode)
	}
	if n.Set && !n.Primary && !n.All && !n.Localhost && len(c.ClusterCIDRs) == 2 {
		for _, f := range proxy.Families {
			if !slices.ContainsFunc(n.Prefixes, func(p netip.Prefix) bool { return proxy.FamilyOf(p.Addr()) == f }) {
				ws.add("nodePortAddresses", "nodePortAddresses has no %v addresses: NodePorts are served on all of the node's %v addresses", f, f)
			}
		}
	}
	return ws
}
