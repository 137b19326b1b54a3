package leftovers_test

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/leftovers"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

var all = leftovers.Scope{Iptables: true, IPVS: true}

// What kube-proxy makes in mode iptables, with a Service of two endpoints, a load balancer with source ranges, what it makes besides in mode ipvs and made in earlier
// releases, and what other programs make beside it. Lines with an exclamation mark must be gone afterwards, all others must be left.
const tables = `*nat
!:KUBE-SERVICES - [0:0]
!:KUBE-NODEPORTS - [0:0]
!:KUBE-POSTROUTING - [0:0]
!:KUBE-MARK-MASQ - [0:0]
!:KUBE-PROXY-CANARY - [0:0]
!:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
!:KUBE-SEP-QZ4QKJTZJTQEV3VB - [0:0]
!:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
!:KUBE-EXT-NPX46M4PTMTKRN6Y - [0:0]
!:KUBE-FW-NPX46M4PTMTKRN6Y - [0:0]
!:KUBE-SVL-NPX46M4PTMTKRN6Y - [0:0]
!:KUBE-XLB-NPX46M4PTMTKRN6Y - [0:0]
!:KUBE-PORTALS-HOST - [0:0]
!:KUBE-PORTALS-CONTAINER - [0:0]
!:KUBE-NODEPORT-HOST - [0:0]
!:KUBE-NODEPORT-CONTAINER - [0:0]
!:KUBE-NODE-PORT - [0:0]
!:KUBE-LOAD-BALANCER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
:KUBE-ROUTER-HAIRPIN - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:ts-postrouting - [0:0]
:POSTROUTING_ZONES - [0:0]
:POST_public - [0:0]
:KUBE-SVC-MINE - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:DOCKER - [0:0]
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
!-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
!-A OUTPUT -j KUBE-SERVICES
-A OUTPUT -j DOCKER
!-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "kube-router hairpin" -j KUBE-ROUTER-HAIRPIN
-A POSTROUTING -j ts-postrouting
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A POSTROUTING -j POSTROUTING_ZONES
-A POSTROUTING_ZONES -g POST_public
-A POST_public -o eth7 -j MASQUERADE
!-A PREROUTING -j KUBE-PORTALS-CONTAINER
!-A OUTPUT -j KUBE-PORTALS-HOST
!-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORT-CONTAINER
!-A OUTPUT -m addrtype --dst-type LOCAL -j KUBE-NODEPORT-HOST
!-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
!-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
!-A KUBE-XLB-NPX46M4PTMTKRN6Y -j KUBE-SVL-NPX46M4PTMTKRN6Y
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
!-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
!-A KUBE-SVC-NPX46M4PTMTKRN6Y -m statistic --mode random --probability 0.5 -j KUBE-SEP-QZ4QKJTZJTQEV3VB
!-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-AAAAAAAAAAAAAAAA
!-A KUBE-SEP-QZ4QKJTZJTQEV3VB -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:6443
!-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
!-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
!-A KUBE-EXT-NPX46M4PTMTKRN6Y -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A KUBE-SVC-MINE -j RETURN
COMMIT
*filter
!:KUBE-SERVICES - [0:0]
!:KUBE-EXTERNAL-SERVICES - [0:0]
!:KUBE-NODEPORTS - [0:0]
!:KUBE-FORWARD - [0:0]
!:KUBE-PROXY-FIREWALL - [0:0]
!:KUBE-PROXY-CANARY - [0:0]
!:KUBE-NODE-PORT - [0:0]
!:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
!:KUBE-IPVS-FILTER - [0:0]
!:KUBE-IPVS-OUT-FILTER - [0:0]
!:KUBE-NODEPORT-NON-LOCAL - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-OUTPUT - [0:0]
:cali-FORWARD - [0:0]
:cali-tw-cali01234567890 - [0:0]
:DOCKER-USER - [0:0]
:ts-forward - [0:0]
:FORWARD_IN_ZONES - [0:0]
:FWDI_public - [0:0]
:KUBE-POD-FW-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-NWPLCY-AAAAAAAAAAAAAAAA - [0:0]
:ts-input - [0:0]
!-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
!-A INPUT -j KUBE-NODEPORTS
!-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-ROUTER-INPUT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -j ts-input
-A FORWARD -j ts-forward
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -j FORWARD_IN_ZONES
-A FORWARD -m comment --comment "kube-router netpol - TEMCG2JMVZWTQU7X" -j KUBE-ROUTER-FORWARD
-A OUTPUT -m comment --comment "kube-router netpol - VEAAIY32XVBHCSCY" -j KUBE-ROUTER-OUTPUT
-A FORWARD_IN_ZONES -i eth7 -g FWDI_public
-A KUBE-ROUTER-FORWARD -m comment --comment "pod firewall" -j KUBE-POD-FW-AAAAAAAAAAAAAAAA
-A KUBE-POD-FW-AAAAAAAAAAAAAAAA -j KUBE-NWPLCY-AAAAAAAAAAAAAAAA
!-A INPUT -j KUBE-IPVS-FILTER
!-A OUTPUT -j KUBE-IPVS-OUT-FILTER
!-A INPUT -j KUBE-NODE-PORT
!-A INPUT -m addrtype --dst-type LOCAL -j KUBE-NODEPORT-NON-LOCAL
!-A KUBE-NODE-PORT -m comment --comment "Kubernetes health check node port" -j ACCEPT
-A OUTPUT -p udp -j ACCEPT
!-A FORWARD -j KUBE-FORWARD
!-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
!-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
!-A KUBE-SERVICES -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j REJECT
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
*mangle
!:KUBE-PROXY-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
`

