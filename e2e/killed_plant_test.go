package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"turnout/proxy"
)

// rulesOfKubeProxy are the rules that kube-proxy in mode iptables makes for the load-balancer address of the Service web, with one endpoint, and those of others.
func (c *cluster) rulesOfKubeProxy(f proxy.Family, endpoint string) string {
	web := newService(1, "web")
	to := c.address(web, proxy.LoadBalancerIP, f, proxy.TCP)
	return strings.NewReplacer("$VIP", to.Addr().String(), "$PORT", fmt.Sprint(to.Port()),
		"$CLUSTERIP", c.address(web, proxy.ClusterIP, f, proxy.TCP).Addr().String(),
		"$TARGET", netip.AddrPortFrom(c.Host(endpoint).Addr(f), endpointPort).String()).Replace(iptablesRules)
}

// loadKubeProxy leaves these rules without those of others.
func (c *cluster) loadKubeProxy(variant string, f proxy.Family, endpoint string) {
	c.t.Helper()
	var rules string
	for line := range strings.Lines(c.rulesOfKubeProxy(f, endpoint)) {
		if !ofOthers.MatchString(line) {
			rules += line
		}
	}
	c.restore(variant, f, rules)
}

// ofOthers are the lines of iptablesRules that are not kube-proxy's.
var ofOthers = regexp.MustCompile(`KUBE-KUBELET-CANARY|CNI-HOSTPORT-DNAT|KUBE-FIREWALL|KUBE-IPTABLES-HINT`)

// restore has iptables-restore take rules on the node.
func (c *cluster) restore(variant string, f proxy.Family, rules string) {
	c.t.Helper()
	name := "iptables-"
	if f == proxy.IPv6 {
		name = "ip6tables-"
	}
	var out strings.Builder
	cmd := exec.Command(name+variant+"-restore", "--noflush", "--wait") // the lock is the whole machine's
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(rules), &out, &out
	err := c.Node().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		c.t.Fatalf("%s: %v: %s", cmd, err, out.String())
	}
}

// foreignRules are such as CNI plugins and others have beside kube-proxy's.
const foreignRules = `*nat
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 18080 -j DNAT --to-destination $POD
-A POSTROUTING -s $POD -p udp -m udp --dport 9 -j MASQUERADE
COMMIT
*filter
:ts-input - [0:0]
-A INPUT -j ts-input
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 9 -j DROP
COMMIT
`

// plantForeign has rules of others in all places, and returns them as they are listed.
func (c *cluster) plantForeign() map[string][]string {
	c.t.Helper()
	for _, f := range proxy.Families {
		for _, variant := range []string{"nft", "legacy"} {
			pod := c.Host("pod-1").Addr(f).String()
			c.restore(variant, f, strings.ReplaceAll(foreignRules, "$POD", pod))
		}
	}
	c.try("nft", "add table inet foreign { chain input { type filter hook input priority 7; tcp dport 9 drop; }; }")
	got := c.foreign()
	if n := len(slices.Concat(slices.Collect(maps.Values(got))...)); n != 4*6+6 {
		c.t.Fatalf("%d lines of others' rules: %v", n, got)
	}
	return got
}

// foreign lists the rules of others, in their order.
func (c *cluster) foreign() map[string][]string {
	c.t.Helper()
	out := map[string][]string{}
	for _, program := range []string{"iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"} {
		text, err := c.output(program + "-save")
		if err != nil {
			c.t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "-A") && !strings.Contains(line, "KUBE-") {
				out[program] = append(out[program], strings.TrimSpace(line))
			}
		}
	}
	for line := range strings.Lines(c.try("nft", "-a", "list", "table", "inet", "foreign")) {
		out["nft"] = append(out["nft"], strings.TrimSpace(line))
	}
	return out
}
