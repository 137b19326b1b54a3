package compat

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// What is said to be in the way is what keeps iptables-nft from listing the table, one rule at a time.
func TestKernelStrange(t *testing.T) {
	for _, rule := range []string{
		"ct state established accept", "ct mark 3 accept", "log prefix x", "log group 3", "fib daddr type local accept", "quota 3 mbytes", "masquerade",
		"limit rate 3/second", "meta mark 3 accept", "tcp dport 80 accept", "tcp dport {1,2} accept", "ip saddr 1.2.3.4-1.2.3.9 accept", "meta pkttype host accept",
		"iifname wt0 accept", "counter", "numgen random mod 2 vmap { 0 : accept, 1 : accept }", "tcp flags syn accept", "snat to 192.0.2.1",
	} {
		t.Run(rule, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				proxytest.Command(t, "iptables-nft -t nat -A POSTROUTING -p tcp --dport 22 -j ACCEPT")
				proxytest.Command(t, "nft add rule ip nat POSTROUTING "+rule)
				rules, err := New(proxy.IPv4).Rules("nat", "POSTROUTING")
				if err != nil || len(rules) != 2 {
					t.Fatalf("%v, %v", rules, err)
				}
				if len(rules[0].Strange) > 0 {
					t.Errorf("the rule of iptables is strange: %v", rules[0])
				}
				unreadable := strings.Contains(proxytest.Command(t, "iptables-nft-save -t nat"), "is incompatible")
				if got := len(rules[1].Strange) > 0; got != unreadable {
					t.Errorf("%v: want strange: %t", rules[1], unreadable)
				}
			})
		})
	}
}

func TestKernelReader(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) { proxytest.InNamespace(t, func() { reader(t, f) }) })
	}
}

func reader(t *testing.T, f proxy.Family) {
	program, family := "iptables-nft", "ip"
	if f == proxy.IPv6 {
		program, family = "ip6tables-nft", "ip6"
	}
	r := New(f)
	if chains, err := r.Chains("nat"); err != nil || len(chains) != 0 {
		t.Fatalf("%v, %v in an empty namespace", chains, err)
	}
	before, err := Generation()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-N MINE", "-A OUTPUT -j MINE", "-A OUTPUT -p tcp -g MINE", "-A OUTPUT -j ACCEPT"} {
		proxytest.Command(t, program+" -t nat "+args)
	}
	proxytest.Command(t, "nft add rule "+family+" nat OUTPUT ct mark 1 accept comment vpn")
	after, err := Generation()
	if err != nil || after == before {
		t.Errorf("generation %d, then %d, %v", before, after, err)
	}
	chains, err := r.Chains("nat", "filter")
	slices.SortFunc(chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	if diff := cmp.Diff([]Chain{{"nat", "MINE", false}, {"nat", "OUTPUT", true}}, chains); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	rules, err := r.Rules("nat", "OUTPUT")
	if err != nil || len(rules) != 4 {
		t.Fatalf("%v, %v", rules, err)
	}
	for i, want := range []string{"MINE", "MINE", "", ""} {
		if rules[i].Jump != want {
			t.Errorf("%v leads to %q, want %q", rules[i], rules[i].Jump, want)
		}
	}
	if text := rules[3].String(); !strings.HasSuffix(text, `of chain OUTPUT in table nat (with ct; comment "vpn")`) {
		t.Error(text)
	}
	if err := r.Delete(rules[0], rules[3]); err != nil {
		t.Fatal(err)
	}
	left, err := r.Rules("nat", "OUTPUT")
	if diff := cmp.Diff([]Rule{rules[1], rules[2]}, left); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if err := r.Delete(rules[0]); err == nil {
		t.Error("a rule that is gone was deleted")
	}
}

func FuzzGeneration(f *testing.F) {
	f.Add(make([]byte, 28))
	f.Add([]byte{28, 0, 0, 0, 15, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 5})
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = generationIn(b) })
}

