package preflight

import (
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables"
)

// Names in the kernel that tell Turnout's rules from kube-proxy's.
const (
	ownChainNFT      = "do-dispatch"
	ownChainIptables = "KUBE-PROXY-CLUSTER-IPS"
)

// Chains that kubelets before 1.28 made, too.
var sharedWithKubelet = []string{"KUBE-MARK-MASQ", "KUBE-POSTROUTING"}

// present finds the proxies that have rules in the kernel. Chains that kube-proxy's mode ipvs has are no proof of mode iptables.
func present(f *Facts) (out []Present) {
	out = []Present{}
	byGate := map[proxy.Family]bool{}
	for _, family := range f.Families {
		for _, t := range f.Tables[family] {
			switch {
			case t.Family == "inet":
			case t.Name == nftables.TableName:
				out = note(out, Present{Mode: config.NFTables, By: author(t.Chains, ownChainNFT)}, family)
			case t.Name == nftables.GateTable:
				byGate[family] = true
			}
		}
		for _, v := range [...]iptables.Variant{iptables.NFT, iptables.Legacy} {
			if chains := f.proxyChains(family, v); isIptables(chains, f.IPVS.Device) {
				out = note(out, Present{Mode: config.IPTables, By: author(chains, ownChainIptables), Variant: v}, family)
			}
		}
	}
	if f.IPVS.Device || f.IPVS.Ours > 0 || len(byGate) > 0 {
		by := "kube-proxy"
		if len(byGate) > 0 {
			by = "Turnout"
		}
		out = append(out, Present{Mode: config.IPVS, By: by, Families: familyList(f.Families)})
	}
	return out
}

// note adds a family to the proxy of the same mode, or the proxy.
func note(list []Present, p Present, f proxy.Family) []Present {
	for i := range list {
		if list[i].Mode == p.Mode && list[i].Variant == p.Variant && list[i].By == p.By {
			list[i].Families = append(list[i].Families, f.String())
			return list
		}
	}
	p.Families = []string{f.String()}
	return append(list, p)
}

func author(chains []string, own string) string {
	if slices.Contains(chains, own) {
		return "Turnout"
	}
	return "kube-proxy"
}

// chains lists those of the tables of a variant of iptables, by table.
func (f *Facts) chains(family proxy.Family, v iptables.Variant) map[string][]string {
	out := map[string][]string{}
	if v == iptables.Legacy {
		for _, t := range f.Legacy[family] {
			out[t.Name] = t.Chains
		}
		return out
	}
	for _, t := range f.Tables[family] {
		if t.Family != "inet" && slices.Contains(tablesOfIptables, t.Name) {
			out[t.Name] = t.Chains
		}
	}
	return out
}

// proxyChains lists the chains of proxies in the tables of a variant.
func (f *Facts) proxyChains(family proxy.Family, v iptables.Variant) (out []string) {
	for table, chains := range f.chains(family, v) {
		for _, c := range chains {
			if leftovers.Owns(table, c) {
				out = append(out, c)
			}
		}
	}
	return out
}

// isIptables tells that chains are those of mode iptables.
func isIptables(chains []string, device bool) bool {
	return slices.ContainsFunc(chains, func(c string) bool {
		switch {
		case slices.Contains(sharedWithKubelet, c):
			return false
		case c == "KUBE-EXTERNAL-SERVICES", c == "KUBE-NODEPORTS", strings.HasPrefix(c, "KUBE-SVC-"):
			return true
		}
		return c == "KUBE-SERVICES" && !device
	})
}
