package leftovers

import (
	"slices"
	"strings"

	"turnout/proxy/iptables"
)

// Scope says what to look for: what the modes that are not in use left.
type Scope struct {
	// Iptables are the chains and packet counters of mode iptables. Mode ipvs has some of them, too.
	Iptables bool
	// IPVS are the chains and ipsets that only mode ipvs has, virtual servers, and the interface with their addresses; in tables where there is nothing of
	// mode iptables, also the chains that both have.
	IPVS bool
	// IPVSRules are, without the rest of IPVS, the chains and ipsets: what a proxy removes that takes over the virtual servers.
	IPVSRules bool
}

// ofKubeProxy is the scope of all chains that kube-proxy makes, in whatever mode.
var ofKubeProxy = Scope{Iptables: true, IPVSRules: true}

func (s Scope) ipvsRules() bool { return s.IPVS || s.IPVSRules }

// Chains that kube-proxy's mode ipvs has besides those of mode iptables, by table.
var ipvsChains = map[string][]string{
	"nat":    {"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"},
	"filter": {"KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"},
}

// Chains of earlier releases of kube-proxy, by table; behind the prefix is a hash.
var (
	olderChains = map[string][]string{
		"nat":    {"KUBE-PORTALS-HOST", "KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-HOST", "KUBE-NODEPORT-CONTAINER"},
		"filter": {"KUBE-NODEPORT-NON-LOCAL"},
	}
	olderPrefix = "KUBE-XLB-"
)

// owns tells that a chain of a table is in scope. Never are, though their names are alike: kubelet's KUBE-FIREWALL, KUBE-MARK-DROP,
// KUBE-KUBELET-CANARY and KUBE-IPTABLES-HINT (KEP-3178), and kube-router's KUBE-ROUTER-*, KUBE-POD-FW-* and KUBE-NWPLCY-*.
func (s Scope) owns(table, chain string) bool {
	if s.ipvsRules() && slices.Contains(ipvsChains[table], chain) {
		return true
	}
	return s.Iptables && (iptables.Owns(table, chain) || slices.Contains(olderChains[table], chain) || table == "nat" && strings.HasPrefix(chain, olderPrefix))
}

// beside returns the scope in a table that has these chains: what kube-proxy's mode ipvs shares with mode iptables is left to the latter if that is there, too.
func (s Scope) beside(chains []string) Scope {
	s.Iptables = s.Iptables || s.IPVS && !slices.ContainsFunc(chains, ofIptablesAlone)
	return s
}

// ofIptablesAlone tells that a chain is one that mode iptables always has in some table, and mode ipvs never.
func ofIptablesAlone(chain string) bool {
	return chain == "KUBE-NODEPORTS" || chain == "KUBE-EXTERNAL-SERVICES" || chain == "KUBE-PROXY-CANARY"
}

// Tables of iptables that kube-proxy writes to.
var iptablesTables = []string{"nat", "filter", "mangle"}
