package preflight

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/nftables/survey"
)

// clean is a node on which nothing runs yet and every mode works.
func clean() *Facts {
	f := &Facts{Kernel: "6.12.0", Families: proxy.Families[:], Scheduler: "rr", Modules: NewModules(List{}, List{}, List{}), Trials: map[config.Mode][]Trial{},
		Tables: map[proxy.Family][]*survey.Table{}, Legacy: map[proxy.Family][]leftovers.LegacyTable{}, Strange: map[proxy.Family][]compat.Rule{}, Counted: map[string]uint64{}}
	f.Modules.Monolithic = true
	for _, family := range proxy.Families {
		f.Programs = append(f.Programs, Iptables{Family: family, Choice: iptables.Choice{Variant: iptables.NFT, Program: "iptables-nft-restore", Version: "1.8.9", Reason: "no hint"}})
		for _, m := range Modes {
			f.Trials[m] = append(f.Trials[m], Trial{Family: family})
		}
	}
	return f
}

// chains adds a table of iptables-nft with its chains.
func chains(f *Facts, table string, names ...string) *survey.Table {
	t := &survey.Table{Family: "ip", Name: table, Chains: names}
	f.Tables[proxy.IPv4] = append(f.Tables[proxy.IPv4], t)
	return t
}

func legacyChains(f *Facts, table string, names ...string) {
	f.Legacy[proxy.IPv4] = append(f.Legacy[proxy.IPv4], leftovers.LegacyTable{Name: table, Chains: names})
}

// kubeProxy are chains of its mode iptables.
func kubeProxy(f *Facts) {
	chains(f, "nat", "KUBE-SERVICES", "KUBE-NODEPORTS", "PREROUTING")
	chains(f, "filter", "INPUT", "KUBE-FIREWALL")
}

// turnoutTable is the table of mode nftables.
func turnoutTable(f *Facts) { chains(f, "kube-proxy", "do-dispatch", "services") }

func file(text string) func(*Facts) {
	return func(f *Facts) {
		f.File = &FileFacts{"config.conf", []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.0.0.0/8\n" + text)}
	}
}

func both(fs ...func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		for _, fn := range fs {
			fn(f)
		}
	}
}

