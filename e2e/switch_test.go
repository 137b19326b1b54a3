package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSwitchModes restarts the proxy in another mode, from each to each, while clients connect and long connections live: the new mode's rules
// are there before the old one's go, and no connection fails. At the end of each step only the new mode has rules.
func TestSwitchModes(t *testing.T) {
	if *modeFlag != "nftables" {
		t.Skip("runs in mode nftables only")
	}
	for _, name := range []string{"iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs the command %s: %v", name, err)
		}
	}
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	// Each ordered pair of modes once.
	walk := []string{"nftables", "iptables-nft", "nftables", "iptables-legacy", "iptables-nft", "iptables-legacy", "nftables"}
	p := c.startMode(walk[0])
	s := c.open()
	for i, mode := range walk[1:] {
		if i%2 == 0 {
			p.kill() // in the middle of its work
		} else {
			p.stop()
		}
		time.Sleep(50 * time.Millisecond)
		p = c.startMode(mode)
		eventually(t, "only mode "+mode+" has rules", func() bool {
			now := c.modesInKernel()
			return len(now) == 1 && now[0] == mode
		})
		s.churn(200*time.Millisecond, p.follow)
	}
	for _, l := range s.loads {
		l.judge()
	}
	for _, l := range s.sticky {
		l.judge() // which server a client had is not known to another mode
	}
}

// startMode makes the node one that uses a variant of iptables, and starts the proxy in a mode.
func (c *cluster) startMode(mode string) *process {
	c.t.Helper()
	_, variant, _ := strings.Cut(mode, "-")
	c.hintVariant(variant)
	p := c.launchMode(mode)
	p.follow()
	return p
}

// hintVariant makes the node one that uses a variant of iptables, or none, as kubelet tells it.
func (c *cluster) hintVariant(variant string) {
	c.t.Helper()
	for _, v := range []string{"nft", "legacy"} {
		for _, program := range []string{"iptables-", "ip6tables-"} {
			verb := "-X"
			if v == variant {
				verb = "-N"
			}
			c.try(program+v, "-t", "mangle", verb, "KUBE-IPTABLES-HINT")
		}
	}
}

// launchMode starts the proxy in a mode, and does not wait.
func (c *cluster) launchMode(mode string) *process {
	c.t.Helper()
	name, _, _ := strings.Cut(mode, "-")
	return c.launch("--proxy-mode="+name, "--nodeport-addresses=primary")
}

// try runs a command on the node and returns what it says.
func (c *cluster) try(name string, args ...string) string {
	c.t.Helper()
	var out strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.Node().Start(cmd); err != nil {
		c.t.Fatalf("start %s: %v", cmd, err)
	}
	_ = cmd.Wait() // what it says tells
	return out.String()
}

// modesInKernel lists the modes that have rules, in either family.
func (c *cluster) modesInKernel() (out []string) {
	c.t.Helper()
	if strings.Contains(c.try("nft", "list", "tables"), "kube-proxy") {
		out = append(out, "nftables")
	}
	for _, v := range []string{"nft", "legacy"} {
		if strings.Contains(c.try("iptables-"+v+"-save")+c.try("ip6tables-"+v+"-save"), "KUBE-SERVICES") {
			out = append(out, "iptables-"+v)
		}
	}
	return out
}
