package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// oldEndpoint is where all connections go as long as only what kube-proxy left leads them. The Service has other endpoints by now.
const oldEndpoint = "pod-4"

// TestTakeOverEach starts the proxy in each mode on a node that kube-proxy left in each of its modes, while clients connect 200 times a second and
// long connections live. None fails, none is translated twice, and nothing of the old mode is left.
func TestTakeOverEach(t *testing.T) {
	for _, from := range []string{"nftables", "iptables-nft", "iptables-legacy", "ipvs"} {
		for _, to := range []string{"nftables", "iptables-nft", "iptables-legacy", "ipvs"} {
			t.Run("from "+from+" to "+to, func(t *testing.T) {
				c := newCluster(t)
				if modes := c.switchable(); !slices.Contains(modes, to) {
					t.Skipf("the proxy does not have mode %s here, but %v", to, modes)
				}
				c.serve(c.allPods()...)
				c.set(c.stock("pod-1")...)
				c.leave(from)
				var loads []*load
				for _, f := range proxy.Families {
					loads = append(loads, startLoad(t, c.Client(), proxy.TCP, c.webVIP(f), lab.LoadOptions{Parallel: 1, Interval: 10 * time.Millisecond}))
				}
				for _, l := range loads {
					l.goesOn(5)
				}
				c.startMode(to)
				c.hasOnly(to)
				for _, l := range loads {
					l.goesOn(5)
				}
				for i, f := range proxy.Families {
					c.judgeTakeOver(loads[i], f)
				}
				c.translatedOnce(t)
				left := "" // connections through mode ipvs are let end
				for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
					if left = c.leftOf(from, to); left == "" || time.Now().After(end) {
						break
					}
				}
				if left != "" {
					t.Errorf("left of kube-proxy's mode %s: %s", from, left)
				}
			})
		}
	}
}

// webVIP is the load-balancer address of the Service web.
func (c *cluster) webVIP(f proxy.Family) netip.AddrPort {
	return c.address(newService(1, "web"), proxy.LoadBalancerIP, f, proxy.TCP)
}

// judgeTakeOver wants all connections to have come to an endpoint of the old rules or the new ones, as from the node.
func (c *cluster) judgeTakeOver(l *load, f proxy.Family) {
	c.t.Helper()
	r := l.judge()
	if r.Servers[oldEndpoint] == 0 || r.Servers["pod-1"]+r.Servers["pod-2"] == 0 {
		c.t.Errorf("%s: %s; want connections by each proxy", f, r)
	}
	for seen := range r.Seen {
		if !slices.Contains([]netip.Addr{c.gateway("pod-1", f), c.gateway(oldEndpoint, f)}, seen) {
			c.t.Errorf("%s: servers saw %s: %v; want addresses of the node", f, seen, r.Seen)
		}
	}
}

// leave has the node as kube-proxy left it in a mode, for the load-balancer address of the Service web and one endpoint.
func (c *cluster) leave(mode string) {
	c.t.Helper()
	for _, f := range proxy.Families {
		target := netip.AddrPortFrom(c.Host(oldEndpoint).Addr(f), endpointPort)
		name, variant, _ := strings.Cut(mode, "-")
		switch name {
		case "nftables":
			other := &foreignProxy{"rules for kube-proxy", f, c.webVIP(f), target}
			newNft(c.t, c.Node()).load(other.start())
		case "iptables":
			c.loadKubeProxy(variant, f, oldEndpoint)
		case "ipvs":
			c.leaveIPVS(f, target)
		}
	}
}

// ipvsServers and ipvsRules are what kube-proxy makes in mode ipvs for one load-balancer address, $S being in the names of sets for IPv6.
const ipvsServers = `
ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type dummy
ip address add $VIP/$BITS dev kube-ipvs0 $NODAD
ipvsadm -A -t $AT -s rr
ipvsadm -a -t $AT -r $TARGET -m
ipvsadm --set 900 1 300
sysctl -qw net.ipv4.vs.conntrack=1
`

const ipvsRules = `
ipset create KUBE-$SLOOP-BACK hash:ip,port,ip family $FAMILY
ipset create KUBE-$SLOAD-BALANCER hash:ip,port family $FAMILY
ipset create KUBE-$SCLUSTER-IP hash:ip,port family $FAMILY
ipset create KUBE-$SIPVS-IPS hash:ip family $FAMILY
ipset add KUBE-$SLOAD-BALANCER $VIP,tcp:$PORT
ipset add KUBE-$SIPVS-IPS $VIP
$RESTORE --noflush <<END
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -m set --match-set KUBE-$SLOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES -m set --match-set KUBE-$SCLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m set --match-set KUBE-$SLOAD-BALANCER dst,dst -j ACCEPT
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m set --match-set KUBE-$SLOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
*filter
:KUBE-IPVS-FILTER - [0:0]
-A INPUT -j KUBE-IPVS-FILTER
-A KUBE-IPVS-FILTER -m set --match-set KUBE-$SLOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-$SIPVS-IPS dst -j REJECT
COMMIT
END
`