// load has iptables-restore take the lines that are kube-proxy's, or those that are not, or all.
func load(t *testing.T, variant string, f proxy.Family, kubeProxy, others bool) {
	t.Helper()
	loadLines(t, variant, f, func(_ string, is bool) bool { return is && kubeProxy || !is && others })
}

// loadLines has iptables-restore take some lines, by what they are and whether they are kube-proxy's.
func loadLines(t *testing.T, variant string, f proxy.Family, pick func(line string, kubeProxy bool) bool) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(tables) {
		is, table := strings.HasPrefix(line, "!"), !strings.ContainsAny(line[:1], "!:-")
		if f == proxy.IPv6 {
			line = strings.NewReplacer("10.96.0.1/32", "fd00::1/128", "10.96.0.9/32", "fd00::9/128", "10.244.0.2:6443", "[fd00:1::2]:6443", "172.17.0.0/16", "fd00:17::/64").Replace(line)
		}
		if table || pick(line, is) {
			b.WriteString(strings.TrimPrefix(line, "!"))
		}
	}
	run(t, b.String(), program(variant, f, "-restore"), "--noflush")
}

func program(variant string, f proxy.Family, suffix string) string {
	name := "iptables-"
	if f == proxy.IPv6 {
		name = "ip6tables-"
	}
	return name + variant + suffix
}

func run(t *testing.T, in, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs the command %s: %v", name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

// ruleset is what nft shows of all tables, which includes handles: what is put back in another place is not the same.
func ruleset(t *testing.T) string { return run(t, "", "nft", "-a", "list", "ruleset") }

// save is what iptables-save shows, without comments and with chains in order.
func save(t *testing.T, variant string, f proxy.Family) []string {
	var out []string
	for line := range strings.Lines(run(t, "", program(variant, f, "-save"))) {
		if !strings.HasPrefix(line, "#") {
			line, _, _ = strings.Cut(line, " [")
			out = append(out, strings.TrimSpace(line))
		}
	}
	slices.Sort(out)
	return out
}

func each(t *testing.T, fn func(t *testing.T, f proxy.Family)) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			proxytest.InNamespace(t, func() { fn(t, f) })
		})
	}
}