// The same for what packets meet that come in, where the kernel permits other expressions.
func TestKernelStrangeInput(t *testing.T) {
	for _, rule := range []string{
		"socket transparent 1 accept", "ct count over 20 drop", "tcp option maxseg size 1200 accept", "tcp option maxseg size set 1200", "rt classid 1 accept",
		"jhash ip saddr mod 2 vmap { 0 : accept, 1 : drop }", "dup to 192.0.2.1", "notrack", "ct mark set 3", "synproxy mss 1460", "osf name Linux accept", "reject",
		"meta time < 3 accept", "log flags all", "tcp dport vmap { 1 : accept }", "return", "meta length > 100 accept", "meta protocol ip accept", "meta priority 1:2 accept",
		"meta iiftype ether accept", "meta oiftype ether accept", "meta skuid 3 accept", "meta cpu 1 accept", "meta iifgroup 1 accept", "meta cgroup 3 accept", "meta mark set 3",
		"meta priority set 1:2", "meta nftrace set 1", "meta l4proto tcp accept", "iif lo accept", "oif lo accept", "ip frag-off & 0x1fff != 0 accept",
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			proxytest.InNamespace(t, func() {
				proxytest.Command(t, "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT")
				if out, err := exec.Command("nft", "add rule ip filter INPUT "+rule).CombinedOutput(); err != nil {
					t.Skipf("this kernel, or this nft, does not know it: %v: %s", err, out)
				}
				rules, err := New(proxy.IPv4).Rules("filter", "INPUT")
				if err != nil || len(rules) != 2 {
					t.Fatalf("%v, %v", rules, err)
				}
				out, err := exec.Command("iptables-nft-save", "-t", "filter").CombinedOutput()
				unreadable := err != nil || strings.Contains(string(out), "is incompatible")
				if got := len(rules[1].Strange) > 0; got != unreadable {
					t.Errorf("%v: want strange: %t", rules[1], unreadable)
				}
			})
		})
	}
}

// What a rule says about its author is told; a rule that says nothing is nobody's.
func TestKernelOwner(t *testing.T) {
	for rule, want := range map[string]string{
		"iifname wt0 ct state established accept":            "NetBird",
		"oifname tailscale0 fib daddr type local accept":     "Tailscale",
		"ct state new log prefix ufw-block":                  "ufw",
		"ct mark 7 accept comment \"cali:0i8pjzKKPyA34aQD\"": "Calico",
		"ct state new jump DOCKER-USER":                      "Docker",
		"iifname eth0 ct state established,related accept":   "",
		"ct state established accept comment mine":           "",
	} {
		t.Run(rule, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				proxytest.Command(t, "iptables-nft -N DOCKER-USER")
				proxytest.Command(t, "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT")
				proxytest.Command(t, "nft add rule ip filter INPUT "+rule)
				rules, err := New(proxy.IPv4).Rules("filter", "INPUT")
				if err != nil || len(rules) != 2 {
					t.Fatalf("%v, %v", rules, err)
				}
				if rules[0].Owner != "" || rules[1].Owner != want {
					t.Errorf("owners %q and %q, want none and %q", rules[0].Owner, rules[1].Owner, want)
				}
				if text := rules[1].String(); (want != "") != strings.Contains(text, "; it looks like one of "+want) {
					t.Error(text)
				}
			})
		})
	}
}

func FuzzNames(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 7, 16, 0, 4, 0x80, 12, 0, 1, 0x80, 7, 0, 1, 0, 'c', 't', 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if handle, names := namesIn(b); len(b) < 24 && len(names) > 0 {
			t.Errorf("handle %d, names %q in %d bytes", handle, names, len(b))
		}
	})
}

func TestNames(t *testing.T) {
	handle, names := namesIn([]byte{2, 0, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 7, 16, 0, 4, 0x80, 12, 0, 1, 0x80, 7, 0, 1, 0, 'c', 't', 0, 0})
	if handle != 7 || !slices.Equal(names, []string{"ct"}) {
		t.Errorf("handle %d, names %q", handle, names)
	}
}
