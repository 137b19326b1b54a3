package e2e

import (
	"strings"
	"testing"
)

// TestInvalidPackets starts mode iptables on a node whose connection tracking is liberal, whoever set that: packets that it cannot place are forwarded all the same.
// Elsewhere they are dropped.
func TestInvalidPackets(t *testing.T) {
	t.Parallel()
	needs(t, "iptables-nft", "ip6tables-nft")
	for _, liberal := range []bool{false, true} {
		c := newCluster(t)
		c.sh("nft add table ip loaded && nft add chain ip loaded c '{ type filter hook input priority 0; }' && nft add rule ip loaded c ct state new") // as connection tracking is in use
		if liberal {
			c.sh("echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
		}
		p := c.launchIn("iptables-nft")
		p.follow()
		if liberal {
			p.logged("Packets that connection tracking cannot place are forwarded", "nf_conntrack_tcp_be_liberal")
		}
		for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
			if rules := c.sh(program + " -S KUBE-FORWARD"); strings.Contains(rules, "--ctstate INVALID") == liberal {
				t.Errorf("liberal: %t, and the rules are:\n%s", liberal, rules)
			}
		}
	}
}
