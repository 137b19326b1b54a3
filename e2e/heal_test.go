package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// healed is how soon the table must be as it was, and how soon after an adversary gave up.
const healed = 2 * time.Second

// A disruption is what another process may do to the table of the proxy.
type disruption struct {
	name string
	do   func(n *nft)
	// all tells that it is done to the tables of others, too. Packets of established connections are translated only while some table
	// has a chain of type nat: what is sent before the repair may end the connection, so none is open.
	all      bool
	families []proxy.Family // that are repaired
}

// nftLine has nft execute one line.
func nftLine(line string) func(*nft) {
	return func(n *nft) { n.load(line) }
}

// deleteRule deletes one rule of the IPv4 table.
func deleteRule(chain, part string) func(*nft) {
	return func(n *nft) { n.run("delete", "rule", "ip", "kube-proxy", chain, "handle", n.rule(chain, part).handle) }
}

// classVerdict is what leads from a class of Services to its chain.
var classVerdict = regexp.MustCompile(`elements = \{ (.+?) : \w+ [\w-]+`)

func disruptions() []disruption {
	v4, both := []proxy.Family{proxy.IPv4}, proxy.Families[:]
	return []disruption{
		{name: "delete a rule of a regular chain", do: deleteRule("services", "@frontends"), families: v4},
		{name: "delete a rule of a base chain", do: deleteRule("nat-prerouting", "jump services"), families: v4},
		{name: "delete a rule in the middle of a base chain", do: deleteRule("nat-postrouting", "@hairpin"), families: v4},
		{name: "delete a base chain", do: nftLine("delete chain ip kube-proxy nat-output"), families: v4},
		{name: "flush a chain", do: nftLine("flush chain ip kube-proxy services"), families: v4},
		{name: "delete an element", do: nftLine("delete element ip kube-proxy frontends { 10.96.0.1 . tcp . 80 }"), families: v4},
		{name: "add an element", do: nftLine("add element ip kube-proxy frontends { 10.96.0.77 . tcp . 80 : 10:1 }"), families: v4},
		{name: "change an element", do: nftLine("delete element ip kube-proxy endpoints { 0:1 . 0 }; add element ip kube-proxy endpoints { 0:1 . 0 : 192.0.2.1 . 80 }"), families: v4},
		{name: "flush a set", do: nftLine("flush set ip kube-proxy hairpin"), families: v4},
		{name: "change a verdict", do: func(n *nft) {
			m := classVerdict.FindStringSubmatch(n.run("list", "map", "ip", "kube-proxy", "dispatch"))
			if m == nil {
				n.t.Fatal("no element of the verdict map can be found")
			}
			n.load("delete element ip kube-proxy dispatch { " + m[1] + " }; add element ip kube-proxy dispatch { " + m[1] + " : drop }")
		}, families: v4},
		{name: "delete the map of affinity, with all that uses it", do: func(n *nft) {
			n.load("flush table ip kube-proxy; flush map ip kube-proxy dispatch; delete map ip kube-proxy affinity")
		}, families: v4},
		{name: "flush a verdict map", do: nftLine("flush map ip kube-proxy dispatch"), families: v4},
		{name: "insert a rule", do: nftLine("insert rule ip kube-proxy services tcp dport 80 drop"), families: v4},
		{name: "change a policy", do: nftLine("add chain ip kube-proxy nat-prerouting { policy drop; }"), families: v4},
		{name: "turn the table off", do: nftLine("add table ip kube-proxy { flags dormant; }"), families: v4},
		{name: "rename a chain", do: nftLine("rename chain ip kube-proxy services elsewhere"), families: v4},
		{name: "rename a base chain", do: nftLine("rename chain ip kube-proxy nat-prerouting elsewhere"), families: v4},
		{name: "add a chain", do: nftLine("add chain ip kube-proxy foreign"), families: v4},
		{name: "add a base chain that drops", do: nftLine("add chain ip kube-proxy foreign { type filter hook forward priority 7; policy drop; }"), families: v4},
		{name: "add a set", do: nftLine("add set ip kube-proxy foreign { type ipv4_addr; }"), families: v4},
		{name: "delete the table", do: nftLine("delete table ip kube-proxy"), families: v4},
		{name: "delete the table of IPv6", do: nftLine("delete table ip6 kube-proxy"), families: []proxy.Family{proxy.IPv6}},
		{name: "flush the table", do: nftLine("flush table ip kube-proxy"), families: v4},
		{name: "flush the ruleset", do: nftLine("flush ruleset"), all: true, families: both},
		{name: "put another table in its place", do: nftLine("delete table ip kube-proxy; add table ip kube-proxy; add chain ip kube-proxy services { type filter hook input priority 0; }"),
			families: v4},
	}
}

