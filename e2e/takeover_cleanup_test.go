package e2e

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
)

// TestCleanupSets removes the rules and ipsets of kube-proxy's mode ipvs by the cleanup, but for a set that another program uses: that is named, with what
// helps, and the exit status tells of it.
func TestCleanupSets(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ipset", "iptables-nft-restore", "ip6tables-nft-restore", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs the command %s: %v", name, err)
		}
	}
	c := newCluster(t)
	for _, f := range proxy.Families {
		c.shIPVS(ipvsRules, f, netip.AddrPort{})
	}
	if out := c.try("sh", "-ec", "ipset create KUBE-SRC-AAAAAAAAAAAAAAAA hash:ip; ipset create others list:set; ipset add others KUBE-6-CLUSTER-IP"); out != "" {
		t.Fatal(out)
	}
	before := c.try("ipset", "list", "-n")
	c.cleanup("--dry-run").want(t, 0, "would remove ipset: KUBE-CLUSTER-IP\n", "would remove chain: ip nat KUBE-LOAD-BALANCER\n")
	if now := c.try("ipset", "list", "-n"); now != before {
		t.Errorf("--dry-run changed the sets: %s, before %s", now, before)
	}
	const left = "left ipset: KUBE-6-CLUSTER-IP (a rule or a set of another program refers to it; when that is gone: ipset destroy KUBE-6-CLUSTER-IP)\n"
	c.cleanup().want(t, 1, "removed ipset: KUBE-CLUSTER-IP\n", "removed ipset: KUBE-6-IPVS-IPS\n", left, "1 objects are left")
	c.cleanup().want(t, 1, left)
	if now := strings.Fields(c.try("ipset", "list", "-n")); !slices.Equal(slices.Sorted(slices.Values(now)), []string{"KUBE-6-CLUSTER-IP", "KUBE-SRC-AAAAAAAAAAAAAAAA", "others"}) {
		t.Errorf("the sets are %v", now)
	}
	c.try("ipset", "destroy", "others")
	c.cleanup().want(t, 0, "removed ipset: KUBE-6-CLUSTER-IP\n")
	c.cleanup().want(t, 0)
	if now := c.try("ipset", "list", "-n"); now != "KUBE-SRC-AAAAAAAAAAAAAAAA\n" {
		t.Errorf("the sets are %s", now)
	}
	if rules := c.try("nft", "list", "ruleset"); strings.Contains(rules, "KUBE-") {
		t.Errorf("rules are left:\n%s", rules)
	}
}

// cleaned is what the command cleanup printed, and its exit status.
type cleaned struct {
	text string
	code int
}

// cleanup runs the command cleanup on the node.
func (c *cluster) cleanup(args ...string) cleaned {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	p := c.run(exec.Command(path, append([]string{"cleanup"}, args...)...))
	<-p.ended
	return cleaned{p.log.String(), p.cmd.ProcessState.ExitCode()}
}

// want checks the exit status, and that it printed some texts. What is left must not be said to be removed.
func (r cleaned) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit status %d, want %d:\n%s", r.code, code, r.text)
	}
	for _, text := range texts {
		if !strings.Contains(r.text, text) {
			t.Errorf("it did not say %q:\n%s", text, r.text)
		}
		if name, ok := strings.CutPrefix(text, "left "); ok && strings.Contains(r.text, "removed "+strings.Fields(name)[0]+" "+strings.Fields(name)[1]+"\n") {
			t.Errorf("what is left was said to be removed:\n%s", r.text)
		}
	}
	if len(texts) == 0 && r.text != "" {
		t.Errorf("it said something though there is nothing to do:\n%s", r.text)
	}
}
