package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// inspection is the sync period of a proxy whose rules somebody takes away: it looks after them as often.
const inspection = 300 * time.Millisecond

// launchIn makes the node one of the mode, such as iptables-legacy, and starts the proxy in it.
func (c *cluster) launchIn(mode string, args ...string) *process {
	c.t.Helper()
	name, variant, _ := strings.Cut(mode, "-")
	if variant != "" {
		for _, program := range []string{"iptables-", "ip6tables-"} {
			c.sh(program + variant + " -w -t mangle -N KUBE-IPTABLES-HINT")
		}
	}
	return c.launch(append([]string{"--proxy-mode=" + name, "--nodeport-addresses=primary"}, args...)...)
}

// needs skips the test if a command is missing.
func needs(t *testing.T, commands ...string) {
	t.Helper()
	for _, name := range commands {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs the command %s: %v", name, err)
		}
	}
}

// sh has a shell on the node execute a line; an error of it fails the test.
func (c *cluster) sh(line string) string {
	c.t.Helper()
	out, err := c.trySh(line)
	if err != nil {
		c.t.Fatalf("%s: %v: %s", line, err, out)
	}
	return out
}

func (c *cluster) trySh(line string) (string, error) {
	c.t.Helper()
	var out strings.Builder
	cmd := exec.Command("sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.Node().Start(cmd); err != nil {
		c.t.Fatalf("start %s: %v", cmd, err)
	}
	err := cmd.Wait()
	return out.String(), err
}

// saved is what a variant's programs save in both families, sorted and without counters, comments, and kubelet's hint.
func (c *cluster) saved(variant string) (out []string) {
	c.t.Helper()
	for _, program := range []string{"iptables-", "ip6tables-"} {
		for l := range strings.Lines(c.sh(program + variant + "-save")) {
			if strings.Contains(l, "is incompatible") {
				c.t.Fatal(l)
			}
			if l, _, _ = strings.Cut(strings.TrimSpace(l), " ["); !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, ":KUBE-IPTABLES-HINT") {
				out = append(out, program+" "+l)
			}
		}
	}
	slices.Sort(out)
	return out
}

var (
	ownJump  = regexp.MustCompile(`(?m)^-A ((PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) .*-j KUBE-.*)$`)
	ownTable = regexp.MustCompile(`(?ms)^\*(\w+)$(.*?)^COMMIT$`)
)

// loss is a command that takes away, in both families, something that mode iptables made.
type loss struct{ name, line string }

// losses are each jump by itself, and the rules of each table.
func (c *cluster) losses(variant string) (out []loss) {
	c.t.Helper()
	add := func(name, arguments string) {
		out = append(out, loss{name, fmt.Sprintf("for p in iptables ip6tables; do $p-%s -w %s; done", variant, arguments)})
	}
	for _, table := range ownTable.FindAllStringSubmatch(c.sh("iptables-"+variant+"-save"), -1) {
		for _, m := range ownJump.FindAllStringSubmatch(table[2], -1) {
			add(table[1]+" "+m[1], "-t "+table[1]+" -D "+m[1])
		}
	}
	for _, table := range []string{"nat", "filter", "mangle"} {
		add("flush "+table, "-t "+table+" -F")
	}
	return out
}

// TestHealIptables takes away, in both families, each jump that mode iptables made, each table's rules, and all rules of the node: they are back within the sync
// period, each once, and connections that are open do not notice.
func TestHealIptables(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			needs(t, "iptables-"+variant, "ip6tables-"+variant)
			c := newCluster(t)
			c.serve(c.allPods()...)
			c.set(c.stock("pod-1")...)
			p := c.launchIn("iptables-"+variant, "--iptables-sync-period="+inspection.String(), "--iptables-min-sync-period=100ms")
			p.follow()
			flows := c.flowsToWeb()
			c.sh(fmt.Sprintf("iptables-%[1]s -t raw -S && ip6tables-%[1]s -t raw -S", variant)) // which makes these tables
			losses := c.losses(variant)
			if len(losses) != 12+3 {
				t.Fatalf("there are %d things to lose, want 12 jumps and 3 tables: %q", len(losses), losses)
			}
			before := c.saved(variant)
			slowest := time.Duration(0)
			for _, l := range losses {
				slowest = max(slowest, p.regains(variant, l, before))
			}
			for _, f := range flows {
				if r := f.Stop(); !r.Intact() {
					t.Errorf("an established connection broke: %s", r)
				}
			}
			// What firewalld does when it is reloaded with FlushAllOnReload. A repair that is faster may leave it nothing to delete. Without a single rule that needs it, the kernel tracks no connections, so none is open.
			slowest = max(slowest, p.regains(variant, loss{"flush and delete all", fmt.Sprintf(
				"for p in iptables ip6tables; do for t in raw mangle nat filter; do $p-%[1]s -w -t $t -F; $p-%[1]s -w -t $t -X || true; done; done", variant)}, before))
			t.Logf("%d losses; the slowest repair took %v", len(losses)+1, slowest.Round(time.Millisecond))
			if !p.running() {
				t.Errorf("the proxy ended with %v", p.cmd.ProcessState)
			}
		})
	}
}

// flowsToWeb are connections from outside to the NodePort of web, one of each family.
func (c *cluster) flowsToWeb() (flows []*lab.Flow) {
	c.t.Helper()
	for _, f := range proxy.Families {
		flow, err := c.Client().Flow(proxy.TCP, c.address(newService(1, "web"), proxy.NodePort, f, proxy.TCP), 10*time.Millisecond)
		if err != nil {
			c.t.Fatal(err)
		}
		flows = append(flows, flow)
	}
	return flows
}

// reachable fails the test if web cannot be connected to, from outside and from a pod.
func (c *cluster) reachable(when string) {
	c.t.Helper()
	for _, f := range proxy.Families {
		for host, kind := range map[string]proxy.Kind{"client": proxy.NodePort, "pod-3": proxy.ClusterIP} {
			to := c.address(newService(1, "web"), kind, f, proxy.TCP)
			if o := c.Host(host).Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); o.Result != lab.Connected {
				c.t.Errorf("%s: a connection from %s to %s: %s", when, host, to, o)
			}
		}
	}
}

// regains takes something away, and returns how long it took to come back.
func (p *process) regains(variant string, l loss, before []string) time.Duration {
	p.t.Helper()
	repairs, logged := p.repairs(), len(p.log.String())
	p.sh(l.line)
	start := time.Now()
	for {
		now := p.saved(variant)
		took := time.Since(start)
		if diff := cmp.Diff(before, now); diff == "" {
			p.reachable("after the loss of " + l.name)
			eventually(p.t, "a repair is counted in each family", func() bool {
				after := p.repairs()
				return !slices.ContainsFunc(proxy.Families[:], func(f proxy.Family) bool { return after[f] <= repairs[f] })
			})
			p.loggedSince(logged, "Another process changed the table of the proxy")
			return took
		} else if took > inspection+longTimeout { // which is much more than needed, also on a busy machine
			p.t.Fatalf("%s: not back after %v (-before +now):\n%s", l.name, took, diff)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
