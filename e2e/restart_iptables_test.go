package e2e

import (
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// iptablesRules are what kube-proxy in mode iptables makes for one load-balancer address with one endpoint, as an upgrade of the
// configuration leaves them, beside rules of kubelet and of a CNI plugin. They also reject what now has endpoints.
const iptablesRules = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d $VIP -p tcp -m tcp --dport $PORT -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-MARK-MASQ
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination $TARGET
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
*filter
:KUBE-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-SERVICES -d $CLUSTERIP -p tcp -m tcp --dport $PORT -j REJECT
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
`

// TestTakeOverFromIptables starts the proxy on a node that kube-proxy left in mode iptables. Until it has programmed its rules, the old ones
// serve; then they go, what others made beside them stays, and nobody's connection fails.
func TestTakeOverFromIptables(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	needs(t, "iptables-nft-restore", "ip6tables-nft-restore")
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	web := newService(1, "web")
	var loads []*load
	for _, f := range proxy.Families {
		to := c.address(web, proxy.LoadBalancerIP, f, proxy.TCP)
		c.restore("nft", f, c.rulesOfKubeProxy(f, "pod-4"))
		loads = append(loads, startLoad(t, c.Client(), proxy.TCP, to, lab.LoadOptions{Parallel: 2}))
	}
	for _, l := range loads {
		l.goesOn(10)
	}
	c.start()
	left := func() string { return n.run("list", "ruleset") }
	eventually(t, "rules of kube-proxy gone", func() bool {
		return !strings.Contains(left(), "KUBE-SVC-") && !strings.Contains(left(), "KUBE-PROXY-CANARY")
	})
	for _, name := range []string{"KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-FORWARD", "KUBE-MARK-MASQ"} {
		if strings.Contains(left(), name) {
			t.Errorf("%s is left", name)
		}
	}
	for name, count := range map[string]int{"chain KUBE-KUBELET-CANARY": 2, "jump CNI-HOSTPORT-DNAT": 2, "jump KUBE-FIREWALL": 2, "chain KUBE-IPTABLES-HINT": 2} {
		if got := strings.Count(left(), name); got != count {
			t.Errorf("%q stands %d times in the rules, want %d:\n%s", name, got, count, left())
		}
	}
	for i, f := range proxy.Families {
		loads[i].goesOn(40) // of which chance leads all to the same one of two servers once in 2^39 times
		r := loads[i].judge()
		for _, server := range []string{"pod-4", "pod-1", "pod-2"} {
			if r.Servers[server] == 0 {
				t.Errorf("%s: no connection to %s: %s; want some by each proxy", f, server, r)
			}
		}
		to := c.address(web, proxy.LoadBalancerIP, f, proxy.TCP)
		for range 20 {
			if got := c.Client().Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); got.Result != lab.Connected || got.Server == "pod-4" {
				t.Errorf("%s: %s, which the old rules did", to, got)
			}
		}
		cluster := c.address(web, proxy.ClusterIP, f, proxy.TCP)
		if got := c.Node().Dial(proxy.TCP, cluster, lab.DialOptions{Timeout: longTimeout}); got.Result != lab.Connected {
			t.Errorf("%s: %s, which the old rules rejected", cluster, got)
		}
	}
}
