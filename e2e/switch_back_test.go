package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// TestSwitchBack goes from mode iptables to mode nftables and back, with the proxy stopped in between, as one who tries mode nftables: each time the
// Services are served as asked for, and at the end there is no table of mode nftables.
func TestSwitchBack(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run("iptables-"+variant, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.switchable()
			c.serve(c.allPods()...)
			c.set(c.stock("pod-1", "pod-5")...)
			for _, mode := range []string{"iptables-" + variant, "nftables", "iptables-" + variant} {
				p := c.startMode(mode)
				c.hasOnly(mode)
				p.stop()
				c.verify(mode)
			}
			if tables := c.try("nft", "list", "tables"); strings.Contains(tables, "kube-proxy") {
				t.Errorf("left of mode nftables:\n%s", tables)
			}
		})
	}
}

// verify looks at the rules of a mode, and connects from everywhere to every kind of address.
func (c *cluster) verify(mode string) {
	c.t.Helper()
	now, err := c.routings()
	if err != nil {
		c.t.Fatal(err)
	}
	web := newService(1, "web")
	for _, f := range proxy.Families {
		if d := cmp.Diff(c.wanted(f), now[place{mode, f}]); d != "" {
			c.t.Errorf("mode %s, %s: -want +got\n%s", mode, f, d)
		}
		for _, k := range everyKind {
			for _, from := range []*lab.Host{c.Client(), c.Host("pod-3"), c.Node()} {
				to := c.address(web, k, f, proxy.TCP)
				if got := from.Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); got.Result != lab.Connected {
					c.t.Errorf("mode %s: %s from %s: %s", mode, to, from.Name, got)
				}
			}
		}
	}
}

// TestCleanupBeforeOlder removes mode nftables by its cleanup, as before a downgrade to a kube-proxy that knows nothing of its tables: nothing is left at
// any hook, and rules that such a kube-proxy makes are the only ones.
func TestCleanupBeforeOlder(t *testing.T) {
	t.Parallel()
	c := stopped(t)
	if ours := c.hooked(); len(ours) == 0 {
		t.Error("no chain of mode nftables is at a hook, or it is not found")
	}
	c.onNode("cleanup", "--mode", "nftables").want(t, 0, "removed table: ip6 kube-proxy")
	if ours := c.hooked(); len(ours) > 0 {
		t.Errorf("still at hooks: %v", ours)
	}
	for _, f := range proxy.Families {
		c.loadKubeProxy("nft", f, oldEndpoint)
	}
	c.vipFromNode(oldEndpoint)
	c.translatedOnce(t)
}

var baseChain = regexp.MustCompile(`(?m)^\s+type \w+ hook (\w+) priority`)

// hooked are the hooks of netfilter at which this proxy has chains, in whatever mode.
func (c *cluster) hooked() (out []string) {
	c.t.Helper()
	for table := range strings.Lines(c.try("nft", "list", "tables")) {
		words := strings.Fields(table)
		if len(words) != 3 || !strings.HasPrefix(words[2], "kube-proxy") {
			continue
		}
		for _, m := range baseChain.FindAllStringSubmatch(c.try("nft", "list", "table", words[1], words[2]), -1) {
			out = append(out, words[1]+" "+m[1])
		}
	}
	for _, program := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		for line := range strings.Lines(c.try(program)) {
			if strings.Contains(line, "-j KUBE-") && !strings.HasPrefix(line, "-A KUBE-") {
				out = append(out, program+" "+strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(out)
	return out
}
