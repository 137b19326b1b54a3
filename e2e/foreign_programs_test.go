package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"turnout/proxy"
)

// foreignWords are what stands in braces in testdata/foreign, by family.
var foreignWords = map[proxy.Family]*strings.Replacer{
	proxy.IPv4: strings.NewReplacer("{family}", "ip", "{loop}", "127.0.0.0/8", "{bridge}", "172.17.0.0/16", "{container}", "172.17.0.2:80", "{pods}", "10.244.0.0/16",
		"{elsewhere}", "10.99.0.0/16", "{tailnet}", "100.64.0.0/10"),
	proxy.IPv6: strings.NewReplacer("{family}", "ip6", "{loop}", "::1/128", "{bridge}", "fd17::/64", "{container}", "[fd17::2]:80", "{pods}", "fd00:10:244::/48",
		"{elsewhere}", "fd99::/64", "{tailnet}", "fd7a:115c:a1e0::/48"),
}

// foreigners are the programs of which there are rules, by what testdata/foreign has of each: a text for iptables-restore, lines and a file for nft.
func foreigners(t *testing.T) map[string]map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/foreign/*.rules")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	out := map[string]map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parts := map[string]string{}
		for _, part := range strings.Split("\n"+string(text), "\n== ")[1:] {
			name, body, _ := strings.Cut(part, "\n")
			parts[name] = body + "\n"
		}
		out[strings.TrimSuffix(filepath.Base(file), ".rules")] = parts
	}
	return out
}

// settleForeigners has all other programs of testdata/foreign make their rules on the node, in the tables of both variants of iptables.
func (c *cluster) settleForeigners() {
	c.t.Helper()
	n, programs := newNft(c.t, c.Node()), foreigners(c.t)
	for name, parts := range programs {
		for f, program := range map[proxy.Family]string{proxy.IPv4: "iptables", proxy.IPv6: "ip6tables"} {
			for _, variant := range []string{"nft", "legacy"} {
				if out, err := c.trySh(program + "-" + variant + "-restore --noflush --wait <<'END'\n" + foreignWords[f].Replace(parts["iptables"]) + "END"); err != nil {
					c.t.Fatalf("%s, %s-%s: %v: %s", name, program, variant, err, out)
				}
			}
		}
	}
	for _, parts := range programs { // when all tables are there
		for _, words := range foreignWords {
			n.load(words.Replace(parts["nft"]))
		}
		n.load(parts["nft once"])
	}
}

var (
	ownChain = regexp.MustCompile(`^(KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY|PROXY-CLUSTER-IPS|PROXY-REJECT)|KUBE-(SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16})$`)
	counters = regexp.MustCompile(`counter packets \d+ bytes \d+`)
	jumpTo   = regexp.MustCompile(`(?:jump|-j) (\S+)`)
)

// rulesOfOthers splits all rules of the node, with nft's handles and without counters, into those of others and those of a proxy; kubelet's hint, which the tests
// move from one variant to the other, is in neither.
func (c *cluster) rulesOfOthers() (others, own []string) {
	c.t.Helper()
	take := func(line string, isOwn bool) {
		if isOwn {
			own = append(own, line)
		} else {
			others = append(others, line)
		}
	}
	table, chain := "", ""
	for line := range strings.Lines(c.sh("nft -a list ruleset")) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" { // such as that a table is that of iptables
			continue
		}
		if strings.HasPrefix(line, "table ") {
			table, chain = words[1]+" "+words[2], ""
		}
		if strings.HasPrefix(line, "\tchain ") {
			chain = words[1]
		}
		line = table + " " + chain + ": " + counters.ReplaceAllString(strings.TrimSpace(line), "counter")
		if chain != "KUBE-IPTABLES-HINT" {
			take(line, table == "ip kube-proxy" || table == "ip6 kube-proxy" || ownChain.MatchString(chain) || leadsToOwn(line))
		}
		if words[0] == "}" {
			chain = ""
		}
	}
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		for line := range strings.Lines(c.sh(program + "-save")) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " [")
			name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(line, ":"), "-A "), " ")
			if strings.HasPrefix(line, "#") || name == "KUBE-IPTABLES-HINT" {
				continue
			}
			take(program+" "+line, ownChain.MatchString(name) || leadsToOwn(line))
		}
	}
	return others, own
}

func leadsToOwn(line string) bool {
	m := jumpTo.FindStringSubmatch(line)
	return m != nil && ownChain.MatchString(m[1])
}

// ownModes are the modes to which rules of a proxy belong.
func ownModes(own []string) (out []string) {
	text := strings.Join(own, "\n")
	for mode, mark := range map[string]string{"nftables": "kube-proxy", "iptables-nft": " KUBE-SERVICES: ", "iptables-legacy": "-legacy :KUBE-SERVICES"} {
		if strings.Contains(text, mark) {
			out = append(out, mode)
		}
	}
	return out
}

// hint has the node say that it uses a variant of iptables; none if it is "".
func (c *cluster) hint(variant string) {
	c.t.Helper()
	for program, family := range map[string]string{"iptables": "ip", "ip6tables": "ip6"} {
		_, _ = c.trySh("nft delete chain " + family + " mangle KUBE-IPTABLES-HINT") // if it is there
		_, _ = c.trySh(program + "-legacy -w -t mangle -X KUBE-IPTABLES-HINT")
		switch variant {
		case "nft": // natively, since there may be rules that iptables cannot read
			c.sh("nft add table " + family + " mangle && nft add chain " + family + " mangle KUBE-IPTABLES-HINT") // the table may be there
		case "legacy":
			c.sh(program + "-legacy -w -t mangle -N KUBE-IPTABLES-HINT")
		}
	}
}
