package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

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
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	web := newService(1, "web")
	var loads []*load
	for _, f := range proxy.Families {
		to := c.address(web, proxy.LoadBalancerIP, f, proxy.TCP)
		loadIptables(t, c.Node(), f, strings.NewReplacer("$VIP", to.Addr().String(), "$PORT", fmt.Sprint(to.Port()),
			"$CLUSTERIP", c.address(web, proxy.ClusterIP, f, proxy.TCP).Addr().String(),
			"$TARGET", netip.AddrPortFrom(c.Host("pod-4").Addr(f), endpointPort).String()).Replace(iptablesRules))
		loads = append(loads, startLoad(t, c.Client(), proxy.TCP, to, lab.LoadOptions{Parallel: 2}))
	}
	time.Sleep(100 * time.Millisecond)
	c.start()
	left := func() string { return n.run("list", "ruleset") }
	for end := time.Now().Add(longTimeout); strings.Contains(left(), "KUBE-SVC-") || strings.Contains(left(), "KUBE-PROXY-CANARY"); {
		if time.Now().After(end) {
			t.Fatalf("rules of kube-proxy are left:\n%s", left())
		}
		time.Sleep(20 * time.Millisecond)
	}
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
	time.Sleep(100 * time.Millisecond)
	for i, f := range proxy.Families {
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

// loadIptables has iptables-restore take rules; it skips the test if there is none.
func loadIptables(t *testing.T, host *lab.Host, f proxy.Family, rules string) {
	t.Helper()
	name := "iptables-nft-restore"
	if f == proxy.IPv6 {
		name = "ip6tables-nft-restore"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs the command %s: %v", name, err)
	}
	var out strings.Builder
	cmd := exec.Command(path, "--noflush")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(rules), &out, &out
	if err = host.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out.String())
	}
}