func remove(t *testing.T, f proxy.Family) *leftovers.Iptables {
	t.Helper()
	found, err := leftovers.FindIptables(all, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Remove(); err != nil {
		t.Error(err)
	}
	return found
}

// Exactly what kube-proxy made goes.
func TestKernelRemoveIptables(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		load(t, "nft", f, false, true)
		want := save(t, "nft", f)
		proxytest.InNamespace(t, func() {
			load(t, "nft", f, true, true)
			removed := remove(t, f)
			if d := cmp.Diff(want, save(t, "nft", f)); d != "" {
				t.Errorf("after removal: -want +got:\n%s", d)
			}
			chains, rules := 0, 0
			for line := range strings.Lines(tables) {
				switch {
				case strings.HasPrefix(line, "!:"):
					chains++
				case strings.HasPrefix(line, "!-A KUBE-"):
				case strings.HasPrefix(line, "!-A"):
					rules++
				}
			}
			if got := len(removed.Objects()); got != chains+rules {
				t.Errorf("%d objects are said to be removed, want %d", got, chains+rules)
			}
			if again := remove(t, f); len(again.Objects()) != 0 {
				t.Errorf("found again: %v", again.Objects())
			}
		})
	})
}

// Rules that iptables itself cannot read are in nobody's way, and stay with the same handles.
func TestKernelRemoveBesideForeignRules(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		family := "ip"
		if f == proxy.IPv6 {
			family = "ip6"
		}
		load(t, "nft", f, false, true)
		for _, rule := range []string{"filter INPUT ct state related,established accept", "nat POSTROUTING ct mark 1 accept",
			"nat PREROUTING fib daddr type local counter", "mangle KUBE-IPTABLES-HINT log prefix \"x\""} {
			run(t, "", "nft", append([]string{"add", "rule", family}, strings.Fields(rule)...)...)
		}
		run(t, fmt.Sprintf("table %s calico { chain kept { ct state new accept; }; set s { type ipv4_addr; }; }", family), "nft", "-f", "-")
		before := ruleset(t)
		load(t, "nft", f, true, false)
		if ruleset(t) == before {
			t.Fatal("nothing was loaded")
		}
		remove(t, f)
		if d := cmp.Diff(before, ruleset(t)); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// A chain that another program's chain uses stays as it is, and is named.
func TestKernelKeepWhatOthersUse(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		load(t, "nft", f, true, true)
		run(t, "*nat\n-A CNI-HOSTPORT-DNAT -j KUBE-MARK-MASQ\nCOMMIT\n", program("nft", f, "-restore"), "--noflush")
		var kept []string
		for _, o := range remove(t, f).Kept() {
			kept = append(kept, strings.Replace(o.String(), "ip6", "ip", 1))
		}
		if d := cmp.Diff([]string{"chain: ip nat KUBE-MARK-MASQ, used by chain CNI-HOSTPORT-DNAT"}, kept); d != "" {
			t.Errorf("kept: -want +got:\n%s", d)
		}
		var left []string
		for _, line := range save(t, "nft", f) {
			if strings.Contains(line, "MARK-MASQ") {
				left = append(left, line)
			}
		}
		if d := cmp.Diff([]string{"-A CNI-HOSTPORT-DNAT -j KUBE-MARK-MASQ", "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", ":KUBE-MARK-MASQ -"}, left); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// What such a chain leads to stays, too, or the chain would mean something else, and could not be removed later.
func TestKernelKeepWhatItLeadsTo(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		load(t, "nft", f, false, true)
		others := save(t, "nft", f)
		load(t, "nft", f, true, false)
		run(t, "*nat\n-A CNI-HOSTPORT-DNAT -j KUBE-EXT-NPX46M4PTMTKRN6Y\nCOMMIT\n", program("nft", f, "-restore"), "--noflush")
		var kept []string
		for _, o := range remove(t, f).Kept() {
			kept = append(kept, o.Name+" used by "+strings.Join(o.UsedBy, ", "))
		}
		want := []string{"KUBE-EXT-NPX46M4PTMTKRN6Y used by CNI-HOSTPORT-DNAT", "KUBE-SEP-AAAAAAAAAAAAAAAA used by KUBE-SVC-NPX46M4PTMTKRN6Y",
			"KUBE-SEP-QZ4QKJTZJTQEV3VB used by KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-SVC-NPX46M4PTMTKRN6Y used by KUBE-EXT-NPX46M4PTMTKRN6Y"}
		if d := cmp.Diff(want, kept); d != "" {
			t.Errorf("kept: -want +got:\n%s", d)
		}
		left := slices.DeleteFunc(save(t, "nft", f), func(line string) bool { return slices.Contains(others, line) })
		if !slices.Contains(left, ":KUBE-SEP-AAAAAAAAAAAAAAAA -") || len(left) != 4+5 { // the chains, and their rules with the one that leads there
			t.Errorf("left:\n%s", strings.Join(left, "\n"))
		}
	})
}

