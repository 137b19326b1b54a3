package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
)

// foreignServer is a virtual server that is none of the proxy's.
const foreignServer = "-A -t 192.0.2.1:80 -s rr"

// inIPVS lists what mode ipvs has in the kernel, without the rules of its table.
func (c *cluster) inIPVS() (out []string) {
	c.t.Helper()
	for line := range strings.Lines(c.try("ipvsadm", "-S", "-n") + c.try("ip", "-o", "address", "show", "kube-ipvs0") + c.try("nft", "list", "tables")) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[1] == "kube-ipvs0" { // behind the number of the interface
			fields = fields[1:4]
		}
		out = append(out, strings.Join(fields, " "))
	}
	slices.Sort(out)
	return out
}

// rulesOfIPVS counts the rules of mode ipvs that lead elsewhere.
func (c *cluster) rulesOfIPVS() int {
	c.t.Helper()
	return strings.Count(c.try("nft", "list", "table", "ip", "kube-proxy-ipvs")+c.try("nft", "list", "table", "ip6", "kube-proxy-ipvs"), "goto ")
}

// TestHealIPVS takes away what mode ipvs made, as other programs may: all of it comes back within a sync period or two. A virtual server of somebody
// else stays as it is, also when everything of the proxy's is removed.
func TestHealIPVS(t *testing.T) {
	needsIPVS(t)
	needs(t, "ipvsadm", "ip", "nft")
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	c.sh("ipvsadm " + foreignServer)
	p := c.launch("--proxy-mode=ipvs", "--nodeport-addresses=primary", "--ipvs-sync-period=1s", "--ipvs-min-sync-period=0s")
	p.follow()
	before, rules := c.inIPVS(), c.rulesOfIPVS()
	if !slices.Contains(before, foreignServer) || !slices.Contains(before, "kube-ipvs0 inet 10.96.0.1/32") {
		t.Fatalf("before anything was taken away:\n%s", strings.Join(before, "\n"))
	}
	for _, damage := range []string{
		"ipvsadm -D -t 10.96.0.1:80", "ipvsadm -D -t 192.168.50.1:30003", "ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.2:8080",
		"ip address del 10.96.0.1/32 dev kube-ipvs0", "ip -6 address del fd00:10:96::1/128 dev kube-ipvs0",
		"nft delete table ip kube-proxy-ipvs; nft delete table ip6 kube-proxy-ipvs", "ip link del kube-ipvs0",
		"nft flush table ip kube-proxy-ipvs; nft flush table ip6 kube-proxy-ipvs",
	} {
		c.sh(damage)
		var d string
		eventually(t, "mended: "+damage, func() bool {
			d = cmp.Diff(before, c.inIPVS())
			return d == "" && c.rulesOfIPVS() == rules
		})
		for _, f := range proxy.Families {
			c.check(t, c.from(outside), proxy.TCP, c.address(newService(1, "web"), proxy.ClusterIP, f, proxy.TCP), masqueraded("pod-1", "pod-2"))
		}
	}
	p.stop()
	c.cleanUp()
	if d := cmp.Diff([]string{foreignServer}, c.inIPVS()[:1]); d != "" || strings.Contains(strings.Join(c.inIPVS(), "\n"), "kube-proxy") {
		t.Errorf("after the cleanup:\n%s", strings.Join(c.inIPVS(), "\n"))
	}
}
