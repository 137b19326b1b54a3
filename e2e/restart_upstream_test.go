package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// A foreignProxy imitates a proxy that keeps a table of the same name in a layout of its own, such as kube-proxy's: base chains of the
// same names but of other types and priorities, and a chain for each Service.
type foreignProxy struct {
	comment string
	family  proxy.Family
	to      netip.AddrPort // on the node; new connections go to one endpoint
	target  netip.AddrPort
}

// The base chains that kube-proxy has, in the order of type, hook and priority.
var foreignChains = []struct{ name, spec, jump string }{
	{"filter-prerouting-pre-dnat", "type filter hook prerouting priority dstnat - 10", "ct state new jump firewall-check"},
	{"filter-output-pre-dnat", "type filter hook output priority -110", "ct state new jump firewall-check"},
	{"filter-input", "type filter hook input priority filter", "ct state new jump no-endpoints"},
	{"filter-forward", "type filter hook forward priority filter", "ct state new jump no-endpoints"},
	{"filter-output", "type filter hook output priority filter", "ct state new jump no-endpoints"},
	{"nat-prerouting", "type nat hook prerouting priority dstnat", "jump services"},
	{"nat-output", "type nat hook output priority -100", "jump services"},
	{"nat-postrouting", "type nat hook postrouting priority srcnat", "jump masquerading"},
}

// start is what such a proxy sends first: base chains are deleted and made again, as their priorities may have changed.
func (f *foreignProxy) start() string {
	family, ip := "ip", "ip"
	if f.family == proxy.IPv6 {
		family, ip = "ip6", "ip6"
	}
	table := family + " kube-proxy"
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`add table %s { comment "%s"; }`, table, f.comment)
	for _, c := range foreignChains {
		line("add chain %s %s", table, c.name)
		line("delete chain %s %s", table, c.name)
	}
	for _, c := range foreignChains {
		line("add chain %s %s { %s; }", table, c.name, c.spec)
	}
	for _, m := range []string{"service-ips", "no-endpoint-services", "firewall-ips"} {
		line("add map %s %s { type ipv%d_addr . inet_proto . inet_service : verdict; }", table, m, map[proxy.Family]int{proxy.IPv4: 4, proxy.IPv6: 6}[f.family])
	}
	line("add set %s cluster-ips { type ipv%d_addr; }", table, map[proxy.Family]int{proxy.IPv4: 4, proxy.IPv6: 6}[f.family])
	for _, c := range []string{"services", "masquerading", "firewall-check", "no-endpoints", "service-web", "external-web"} {
		line("add chain %s %s", table, c)
		line("flush chain %s %s", table, c)
	}
	for _, c := range foreignChains {
		line("add rule %s %s %s", table, c.name, c.jump)
	}
	line("add rule %s services %s daddr . meta l4proto . th dport vmap @service-ips", table, ip)
	line("add rule %s firewall-check %s daddr . meta l4proto . th dport vmap @firewall-ips", table, ip)
	line("add rule %s no-endpoints %s daddr . meta l4proto . th dport vmap @no-endpoint-services", table, ip)
	line("add rule %s external-web meta mark set mark or 0x4000 goto service-web", table)
	line("add rule %s service-web meta l4proto tcp dnat to %s", table, f.target)
	line("add rule %s masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random", table)
	line("add element %s service-ips { %s . tcp . %d : goto external-web }", table, f.to.Addr(), f.to.Port())
	return b.String()
}

// TestTakeOver starts the proxy on a node where another proxy, or an older version of this one, has programmed its rules; and then such
// another one again. Both times one step leads from the one's rules to the other's.
func TestTakeOver(t *testing.T) {
	for _, comment := range []string{"rules for kube-proxy", "turnout layout 0"} {
		t.Run(comment, func(t *testing.T) {
			c := newCluster(t)
			n := newNft(t, c.Node())
			c.serve(c.allPods()...)
			c.set(c.stock("pod-1")...)
			var loads []*load
			var texts []string
			for _, f := range proxy.Families {
				to := c.address(newService(1, "web"), proxy.LoadBalancerIP, f, proxy.TCP)
				other := &foreignProxy{comment, f, to, netip.AddrPortFrom(c.Host("pod-4").Addr(f), endpointPort)}
				texts = append(texts, other.start())
				n.load(texts[len(texts)-1])
				loads = append(loads, startLoad(t, c.Client(), proxy.TCP, to, lab.LoadOptions{Parallel: 2}))
			}
			for _, l := range loads {
				l.goesOn(10)
			}
			p := c.start()
			for _, family := range []string{"ip", "ip6"} {
				if l := n.listing(family); strings.Contains(l, "service-ips") || strings.Contains(l, "filter-forward") {
					t.Errorf("the table has parts of the other proxy:\n%s", l)
				}
			}
			for _, l := range loads {
				l.goesOn(40) // of which chance leads all to the same one of two servers once in 2^39 times
			}
			p.stop()
			for i, f := range proxy.Families {
				n.load(texts[i])
				loads[i].goesOn(10)
				r := loads[i].judge()
				for _, server := range []string{"pod-4", "pod-1", "pod-2"} {
					if r.Servers[server] == 0 {
						t.Errorf("%s: no connection to %s: %s; want some by each proxy", f, server, r)
					}
				}
			}
			for _, family := range []string{"ip", "ip6"} {
				if l := n.listing(family); strings.Count(l, " hook ") != len(foreignChains) || strings.Contains(l, "hook input priority 100") {
					t.Errorf("chains of this proxy are still hooked:\n%s", l)
				}
			}
			c.cleanUp()
		})
	}
}
