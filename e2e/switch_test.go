package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"turnout/proxy/ipvs/genl"
)

// TestSwitchModes restarts the proxy in another mode, from each to each, while clients connect and long connections live: the new mode's rules
// are there before the old one's go, and no connection fails. At the end of each step only the new mode has rules.
func TestSwitchModes(t *testing.T) {
	c := newCluster(t)
	modes := c.switchable()
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	walk := eachPair(modes)
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
		c.hasOnly(mode)
		s.churn(200*time.Millisecond, p.follow)
	}
	s.judge()
}

// judge judges what the clients saw, but for affinity: which server a client had is not known to another mode.
func (s *shop) judge() {
	s.t.Helper()
	for _, l := range append(slices.Clone(s.loads), s.sticky...) {
		l.judge()
	}
}

// eachPair is a walk in which each ordered pair of modes comes once.
func eachPair(modes []string) []string {
	next := map[string][]string{}
	for _, m := range modes {
		next[m] = slices.DeleteFunc(slices.Clone(modes), func(o string) bool { return o == m })
	}
	// As every mode is entered as often as it is left, a walk that cannot go on is a circle, and others can be put into it.
	var walk, stack []string
	for stack = []string{modes[0]}; len(stack) > 0; {
		at := stack[len(stack)-1]
		if len(next[at]) == 0 {
			walk, stack = append(walk, at), stack[:len(stack)-1]
			continue
		}
		stack, next[at] = append(stack, next[at][0]), next[at][1:]
	}
	slices.Reverse(walk)
	return walk
}

// switchable are the modes that the machine can have, or skips the test if they cannot be told apart here.
func (c *cluster) switchable() []string {
	c.t.Helper()
	needSwitchable(c.t)
	modes := []string{"nftables", "iptables-nft", "iptables-legacy"}
	if lacksIPVS() == nil {
		modes = append(modes, "ipvs")
	}
	return modes
}

// startMode makes the node one that uses a variant of iptables, and starts the proxy in a mode.
func (c *cluster) startMode(mode string) *process {
	c.t.Helper()
	_, variant, _ := strings.Cut(mode, "-")
	c.hint(variant)
	p := c.launchMode(mode)
	p.follow()
	return p
}

// lacksIPVS says why there is no IPVS, nil if there is. It has the module loaded, as a proxy would.
func lacksIPVS() error {
	s, err := genl.Open()
	if err != nil {
		return err
	}
	return s.Close()
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
	tables := c.try("nft", "list", "tables")
	if strings.Contains(tables, " kube-proxy\n") {
		out = append(out, "nftables")
	}
	for _, v := range []string{"nft", "legacy"} {
		if strings.Contains(c.try("iptables-"+v+"-save")+c.try("ip6tables-"+v+"-save"), "KUBE-SERVICES") {
			out = append(out, "iptables-"+v)
		}
	}
	// What mode ipvs keeps for connections that live on is at no hook.
	if strings.Contains(tables, " kube-proxy-ipvs\n") && strings.Contains(c.try("nft", "list", "table", "ip", "kube-proxy-ipvs")+c.try("nft", "list", "table", "ip6", "kube-proxy-ipvs"), " hook ") {
		out = append(out, "ipvs")
	}
	return out
}
