package preflight

import (
	"slices"
	"strings"

	"turnout/proxy/config"
	"turnout/proxy/iptables"
)

// network is about the CNI plugin, as far as rules, interfaces and its configuration tell which it is.
func (j *judge) network() {
	before := len(j.findings)
	j.calico()
	j.flannel()
	j.kilo()
	j.kubeRouter()
	j.cilium()
	j.antrea()
	if j.facts.hasInterface("ovn-k8s-mp0") || j.facts.hasPlugin("ovn-k8s-cni-overlay") {
		j.add(Warning, Network, OVN, "leave Services to OVN-Kubernetes, and run no proxy", "OVN-Kubernetes is there: it serves Services itself, and needs no kube-proxy")
	}
	if len(j.findings) == before && len(j.facts.CNI) > 0 {
		j.add(OK, Network, OtherCNI, "", "nothing is known to be in the way of the CNI plugins %s", strings.Join(j.facts.CNI, ", "))
	}
}

// calico: Felix has a dataplane for iptables and one for nftables, and has to have the one of the proxy's mode.
func (j *judge) calico() {
	if j.facts.hasInterface("bpfin.cali") {
		j.add(Warning, Network, Calico, "have Calico use its nftables or iptables dataplane (linuxDataplane), or run no proxy",
			"Calico's dataplane eBPF serves Services itself")
		return
	}
	table, where := j.facts.hasTable("calico"), j.facts.chainsOf("cali-")
	switch {
	case table && j.mode != config.NFTables:
		j.add(Warning, Network, Calico, "if nftablesMode of FelixConfiguration is Enabled, set it to Auto or Disabled; with Auto it follows",
			"Calico's Felix uses nftables (table calico), which it supports beside mode nftables only")
	case table:
		j.add(OK, Network, Calico, "", "Calico's Felix uses nftables (table calico)")
	case where != "" && j.mode == config.NFTables:
		j.add(Warning, Network, Calico, "set nftablesMode of FelixConfiguration to Auto or Enabled (Calico 3.29 or later; by the operator: linuxDataplane: Nftables)",
			"Calico's Felix uses iptables (chains cali-… of %s)", where)
	case where != "":
		j.add(OK, Network, Calico, "", "Calico's Felix uses iptables (chains cali-… of %s)", where)
	case j.facts.hasPlugin("calico") || j.facts.hasInterface("cali", "vxlan.calico"):
		j.add(OK, Network, Calico, "", "Calico is there, but has no rules: which dataplane it uses cannot be told")
	}
}

func (j *judge) flannel() {
	switch where := j.facts.chainsOf("FLANNEL-"); {
	case j.facts.hasTable("flannel-ipv4") || j.facts.hasTable("flannel-ipv6"):
		j.add(OK, Network, Flannel, "", "flannel uses nftables")
	case where != "":
		j.add(OK, Network, Flannel, "", "flannel uses iptables (chains FLANNEL-… of %s), which works beside every mode; EnableNFTables in net-conf.json has it use nftables", where)
	case j.facts.hasPlugin("flannel") || j.facts.hasInterface("flannel"):
		j.add(OK, Network, Flannel, "", "flannel is there, and works beside every mode")
	}
}

func (j *judge) kilo() {
	if where := j.facts.chainsOf("KILO-"); where != "" || j.facts.hasInterface("kilo") {
		level, more := OK, ""
		if j.facts.unreadable() {
			level, more = Warning, ", but there are tables that they cannot read"
		}
		j.add(level, Network, Kilo, remedyIf(level, "have the programs that wrote the rules in the way keep them in tables of their own"),
			"Kilo runs the programs of iptables in its image, 1.8.8 or later of which work beside every mode%s", more)
	}
}

func (j *judge) kubeRouter() {
	switch {
	case j.facts.hasInterface("kube-dummy-if"):
		j.add(Warning, Network, KubeRouter, "run kube-router with --run-service-proxy=false", "kube-router serves Services itself (interface kube-dummy-if)")
	case j.facts.chainsOf("KUBE-ROUTER-") != "" || j.facts.hasInterface("kube-bridge"):
		level, more := OK, ""
		if j.facts.unreadable() {
			level, more = Warning, ", which cannot read all tables: it ends then"
		}
		j.add(level, Network, KubeRouter, remedyIf(level, "have the programs that wrote the rules in the way keep them in tables of their own"),
			"kube-router runs the programs of iptables%s; its chains are left alone", more)
	}
}

func (j *judge) cilium() {
	if !j.facts.hasInterface("cilium_") && !j.facts.hasPlugin("cilium-cni") && j.facts.chainsOf("CILIUM_") == "" {
		return
	}
	const remedy = "if cilium-dbg status says KubeProxyReplacement: True, run no proxy, or set kubeProxyReplacement to false"
	switch {
	case j.facts.CiliumSockets:
		j.add(Warning, Network, Cilium, remedy, "Cilium translates ClusterIPs at sockets, as with kubeProxyReplacement: two proxies compete")
	case len(j.now) == 0 && j.facts.Running == "":
		j.add(Warning, Network, Cilium, remedy, "Cilium is there, and no kube-proxy: it may replace it")
	default:
		j.add(OK, Network, Cilium, "", "Cilium is there beside a proxy, and does not translate ClusterIPs at sockets")
	}
}

func (j *judge) antrea() {
	if !j.facts.hasInterface("antrea-gw0") && !j.facts.hasPlugin("antrea") && j.facts.chainsOf("ANTREA-") == "" {
		return
	}
	for _, tables := range j.facts.Tables {
		for _, t := range tables {
			if slices.Contains(t.Translating, "ANTREA-PREROUTING") || slices.Contains(t.Translating, "ANTREA-OUTPUT") {
				j.add(Warning, Network, Antrea, "set antreaProxy.proxyAll to false, or run no proxy", "Antrea serves NodePorts and external addresses itself (proxyAll): two proxies compete")
				return
			}
		}
	}
	j.add(OK, Network, Antrea, "", "Antrea is there; its AntreaProxy serves ClusterIPs to pods, and leaves the rest to a proxy unless proxyAll is set")
}

func remedyIf(l Level, remedy string) string {
	if l == OK {
		return ""
	}
	return remedy
}

// hasInterface tells that an interface's name begins so.
func (f *Facts) hasInterface(prefixes ...string) bool {
	return slices.ContainsFunc(f.Interfaces, func(name string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
}

func (f *Facts) hasPlugin(name string) bool { return slices.Contains(f.CNI, name) }

// hasTable tells that there is a table of this name, of any family.
func (f *Facts) hasTable(name string) bool {
	for _, tables := range f.Tables {
		for _, t := range tables {
			if t.Name == name {
				return true
			}
		}
	}
	return false
}

// unreadable tells that there are tables that the programs of iptables cannot read.
func (f *Facts) unreadable() bool {
	for _, rules := range f.Strange {
		if len(rules) > 0 {
			return true
		}
	}
	return false
}

// chainsOf names a variant of iptables that has chains of a prefix, such as "iptables-nft"; "" if none has.
func (f *Facts) chainsOf(prefix string) string {
	for _, v := range [...]iptables.Variant{iptables.NFT, iptables.Legacy} {
		for _, family := range f.Families {
			for _, chains := range f.chains(family, v) {
				if slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, prefix) }) {
					return "iptables-" + string(v)
				}
			}
		}
	}
	return ""
}
