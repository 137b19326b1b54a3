package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
)

// TestCleanupSets removes the rules and ipsets of kube-proxy's mode ipvs by the cleanup, but for a set that another program uses: that is named, with what
// helps, and the exit status tells of it.
func TestCleanupSets(t *testing.T) {
	t.Parallel()
	needs(t, "ipset", "iptables-nft-restore", "ip6tables-nft-restore", "nft")
	c := newCluster(t)
	for _, f := range proxy.Families {
		c.shIPVS(ipvsRules, f, netip.AddrPort{})
	}
	if out := c.try("sh", "-ec", "ipset create KUBE-SRC-AAAAAAAAAAAAAAAA hash:ip; ipset create others list:set; ipset add others KUBE-6-CLUSTER-IP"); out != "" {
		t.Fatal(out)
	}
	before := c.try("ipset", "list", "-n")
	c.onNode("cleanup", "--dry-run").want(t, 0, "would remove ipset: KUBE-CLUSTER-IP\n", "would remove chain: ip nat KUBE-LOAD-BALANCER\n")
	if now := c.try("ipset", "list", "-n"); now != before {
		t.Errorf("--dry-run changed the sets: %s, before %s", now, before)
	}
	const left = "left ipset: KUBE-6-CLUSTER-IP (a rule or a set of another program refers to it; when that is gone: ipset destroy KUBE-6-CLUSTER-IP)\n"
	c.onNode("cleanup").want(t, 1, "removed ipset: KUBE-CLUSTER-IP\n", "removed ipset: KUBE-6-IPVS-IPS\n", left, "1 objects are left")
	c.onNode("cleanup").want(t, 1, left)
	if now := strings.Fields(c.try("ipset", "list", "-n")); !slices.Equal(slices.Sorted(slices.Values(now)), []string{"KUBE-6-CLUSTER-IP", "KUBE-SRC-AAAAAAAAAAAAAAAA", "others"}) {
		t.Errorf("the sets are %v", now)
	}
	c.try("ipset", "destroy", "others")
	c.onNode("cleanup").want(t, 0, "removed ipset: KUBE-6-CLUSTER-IP\n")
	c.onNode("cleanup").want(t, 0)
	if now := c.try("ipset", "list", "-n"); now != "KUBE-SRC-AAAAAAAAAAAAAAAA\n" {
		t.Errorf("the sets are %s", now)
	}
	if rules := c.try("nft", "list", "ruleset"); strings.Contains(rules, "KUBE-") {
		t.Errorf("rules are left:\n%s", rules)
	}
}

// want checks the exit status of a cleanup, and that it printed some texts. What is left must not be said to be removed.
func (r ran) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	said := r.stdout + r.stderr
	if r.code != code {
		t.Errorf("exit status %d, want %d:\n%s", r.code, code, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("it did not say %q:\n%s", text, said)
		}
		if name, ok := strings.CutPrefix(text, "left "); ok && strings.Contains(said, "removed "+strings.Fields(name)[0]+" "+strings.Fields(name)[1]+"\n") {
			t.Errorf("what is left was said to be removed:\n%s", said)
		}
	}
	if len(texts) == 0 && said != "" {
		t.Errorf("it said something though there is nothing to do:\n%s", said)
	}
}