// ofIPVS finds the chains that only mode ipvs has, ofBoth those that mode iptables has, too.
var (
	ofIPVS = regexp.MustCompile(`KUBE-(NODE-PORT|LOAD-BALANCER|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER)\s`)
	ofBoth = regexp.MustCompile(`KUBE-(SERVICES|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL) `)
)

// Of mode ipvs only what is its own is removed where there is mode iptables, too; what both have goes if there is not.
func TestKernelRemoveOnlyModeIPVS(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, beside := range []bool{true, false} {
			each(t, func(t *testing.T, f proxy.Family) {
				loadLines(t, variant, f, func(line string, kubeProxy bool) bool { return !kubeProxy || beside && !ofIPVS.MatchString(line) })
				want := save(t, variant, f)
				proxytest.InNamespace(t, func() {
					loadLines(t, variant, f, func(line string, kubeProxy bool) bool {
						return !kubeProxy || beside || strings.HasPrefix(line, "!:") && (ofIPVS.MatchString(line) || ofBoth.MatchString(line))
					})
					found, err := leftovers.FindIptables(leftovers.Scope{IPVS: true}, f)
					legacy, err2 := leftovers.FindLegacy(leftovers.Scope{IPVS: true}, f)
					if err := errors.Join(err, err2); err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(found.Remove(), legacy.Remove()); err != nil {
						t.Error(err)
					}
					if d := cmp.Diff(want, save(t, variant, f)); d != "" {
						t.Errorf("%s, beside mode iptables %t: -want +got:\n%s", variant, beside, d)
					}
				})
			})
		}
	}
}

// More chains than fit one batch, and than the kernel's answers fit a socket's buffer.
func TestKernelRemoveMany(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		const many = 5000
		var chains, rules strings.Builder
		for n := range many {
			name := fmt.Sprintf("KUBE-SEP-%s", hash(n))
			fmt.Fprintf(&chains, ":%s - [0:0]\n", name)
			fmt.Fprintf(&rules, "-A KUBE-SERVICES -p tcp -m tcp --dport %d -j %s\n", n+1, name)
		}
		run(t, "*nat\n:KUBE-SERVICES - [0:0]\n"+chains.String()+rules.String()+"-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n", program("nft", f, "-restore"), "--noflush")
		if got := len(remove(t, f).Objects()); got != many+2 {
			t.Errorf("removed %d objects, want %d", got, many+2)
		}
		if got := run(t, "", "nft", "list", "ruleset"); strings.Contains(got, "KUBE-") {
			t.Errorf("left:\n%.2000s", got)
		}
	})
}

func hash(n int) string {
	out := []byte("AAAAAAAAAAAAAAAA")
	for i := len(out) - 1; n > 0; i-- {
		out[i] = byte('A' + n%26)
		n /= 26
	}
	return string(out)
}

// Without leftovers nothing is made, not even a table.
func TestKernelNothingThere(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		if got := remove(t, f).Objects(); len(got) != 0 {
			t.Errorf("found %v", got)
		}
		if found := findLegacy(t, f).Objects(); len(found) != 0 {
			t.Errorf("legacy: %v", found)
		}
		if got := run(t, "", "nft", "list", "ruleset"); got != "" {
			t.Errorf("there are rules now:\n%s", got)
		}
	})
}