// leaveIPVS skips the test if there is no IPVS.
func (c *cluster) leaveIPVS(f proxy.Family, target netip.AddrPort) {
	c.t.Helper()
	if err := lacksIPVS(); err != nil {
		c.t.Skipf("needs a kernel with IPVS: %v", err)
	}
	needs(c.t, "ip", "ipvsadm", "ipset")
	c.shIPVS(ipvsServers+ipvsRules, f, target)
}

// shIPVS has a shell make some of it.
func (c *cluster) shIPVS(text string, f proxy.Family, target netip.AddrPort) {
	c.t.Helper()
	to := c.webVIP(f)
	text = strings.NewReplacer("$VIP", to.Addr().String(), "$BITS", fmt.Sprint(to.Addr().BitLen()), "$AT", to.String(), "$TARGET", target.String(),
		"$PORT", fmt.Sprint(to.Port()), "$RESTORE", map[proxy.Family]string{proxy.IPv4: "iptables-nft-restore", proxy.IPv6: "ip6tables-nft-restore"}[f],
		"$FAMILY", map[proxy.Family]string{proxy.IPv4: "inet", proxy.IPv6: "inet6"}[f], "$NODAD", map[proxy.Family]string{proxy.IPv6: "nodad"}[f],
		"$S", map[proxy.Family]string{proxy.IPv6: "6-"}[f]).Replace(text)
	if out := c.try("sh", "-ec", text); out != "" {
		c.t.Fatalf("make what kube-proxy makes in mode ipvs: %s", out)
	}
}

// leftOf says what is left of what leave made, "" if nothing is.
func (c *cluster) leftOf(from, to string) string {
	c.t.Helper()
	everything := c.try("nft", "list", "ruleset")
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		everything += c.try(program)
	}
	if from == "ipvs" {
		everything += c.try("ipset", "list", "-n")
		if to != "ipvs" {
			everything += c.try("ip", "link") + c.try("ipvsadm", "-Ln")
		}
	}
	for _, trace := range []string{"AAAAAAAAAAAAAAAA", "firewall-ips", "KUBE-IPVS", "KUBE-LOAD-BALANCER", "KUBE-6-", "KUBE-CLUSTER-IP", "kube-ipvs0", c.webVIP(proxy.IPv4).String() + " rr"} {
		if strings.Contains(everything, trace) {
			return trace
		}
	}
	return ""
}

// translatedOnce looks at what connection tracking remembers of connections to the address: a reply comes from an endpoint, and goes to the node.
// A connection that was translated again would be there a second time.
func (c *cluster) translatedOnce(t *testing.T) {
	t.Helper()
	for _, f := range proxy.Families {
		family := netlink.InetFamily(netlink.FAMILY_V4)
		if f == proxy.IPv6 {
			family = netlink.FAMILY_V6
		}
		var flows []*netlink.ConntrackFlow
		err := c.Node().Do(func() (err error) {
			flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		addr := func(ip net.IP) netip.Addr {
			a, _ := netip.AddrFromSlice(ip)
			return a.Unmap()
		}
		n := 0
		for _, flow := range flows {
			from, to, server, back := addr(flow.Forward.SrcIP), addr(flow.Forward.DstIP), addr(flow.Reverse.SrcIP), addr(flow.Reverse.DstIP)
			if from != c.Client().Addr(f) || flow.Forward.DstPort != c.webVIP(f).Port() && flow.Forward.DstPort != endpointPort {
				continue
			}
			n++
			ok := to == c.webVIP(f).Addr() && slices.ContainsFunc(c.Pods(""), func(h proxytest.Host) bool {
				return h.Addr(f) == server && back == c.gateway(h.Name, f) && flow.Reverse.SrcPort == endpointPort
			})
			if !ok {
				t.Errorf("a connection was not translated just once: %s", flow)
			}
		}
		if n < 20 {
			t.Errorf("%s: %d connections are remembered, want more", f, n)
		}
	}
}

// stopped is a cluster with the shop's Services as the proxy leaves it that ran in mode nftables.
func stopped(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t)
	c.switchable()
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	c.startMode("nftables").stop()
	return c
}

// vipFromNode connects often from outside to the load-balancer address of the Service web: some server answers, or just one, and sees the node.
func (c *cluster) vipFromNode(server string) {
	c.t.Helper()
	for _, f := range proxy.Families {
		for range 30 {
			got := c.Client().Dial(proxy.TCP, c.webVIP(f), lab.DialOptions{Timeout: longTimeout})
			if got.Result != lab.Connected || server != "" && got.Server != server || got.SeenSource != c.gateway(got.Server, f) {
				c.t.Errorf("%s: %s; want it from the node, answered by %q", f, got, server)
			}
		}
	}
}

// TestManyAtOnce has the rules of several proxies in the kernel at the same time, as while one takes over from another: each connection is translated
// by one of them, once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	c := stopped(t)
	for _, f := range proxy.Families {
		for _, variant := range []string{"legacy", "nft"} {
			c.loadKubeProxy(variant, f, oldEndpoint)
		}
	}
	if now := c.modesInKernel(); len(now) != 3 {
		t.Fatalf("rules of modes %v, want three", now)
	}
	c.vipFromNode("")
	c.translatedOnce(t)
}