// Each row is a node, a mode, and all that must be found but for the findings of a clean node.
func TestJudge(t *testing.T) {
	missing := &iptables.Error{Program: "iptables-nft", Kind: iptables.Missing, Err: errors.New("not found")}
	missing6 := &iptables.Error{Program: "ip6tables-nft", Kind: iptables.Missing, Err: errors.New("not found")}
	strange := func(f *Facts) {
		f.Strange[proxy.IPv4] = []compat.Rule{{Table: "filter", Chain: "INPUT", Handle: 7, Strange: []string{"ct"}}}
	}
	for _, test := range []struct {
		name string
		set  func(*Facts)
		to   config.Mode
		want []string // level and ID
		says []string
	}{
		{"a clean node", func(*Facts) {}, "nftables", nil, nil},
		{"a clean node", func(*Facts) {}, "iptables", nil, []string{"IPv4: iptables-nft-restore 1.8.9: no hint"}},
		{"a clean node", func(*Facts) {}, "ipvs", []string{"ok ipvs-limits"}, []string{"one-pool"}},

		{"the kernel refuses", func(f *Facts) {
			f.Trials["nftables"] = []Trial{{Family: proxy.IPv4, Err: errors.New("this node cannot run mode nftables for IPv4: no fib")}, {Family: proxy.IPv6, Err: errors.New("this node cannot run mode nftables for IPv6: no fib")}}
		}, "nftables", []string{"blocked kernel-refused"}, []string{"Linux 6.12.0 cannot do mode nftables for IPv4 and IPv6: no fib; remedy: use another mode"}},
		{"no namespaces", func(f *Facts) {
			f.Trials["nftables"] = []Trial{{Unseen: errors.New("no permission")}, {Family: proxy.IPv6, Unseen: errors.New("no permission")}}
		},
			"nftables", []string{"warning kernel-untried"}, []string{"cannot be seen: whether the kernel takes what mode nftables needs for IPv4 and IPv6: no permission"}},
		{"modules that are not loaded", func(f *Facts) {
			f.Modules = NewModules(List{}, List{}, List{Text: []byte(dep(needOf("ipvs", proxy.IPv4, "", "rr").must))})
			f.Families, f.Trials["ipvs"] = proxy.Families[:1], []Trial{{Idle: []string{"ip_vs", "dummy"}}}
		}, "ipvs", []string{"ok ipvs-limits", "ok modules-idle"}, []string{"so nothing was tried for IPv4: dummy, ip_vs"}},
		{"modules that are not loaded, and must be before on this kernel", func(f *Facts) {
			f.Modules, f.Kernel = NewModules(List{}, List{}, List{Text: []byte(dep(needOf("ipvs", proxy.IPv4, "", "rr").must))}), "5.10.0"
			f.Families, f.Trials["ipvs"] = proxy.Families[:1], []Trial{{Idle: []string{"ip_vs"}}}
		}, "ipvs", []string{"ok ipvs-limits", "ok modules-idle", "warning modules-idle"}, []string{"modprobe ip_vs"}},
		{"a module that is missing", func(f *Facts) {
			f.Modules = NewModules(List{}, List{}, List{Text: []byte("x/nf_tables.ko:\n")})
			f.Families, f.Trials["nftables"] = proxy.Families[:1], []Trial{{Idle: []string{"nf_tables"}}}
		}, "nftables", []string{"blocked modules-missing", "ok modules-idle"}, []string{"has no module nft_chain_nat, nft_ct"}},
		{"modules that are missing, and more of them for IPv6", func(f *Facts) {
			without := func(n string) bool { return n == "nft_chain_nat" }
			f.Modules = NewModules(List{}, List{}, List{Text: []byte(dep(slices.DeleteFunc(needOf("nftables", proxy.IPv4, "", "").must, without)))})
			f.Trials["nftables"] = []Trial{{Idle: []string{"nf_tables"}}, {Family: proxy.IPv6, Idle: []string{"nf_tables"}}}
		}, "nftables", []string{"blocked modules-missing", "blocked modules-missing", "ok modules-idle"}, []string{"no module nft_chain_nat, which", "no module nft_chain_nat, nft_reject_ipv6, nft_fib_ipv6, which"}},
		{"a module that is missing and only some Services need", func(f *Facts) {
			f.Modules = NewModules(List{}, List{}, List{Text: []byte(dep(needOf("iptables", proxy.IPv4, "nft", "").must) + dep([]string{"xt_recent"}))})
			f.Families, f.Trials["iptables"] = proxy.Families[:1], []Trial{{Variant: "nft", Idle: []string{"nf_tables"}}}
		}, "iptables", []string{"ok modules-idle", "warning modules-missing"}, []string{"has no module xt_sctp: Services with SCTP are left out in mode iptables; remedy: install"}},
		{"a kernel that cannot do what some Services need", func(f *Facts) {
			for i := range f.Trials["iptables"] {
				f.Trials["iptables"][i].Lacks = []string{"Services with SCTP are left out: refused"}
			}
		}, "iptables", []string{"warning kernel-refused"}, []string{"Linux 6.12.0 cannot do all of mode iptables for IPv4 and IPv6. Services with SCTP are left out: refused; remedy: install"}},
		{"modules that are not known", func(f *Facts) {
			f.Modules = NewModules(List{}, List{Err: errors.New("no such folder")}, List{Err: errors.New("no such folder")})
			f.Trials["nftables"] = []Trial{{Idle: []string{"nf_tables"}}, {Family: proxy.IPv6, Idle: []string{"nf_tables"}}}
		}, "nftables", []string{"warning kernel-untried"}, []string{"cannot be seen: whether the kernel has nf_tables: no such folder"}},
		{"read-only settings", func(f *Facts) { f.ReadOnlySysctl = true }, "ipvs", []string{"ok ipvs-limits", "warning sysctl-read-only"}, nil},
		{"read-only settings", func(f *Facts) { f.ReadOnlySysctl = true }, "nftables", nil, nil},

		{"no programs", func(f *Facts) { f.Programs[0].Err, f.Programs[1].Err = missing, missing6; f.Trials["iptables"] = nil }, "iptables", []string{"blocked programs-unfit"},
			[]string{"this node has no programs of iptables: iptables-nft and ip6tables-nft cannot be run (not found); remedy: install iptables"}},
		{"programs that were not run", func(f *Facts) { f.Programs[0].Unrun, f.Programs[1].Unrun = true, true }, "iptables", []string{"warning programs-unrun"},
			[]string{"cannot be seen: whether the programs of iptables for IPv4 and IPv6, which are there, work"}},
		{"no programs", func(f *Facts) { f.Programs[0].Err, f.Programs[1].Err = missing, missing6 }, "nftables", nil, []string{"mode nftables runs no program"}},
		{"programs that hang", func(f *Facts) {
			f.Programs[1].Err = &iptables.Error{Program: "/sbin/ip6tables", Kind: iptables.TimedOut, Err: errors.New("no answer within 5s")}
			f.Trials["iptables"] = f.Trials["iptables"][:1]
		}, "iptables", []string{"blocked programs-unfit"}, []string{"IPv6: /sbin/ip6tables did not end in time and was killed (no answer within 5s); remedy: see what keeps it waiting"}},
		{"programs that crash", func(f *Facts) {
			e := &iptables.Error{Program: "/sbin/iptables-restore", Version: "1.8.4", Kind: iptables.Crashed, Err: errors.New("signal 11, SIGSEGV")}
			f.Trials["iptables"] = []Trial{{Err: e}, {Family: proxy.IPv6}}
		}, "iptables", []string{"blocked programs-refused"}, []string{"for IPv4: /sbin/iptables-restore 1.8.4 crashed (signal 11, SIGSEGV); remedy: its version"}},

		{"kube-proxy's rules", kubeProxy, "iptables", []string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports"}, []string{"of kube-proxy in mode iptables, of iptables-nft, for IPv4: they are taken over"}},
		{"kube-proxy's rules", kubeProxy, "nftables", []string{"ok invalid-packets", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning nodeport-addresses"},
			[]string{"they serve until those of mode nftables are there", "if nodePortAddresses is not set, NodePorts are served on the node's primary addresses only"}},
		{"Turnout's own rules", turnoutTable, "nftables", []string{"ok rules-of-proxy"}, []string{"rules of Turnout in mode nftables for IPv4: they are taken over"}},
		{"Turnout's own rules", turnoutTable, "iptables", []string{"ok localhost-nodeports", "ok rules-of-proxy", "ok session-affinity", "warning nodeport-addresses"}, []string{"on all of the node's addresses"}},
		{"kubelet's chains are nobody's rules", func(f *Facts) { chains(f, "nat", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-FIREWALL") }, "nftables", nil, nil},
		{"kube-proxy's mode ipvs", func(f *Facts) {
			f.IPVS = IPVS{Device: true, Ours: 3, Others: 2}
			chains(f, "nat", "KUBE-SERVICES", "KUBE-LOAD-BALANCER")
		}, "nftables", []string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "ok ipvs-connections", "warning virtual-servers-of-others", "warning nodeport-addresses"},
			[]string{"rules of kube-proxy in mode ipvs for IPv4 and IPv6", "2 virtual servers", "kube-proxy's NodePorts", "connections that IPVS carries go on"}},
		{"somebody else's virtual servers", func(f *Facts) {
			f.IPVS = IPVS{Device: true, Ours: 3, Others: 2}
			chains(f, "kube-proxy-ipvs", "services")
		}, "nftables", []string{"ok ipvs-connections", "ok rules-of-proxy", "ok session-affinity", "ok virtual-servers-of-others", "warning nodeport-addresses"}, nil},
		{"from nftables to ipvs", turnoutTable, "ipvs", []string{"ok rules-of-proxy", "ok session-affinity", "warning ipvs-limits", "warning nodeport-addresses"}, nil},
		{"Turnout's mode ipvs", func(f *Facts) { chains(f, "kube-proxy-ipvs", "services") }, "ipvs", []string{"ok ipvs-limits", "ok rules-of-proxy"}, []string{"rules of Turnout in mode ipvs"}},
		{"a proxy that runs", func(f *Facts) { f.Running, f.RunningAt = "iptables", "127.0.0.1:10249" }, "nftables", []string{"ok proxy-runs"}, []string{"/proxyMode): it must end"}},
		{"Turnout that runs", both(turnoutTable, func(f *Facts) { f.Running, f.RunningAt = "nftables", "127.0.0.1:10249" }), "nftables", []string{"ok proxy-runs", "ok rules-of-proxy"},
			[]string{"if it is this Turnout, the label of the Node changes its mode"}},
		{"both variants", both(kubeProxy, func(f *Facts) { legacyChains(f, "nat", "KUBE-SERVICES") }), "iptables",
			[]string{"ok rules-of-proxy", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning both-variants"},
			[]string{"those of nft are used for IPv4 (no hint)", "of iptables-legacy, for IPv4: they serve until"}},
		{"one variant for each family", both(kubeProxy, func(f *Facts) {
			f.Legacy[proxy.IPv6] = []leftovers.LegacyTable{{Name: "nat", Chains: []string{"KUBE-SERVICES"}}}
		}), "iptables", []string{"ok rules-of-proxy", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports"}, nil},

		{"a rule that iptables cannot read", strange, "iptables", []string{"warning table-unreadable"},
			[]string{"iptables 1.8.9 cannot read table filter for IPv4", "rule handle 7 of chain INPUT", "nft -a list table ip filter"}},
		{"a rule that iptables cannot read", strange, "nftables", []string{"ok table-unreadable"}, []string{"does not matter to mode nftables"}},
		{"a rule that only the other variant cannot read", both(strange, func(f *Facts) { f.Programs[0].Choice.Variant, f.Programs[1].Choice.Variant = "legacy", "legacy" }), "iptables",
			[]string{"ok table-unreadable"}, nil},
		{"somebody translates first", func(f *Facts) {
			x := chains(f, "vpn", "pre")
			x.Hooks, x.Translating = []survey.Hook{{Chain: "pre", Priority: -110}}, []string{"pre"}
		}, "nftables", []string{"warning translator"}, []string{"table ip vpn (chain pre) changes the destination of packets before Services do (priority -110"}},
		{"somebody translates at the same priority, and in iptables-legacy", func(f *Facts) {
			x := chains(f, "nat", "DOCKER")
			x.Hooks, x.Translating = []survey.Hook{{Chain: "PREROUTING", Priority: -100}}, []string{"DOCKER"}
			f.Legacy[proxy.IPv4] = []leftovers.LegacyTable{{Name: "nat", Targets: map[string][]string{"CNI-DN": {"DNAT"}, "": {"MASQUERADE"}}}}
		}, "nftables", []string{"ok translator", "ok translator"}, []string{"chain DOCKER", "iptables-legacy for IPv4 (chain CNI-DN)"}},
		{"what a proxy translates in iptables-legacy is no other's", func(f *Facts) {
			f.Legacy[proxy.IPv4] = []leftovers.LegacyTable{{Name: "nat", Targets: map[string][]string{"KUBE-SEP-QZ4QKJTZJTQEV3VB": {"DNAT"}, "": {"MASQUERADE"}}}}
		}, "nftables", nil, nil},

		{"NodePorts on loopback addresses that are used", both(kubeProxy, func(f *Facts) { f.RouteLocalnet, f.Counted[localhostCounter] = true, 3 }), "nftables",
			append([]string{"warning localhost-nodeports"}, fromIptables...), []string{"3 packets"}},
		{"NodePorts on loopback addresses that nobody uses", both(kubeProxy, func(f *Facts) { f.RouteLocalnet, f.Counted[localhostCounter] = true, 0 }), "nftables",
			append([]string{"ok localhost-nodeports"}, fromIptables...), []string{"no packet used them"}},
		{"NodePorts on loopback addresses that nobody counts", both(kubeProxy, func(f *Facts) { f.RouteLocalnet = true }), "ipvs",
			[]string{"ok invalid-packets", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning ipvs-limits", "warning localhost-nodeports"}, []string{"was not counted"}},
		{"packets that were dropped as invalid", both(kubeProxy, func(f *Facts) { f.Counted[invalidCounter] = 9 }), "nftables",
			[]string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning invalid-packets", "warning nodeport-addresses"}, []string{"9 were"}},
		{"NodePorts on loopback addresses, as the file says nothing about IPv4",
			both(kubeProxy, file("mode: nftables\nnodePortAddresses: ['fd00::/8']\nconntrack: {tcpBeLiberal: true}\n"), func(f *Facts) { f.RouteLocalnet = true }), "nftables",
			[]string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning localhost-nodeports"}, nil},

		{"loopback addresses that nobody guards", func(f *Facts) {
			chains(f, "nat", "KUBE-SERVICES", "KUBE-NODEPORTS")
			f.RouteLocalnet, f.Counted[localhostCounter] = true, 0
		}, "ipvs",
			[]string{"ok invalid-packets", "ok localhost-nodeports", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning ipvs-limits", "warning localhost-nodeports"},
			[]string{"remedy: set net.ipv4.conf.all.route_localnet to 0"}},
		{"connection tracking that is liberal", both(kubeProxy, func(f *Facts) { f.TCPLiberal, f.Counted[invalidCounter] = true, 3 }), "nftables",
			[]string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning nodeport-addresses"}, nil},
		{"a file that says all", both(kubeProxy, file("mode: nftables\nnodePortAddresses: [primary]\nconntrack: {tcpBeLiberal: true}\n"), func(f *Facts) { f.RouteLocalnet = true }), "nftables",
			[]string{"ok rules-of-proxy", "ok session-affinity", "ok undefined-ports"}, nil},
		{"a file for another mode", file("mode: iptables\niptables: {masqueradeAll: true}\n"), "nftables",
			[]string{"ok file-note", "ok file-note", "warning file-warning"}, []string{"config.conf: iptables.masqueradeAll: true has no effect in mode nftables"}},
		{"a wrong file", file("mode: nftables\noomScoreAdj: 2000\n"), "nftables", []string{"blocked file-problem"}, []string{"config.conf: oomScoreAdj: "}},
		{"what cannot be seen", func(f *Facts) { f.Unseen = []Unseen{{"the tables", errors.New("no"), "be root"}} }, "nftables", []string{"warning not-seen"},
			[]string{"cannot be seen: the tables: no; remedy: be root"}},
	} {
		t.Run(test.name+" to "+string(test.to), func(t *testing.T) {
			f := clean()
			test.set(f)
			r := Judge(f, test.to)
			if diff := cmp.Diff(sorted(test.want), found(r)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			wantSays(t, r, test.says)
		})
	}
}

// fromIptables is what is found besides, if kube-proxy's mode iptables was left for nftables.
var fromIptables = []string{"ok invalid-packets", "ok rules-of-proxy", "ok session-affinity", "ok undefined-ports", "warning nodeport-addresses"}

func dep(names []string) string { return "x/" + strings.Join(names, ".ko:\nx/") + ".ko:\n" }

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// found lists the findings that a clean node does not have.
func found(r *Report) (out []string) {
	usual := []string{"ok kernel-tried", "ok programs-unused", "ok programs-found", "ok rules-of-nobody"}
	highest := OK
	for _, f := range r.Findings {
		highest = max(highest, f.Level)
		if text := f.Level.String() + " " + string(f.ID); !slices.Contains(usual, text) {
			out = append(out, text)
		}
	}
	if highest != r.Level {
		out = append(out, "the level is "+r.Level.String())
	}
	return sorted(out)
}

func wantSays(t *testing.T, r *Report, says []string) {
	t.Helper()
	var text strings.Builder
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, s := range says {
		if !strings.Contains(text.String(), s) {
			t.Errorf("%q is missing in:\n%s", s, text.String())
		}
	}
}

// The CNI plugins, by what is seen of them.
func TestNetwork(t *testing.T) {
	interfaces := func(names ...string) func(*Facts) { return func(f *Facts) { f.Interfaces = names } }
	with := func(table string, names ...string) func(*Facts) { return func(f *Facts) { chains(f, table, names...) } }
	unreadable := func(f *Facts) { f.Strange[proxy.IPv6] = []compat.Rule{{Table: "filter"}} }
	for _, test := range []struct {
		name string
		set  func(*Facts)
		to   config.Mode
		want string
		says string
	}{
		{"Felix with iptables", with("filter", "cali-FORWARD"), "nftables", "warning cni-calico", "set nftablesMode of FelixConfiguration to Auto or Enabled (Calico 3.29 or later"},
		{"Felix with iptables-legacy", func(f *Facts) { legacyChains(f, "raw", "cali-PREROUTING") }, "nftables", "warning cni-calico", "of iptables-legacy"},
		{"Felix with iptables", with("filter", "cali-FORWARD"), "iptables", "ok cni-calico", ""},
		{"Felix with nftables", with("calico", "filter-cali-FORWARD"), "nftables", "ok cni-calico", ""},
		{"Felix with nftables, and what is left of before", both(with("calico"), with("filter", "cali-FORWARD")), "nftables", "ok cni-calico", ""},
		{"Felix with nftables", with("calico"), "iptables", "warning cni-calico", "set it to Auto or Disabled"},
		{"Calico's eBPF", interfaces("bpfin.cali", "cali0123"), "nftables", "warning cni-calico", "serves Services itself"},
		{"Calico without rules", func(f *Facts) { f.CNI = []string{"calico"} }, "nftables", "ok cni-calico", "cannot be told"},
		{"flannel", with("nat", "FLANNEL-POSTRTG"), "nftables", "ok cni-flannel", "EnableNFTables"},
		{"flannel with nftables", with("flannel-ipv4"), "nftables", "ok cni-flannel", "uses nftables"},
		{"Kilo", interfaces("kilo0"), "nftables", "ok cni-kilo", ""},
		{"Kilo that cannot read", both(interfaces("kilo0"), unreadable), "nftables", "warning cni-kilo", "cannot read"},
		{"kube-router", with("filter", "KUBE-ROUTER-INPUT"), "nftables", "ok cni-kube-router", ""},
		{"kube-router that cannot read", both(with("filter", "KUBE-ROUTER-INPUT"), unreadable), "iptables", "warning cni-kube-router", "it ends then"},
		{"kube-router as a proxy", interfaces("kube-bridge", "kube-dummy-if"), "ipvs", "warning cni-kube-router", "--run-service-proxy=false"},
		{"Cilium alone", interfaces("cilium_host"), "nftables", "warning cni-cilium", "kubeProxyReplacement"},
		{"Cilium beside kube-proxy", both(interfaces("cilium_host"), kubeProxy), "iptables", "ok cni-cilium", ""},
		{"Cilium at sockets", both(interfaces("cilium_host"), kubeProxy, func(f *Facts) { f.CiliumSockets = true }), "iptables", "warning cni-cilium", "two proxies compete"},
		{"Antrea", interfaces("antrea-gw0"), "nftables", "ok cni-antrea", ""},
		{"Antrea with proxyAll", both(interfaces("antrea-gw0"), func(f *Facts) { chains(f, "nat").Translating = []string{"ANTREA-PREROUTING"} }), "nftables", "warning cni-antrea", "proxyAll"},
		{"OVN-Kubernetes", interfaces("ovn-k8s-mp0"), "nftables", "warning cni-ovn-kubernetes", ""},
		{"another", func(f *Facts) { f.CNI = []string{"ptp"} }, "nftables", "ok cni-other", "ptp"},
	} {
		t.Run(test.name+" to "+string(test.to), func(t *testing.T) {
			f := clean()
			test.set(f)
			r := Judge(f, test.to)
			var got []string
			for _, x := range r.Findings {
				if x.Topic == Network {
					got = append(got, x.Level.String()+" "+string(x.ID))
				}
			}
			if diff := cmp.Diff([]string{test.want}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			wantSays(t, r, []string{test.says})
		})
	}
}

// Auto takes the first mode that nothing blocks, and tells why not those before.
func TestAuto(t *testing.T) {
	refuse := func(f *Facts, m config.Mode) {
		f.Trials[m] = []Trial{{Err: errors.New("no " + string(m))}, {Family: proxy.IPv6}}
	}
	for _, test := range []struct {
		refused []config.Mode
		want    config.Mode
		level   Level
	}{
		{nil, "nftables", OK}, {[]config.Mode{"nftables"}, "iptables", OK}, {[]config.Mode{"nftables", "iptables"}, "ipvs", OK}, {Modes, "", Blocked},
	} {
		f := clean()
		for _, m := range test.refused {
			refuse(f, m)
		}
		r := Judge(f, config.Auto)
		if r.Mode != test.want || r.Asked != config.Auto || r.Level != test.level {
			t.Errorf("without %v: mode %q, level %s", test.refused, r.Mode, r.Level)
		}
		rejected := 0
		for i, x := range r.Findings {
			if x.ID == ModeRejected {
				rejected++
				if !strings.Contains(x.Message, "no "+string(test.refused[i])) {
					t.Errorf("without %v: %s", test.refused, x)
				}
			}
		}
		if rejected != len(test.refused) {
			t.Errorf("without %v: %d modes are rejected", test.refused, rejected)
		}
	}
}