// The chains of iptables-legacy are found and removed without its programs. Rules of others keep their counters.
func TestKernelRemoveLegacy(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		run(t, "", program("legacy", f, ""), "-t", "filter", "-A", "OUTPUT", "-p", "tcp", "-j", "DROP", "-c", "7", "420")
		load(t, "legacy", f, false, true)
		want := save(t, "legacy", f)
		proxytest.InNamespace(t, func() {
			run(t, "", program("legacy", f, ""), "-t", "filter", "-A", "OUTPUT", "-p", "tcp", "-j", "DROP", "-c", "7", "420")
			load(t, "legacy", f, true, true)
			before := save(t, "legacy", f)
			found := findLegacy(t, f)
			var got, ours []string
			for _, o := range found.Objects() {
				got = append(got, o.Table+" "+o.Name)
				if !o.Legacy || o.Family != f {
					t.Errorf("%v is of %v, legacy %t", o, o.Family, o.Legacy)
				}
			}
			table := ""
			for line := range strings.Lines(tables) {
				if name, ok := strings.CutPrefix(line, "*"); ok {
					table = strings.TrimSpace(name)
				}
				if name, ok := strings.CutPrefix(line, "!:"); ok {
					ours = append(ours, table+" "+strings.Fields(name)[0])
				}
			}
			slices.Sort(got)
			slices.Sort(ours)
			if d := cmp.Diff(ours, got); d != "" {
				t.Errorf("found: -want +got:\n%s", d)
			}
			if d := cmp.Diff(before, save(t, "legacy", f)); d != "" {
				t.Errorf("looking changed the tables: -want +got:\n%s", d)
			}
			if found := remove(t, f).Objects(); len(found) != 0 {
				t.Errorf("in the tables of nftables: %v", found)
			}
			if err := found.Remove(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, save(t, "legacy", f)); d != "" {
				t.Errorf("after removal: -want +got:\n%s", d)
			}
			if counters := run(t, "", program("legacy", f, "-save"), "-c", "-t", "filter"); !strings.Contains(counters, "[7:420] -A OUTPUT -p tcp -j DROP") {
				t.Errorf("the counters of another program's rule are gone:\n%s", counters)
			}
			if again := findLegacy(t, f); len(again.Objects()) != 0 {
				t.Errorf("found again: %v", again.Objects())
			}
		})
	})
}

func findLegacy(t *testing.T, f proxy.Family) *leftovers.Legacy {
	t.Helper()
	found, err := leftovers.FindLegacy(all, f)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What another program's chain leads to stays, with all that it leads to, but not the jumps by which packets came to it before; a rule without a target
// stays, too, though the one behind it goes.
func TestKernelKeepLegacyThatOthersUse(t *testing.T) {
	each(t, func(t *testing.T, f proxy.Family) {
		run(t, `*nat
:OTHER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-NODEPORTS
-A OUTPUT -p udp
-A OUTPUT -j KUBE-SERVICES
-A OUTPUT -p tcp
-A OUTPUT -g OTHER
-A KUBE-SERVICES -j KUBE-NODEPORTS
-A KUBE-SERVICES -j KUBE-POSTROUTING
-A KUBE-NODEPORTS -j KUBE-MARK-MASQ
-A OTHER -p tcp -g KUBE-NODEPORTS
COMMIT
`, program("legacy", f, "-restore"))
		found := findLegacy(t, f)
		var kept []string
		for _, o := range found.Kept() {
			kept = append(kept, o.Name)
		}
		slices.Sort(kept)
		if d := cmp.Diff([]string{"KUBE-MARK-MASQ", "KUBE-NODEPORTS"}, kept); d != "" {
			t.Errorf("kept: -want +got:\n%s", d)
		}
		if err := found.Remove(); err != nil {
			t.Fatal(err)
		}
		want := []string{"*nat", "-A KUBE-NODEPORTS -j KUBE-MARK-MASQ", "-A OTHER -p tcp -g KUBE-NODEPORTS", "-A OUTPUT -g OTHER", "-A OUTPUT -p tcp", "-A OUTPUT -p udp",
			":INPUT ACCEPT", ":KUBE-MARK-MASQ -", ":KUBE-NODEPORTS -", ":OTHER -", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":PREROUTING ACCEPT", "COMMIT"}
		if d := cmp.Diff(want, save(t, "legacy", f)); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}