// TestHeal does to the table all that another process can do: it is as before within two seconds.
func TestHeal(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1", "pod-3")...)
	n.load(foreignTables)
	p := c.start()
	for _, d := range disruptions() {
		t.Run(d.name, func(t *testing.T) {
			c.t, n.t = t, t
			p.heals(n, d)
		})
	}
	c.t, n.t = t, t
}

// foreignTables are such as other programs make.
const foreignTables = `
table ip nat {
	chain DOCKER {
		iifname "docker0" return
		iifname != "docker0" tcp dport 18080 dnat to 172.17.0.2:80
	}
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump DOCKER
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
	}
}
table ip6 nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip6 saddr fd17::/64 oifname != "docker0" masquerade
	}
}
table inet filter {
	set blocked {
		type ipv4_addr
		flags interval
		elements = { 192.0.2.0/24 }
	}
	chain services {
		ip saddr @blocked drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ct state vmap { established : accept, invalid : drop }
		jump services
	}
}
table inet kube-proxy {
	chain services {
		type filter hook forward priority filter; policy accept;
	}
}
`

// others lists the tables of others, with their handles: what was deleted and made again differs.
func (n *nft) others() string {
	n.t.Helper()
	var all []string
	for _, table := range []string{"ip nat", "ip6 nat", "inet filter", "inet kube-proxy"} {
		family, name, _ := strings.Cut(table, " ")
		out, err := n.try("", "-a", "list", "table", family, name)
		if err != nil {
			out = table + " is missing"
		}
		all = append(all, out)
	}
	return strings.Join(all, "\n")
}

// heals disrupts the table and looks on.
func (p *process) heals(n *nft, d disruption) {
	p.t.Helper()
	if d.all {
		defer n.load(foreignTables)
	}
	before, others, repairs, logged := bothListings(n), n.others(), p.repairs(), len(p.log.String())
	web := newService(1, "web")
	var flows []*lab.Flow
	for _, f := range proxy.Families {
		if d.all {
			break
		}
		flow, err := p.Client().Flow(proxy.TCP, p.address(web, proxy.NodePort, f, proxy.TCP), 5*time.Millisecond)
		if err != nil {
			p.t.Fatal(err)
		}
		flows = append(flows, flow)
	}
	d.do(n)
	took := p.restored(n, before)
	for _, f := range proxy.Families {
		o := p.Client().Dial(proxy.TCP, p.address(web, proxy.NodePort, f, proxy.TCP), lab.DialOptions{Timeout: longTimeout})
		if o.Result != lab.Connected {
			p.t.Errorf("%s: a new connection after the repair: %s", f, o)
		}
	}
	for _, f := range flows {
		if r := f.Stop(); !r.Intact() {
			p.t.Errorf("an established connection broke: %s", r)
		}
	}
	eventually(p.t, fmt.Sprintf("more than %v repairs counted of %v", repairs, d.families), func() bool {
		after := p.repairs()
		return !slices.ContainsFunc(d.families, func(f proxy.Family) bool { return after[f] <= repairs[f] })
	})
	if now := n.others(); now != others && !d.all {
		p.t.Errorf("tables of others have changed (-before +now):\n%s", cmp.Diff(others, now))
	}
	p.loggedSince(logged, `process="nft"`)
	p.t.Logf("as before after %v", took.Round(time.Millisecond))
}

func bothListings(n *nft) string {
	n.t.Helper()
	return n.listing("ip") + "\n" + n.listing("ip6")
}

// repairs are the repairs counted so far.
func (p *process) repairs() map[proxy.Family]float64 {
	p.t.Helper()
	m, err := p.metrics()
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[proxy.Family]float64{}
	for _, f := range proxy.Families {
		out[f] = m[fmt.Sprintf("turnout_table_repairs_total{ip_family=%q}", f)]
	}
	return out
}

// restored waits until the tables are listed as before.
func (p *process) restored(n *nft, before string) time.Duration {
	p.t.Helper()
	slowest := time.Duration(0) // to list them, as a measure of how busy the machine is
	for start := time.Now(); ; {
		began := time.Now()
		now := tryListings(n)
		took := time.Since(start)
		if now == before {
			return took
		}
		if slowest = max(slowest, time.Since(began)); took > healed+10*slowest {
			p.t.Fatalf("after %v the table is not as before (-before +now):\n%s", took, cmp.Diff(before, now))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// tryListings is bothListings while a table may be missing.
func tryListings(n *nft) string {
	var all []string
	for _, f := range []string{"ip", "ip6"} {
		out, err := n.try("", "list", "table", f, "kube-proxy")
		if err != nil {
			return out
		}
		all = append(all, normalise(out))
	}
	return strings.Join(all, "\n")
}
