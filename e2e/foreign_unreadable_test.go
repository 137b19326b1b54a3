package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestUnreadableRule starts the proxy on a node whose table filter has a rule that the programs of iptables cannot read: it runs, serves, is healthy, and leaves the
// rule alone. Mode iptables tells whose rule it is, also of one that comes later.
func TestUnreadableRule(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nftables", "iptables-nft"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			needs(t, "nft", "iptables-nft", "ip6tables-nft")
			c := newCluster(t)
			c.serve("pod-1", "pod-2")
			c.set(c.stock("pod-1")...)
			for program, family := range map[string]string{"iptables-nft": "ip", "ip6tables-nft": "ip6"} {
				c.sh(program + " -A INPUT -p tcp --dport 22 -j ACCEPT")
				c.sh("nft add rule " + family + " filter INPUT ct state related,established accept")
			}
			before, _ := c.rulesOfOthers()
			p := c.launchIn(mode, "--iptables-sync-period="+inspection.String(), "--iptables-min-sync-period=10ms")
			p.follow()
			c.reachable("at first")
			c.set(c.stock("pod-2")...)
			p.follow()
			c.reachable("after a change")
			for path, want := range map[string]int{"/healthz": http.StatusOK, "/livez": http.StatusOK} {
				if answer, err := p.get(healthServer, path); err != nil || answer.status != want {
					t.Errorf("%s: %+v, %v", path, answer, err)
				}
			}
			if mode == "iptables-nft" {
				p.tellsObstacles()
			}
			others, _ := c.rulesOfOthers()
			if diff := cmp.Diff(before, withoutTables(others, before)); diff != "" {
				t.Errorf("rules of others (-before +now):\n%s", diff)
			}
		})
	}
}

// withoutTables leaves out chains that are there now and were not before: iptables makes those of the kernel when it is used.
func withoutTables(now, before []string) (out []string) {
	key := func(l string) string { return strings.Join(strings.Fields(l)[:3], " ") }
	known := map[string]bool{}
	for _, l := range before {
		known[key(l)] = true
	}
	for _, l := range now {
		if known[key(l)] {
			out = append(out, l)
		}
	}
	return out
}

// unreadable is the metric of a table of IPv4.
func unreadable(table string) string {
	return fmt.Sprintf(`turnout_table_unreadable{ip_family="IPv4",table=%q}`, table)
}

// tellsObstacles looks at what is said of the rule that was there at the start, and of one that comes and goes.
func (p *process) tellsObstacles() {
	p.t.Helper()
	p.until(unreadable("filter"), 1)
	p.expect(map[string]float64{unreadable("nat"): 0, unreadable("mangle"): 0, `turnout_table_repairs_total{ip_family="IPv4"}`: 0})
	p.logged("keep the programs of iptables from reading their tables", "of chain INPUT in table filter (with ct)", "use tables of their own, or run mode nftables", `reason="TablesUnreadable"`)
	p.sh("nft insert rule ip nat OUTPUT oifname wt0 fib daddr type local accept")
	p.until(unreadable("nat"), 1)
	p.logged("of chain OUTPUT in table nat (with fib; it looks like one of NetBird)")
	p.sh("nft delete rule ip nat OUTPUT handle $(nft -a list chain ip nat OUTPUT | sed -n 's/.*wt0.* # handle //p')")
	p.until(unreadable("nat"), 0)
	p.expect(map[string]float64{unreadable("filter"): 1})
	p.reachable("after all that")
}

// reconciler is a program that again and again takes its rules out of the tables of iptables, and a table of its own, and puts them back.
const reconciler = `
for p in iptables ip6tables; do
	[ "$($p-VARIANT -S FORWARD | grep -c -- "--dport 7 -j ACCEPT")" = 1 ] || echo "$p: a rule is not there once"
	$p-VARIANT -D FORWARD -p tcp --dport 7 -j ACCEPT
	$p-VARIANT -t nat -D PREROUTING -p tcp --dport 7 -j ACCEPT
	$p-VARIANT -A FORWARD -p tcp --dport 7 -j ACCEPT
	$p-VARIANT -t nat -I PREROUTING -p tcp --dport 7 -j ACCEPT
done
nft -f - <<END
add table inet reconciled
delete table inet reconciled
table inet reconciled { chain c { type filter hook forward priority 7; ct state new counter; }; }
END
`

// TestForeignReconciler has another program rewrite its rules several times a second: neither it nor the proxy, which looks as often, finds anything to repair, and
// the proxy's rules stay the same ones.
func TestForeignReconciler(t *testing.T) {
	t.Parallel()
	const lasting, period = 4 * time.Second, 200 * time.Millisecond
	for _, mode := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			_, variant, _ := strings.Cut(mode, "-")
			if variant == "" {
				variant = "nft"
			}
			needs(t, "nft", "iptables-"+variant, "ip6tables-"+variant)
			c := newCluster(t)
			c.serve("pod-1", "pod-2")
			c.set(c.stock("pod-1")...)
			p := c.launchIn(mode, "--iptables-sync-period="+inspection.String(), "--iptables-min-sync-period=10ms")
			p.follow()
			for _, program := range []string{"iptables-", "ip6tables-"} {
				c.sh(program + variant + " -w -A FORWARD -p tcp --dport 7 -j ACCEPT; " + program + variant + " -w -t nat -I PREROUTING -p tcp --dport 7 -j ACCEPT")
			}
			flows := c.flowsToWeb()
			_, before := c.rulesOfOthers()
			m, err := p.metrics()
			if err != nil {
				t.Fatal(err)
			}
			turns := 0
			for end := time.Now().Add(lasting); time.Now().Before(end); turns++ {
				if out, err := c.trySh(strings.ReplaceAll(reconciler, "VARIANT", variant)); err != nil || out != "" {
					t.Fatalf("turn %d of the other program: %v: %s", turns, err, out)
				}
				time.Sleep(period)
			}
			for _, flow := range flows {
				if r := flow.Stop(); !r.Intact() {
					t.Errorf("an established connection broke: %s", r)
				}
			}
			if _, after := c.rulesOfOthers(); len(before) == 0 || !slices.Equal(before, after) {
				t.Errorf("%d rules of the proxy (-before +after):\n%s", len(before), cmp.Diff(before, after))
			}
			if counted := repairsAndRebuilds(m); len(counted) < 2*6 {
				t.Errorf("only %v is counted", counted)
			} else {
				p.expect(counted)
			}
			c.reachable(fmt.Sprintf("after %d turns", turns))
		})
	}
}

// repairsAndRebuilds are the metrics that count what the proxy wrote anew.
func repairsAndRebuilds(m map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for name, value := range m {
		if strings.HasPrefix(name, "turnout_table_repairs_total") || strings.HasPrefix(name, "turnout_full_syncs_total") || strings.HasPrefix(name, "turnout_apply_operations_sum") {
			out[name] = value
		}
	}
	return out
}
