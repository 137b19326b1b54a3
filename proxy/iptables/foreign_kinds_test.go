package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/proxytest"
)

// Rules as other programs write them with nft, and whether iptables-nft can list a table that has them.
var foreignKinds = []struct {
	rule     string
	readable bool
}{
	{"ct state related,established accept", false},
	{"ct mark 7 accept", false},
	{"fib daddr type local accept", false},
	{"log prefix vpn", false},
	{"meta skuid 3 accept", false},
	{"numgen random mod 2 vmap { 0 : accept, 1 : accept }", false},
	{"meta mark 7 accept", true},
	{"tcp dport { 22, 23 } accept", true},
	{"iifname eth7 accept", true},
	{"meta pkttype multicast accept", true},
	{"limit rate 3/second accept", true},
	{"ip46 saddr . tcp dport vmap { ADDR . 22 : accept }", true},
	{"tcp dport 7 meta nftrace set 1", true},
}

// listed is what nft lists of a table's base chain, with handles and without counters and our jumps.
func listed(t *testing.T, o Options, table, chain string) (out []string) {
	t.Helper()
	for l := range strings.Lines(run(t, o, "nft -a list chain "+in(o.Family, "ip ", "ip6 ")+table+" "+chain)) {
		if strings.Contains(l, "# handle") && !strings.Contains(l, "jump KUBE-") && !strings.Contains(l, "chain ") {
			out = append(out, counts.ReplaceAllString(strings.TrimSpace(l), ""))
		}
	}
	return out
}

// Every kind of rule that another program may have written natively, in each table and family: the mode programs, resyncs, heals and cleans up beside it, adds no jump
// twice, tells just those that keep the programs from reading the table, and leaves all of them as they are.
func TestForeignKinds(t *testing.T) {
	for _, f := range proxy.Families {
		for _, table := range append(slices.Clone(tables[:]), "raw") {
			t.Run(f.String()+"/"+table, func(t *testing.T) {
				t.Parallel()
				o := Options{Family: f, Variant: NFT}
				o.setDefaults()
				if _, err := findPrograms(t.Context(), &o, NFT); err != nil {
					t.Skip(err)
				}
				proxytest.InNamespace(t, func() { besideForeignKinds(t, o, table) })
			})
		}
	}
}

func besideForeignKinds(t *testing.T, o Options, table string) {
	var told map[string][]string
	o.Obstructed = func(rules map[string][]string) { told = rules }
	for _, tt := range append(slices.Clone(tables[:]), "raw") { // the chains exist, with a rule of iptables itself
		run(t, o, "IPT -t "+tt+" -A OUTPUT -p tcp --dport 9 -j ACCEPT")
	}
	unreadable := 0
	for _, k := range foreignKinds {
		rule := strings.NewReplacer("ip46", in(o.Family, "ip", "ip6"), "ADDR", in(o.Family, "192.0.2.1", "2001:db8::1")).Replace(k.rule)
		run(t, o, "nft add rule "+in(o.Family, "ip ", "ip6 ")+table+" OUTPUT "+rule)
		if !k.readable {
			unreadable++
		}
	}
	if out, err := exec.Command(in(o.Family, "iptables-nft", "ip6tables-nft"), "-t", table, "-S").CombinedOutput(); err == nil {
		t.Fatalf("the table can be listed, so this test shows nothing:\n%s", out)
	}
	foreign := listed(t, o, table, "OUTPUT")
	if len(foreign) != len(foreignKinds)+1 {
		t.Fatalf("%d rules, want %d:\n%s", len(foreign), len(foreignKinds)+1, strings.Join(foreign, "\n"))
	}
	b := newKernelBackend(t, o)
	rng := rand.New(rand.NewPCG(12, uint64(o.Family)))
	state := proxytest.RandomState(rng, o.Family, 5)
	for step := range 4 {
		mustApply(t, b, state)
		if _, jumps := nftRules(t, o); len(jumps) != len(Jumps) {
			t.Errorf("step %d: %d jumps, want %d", step, len(jumps), len(Jumps))
		}
		if diff := cmp.Diff(foreign, listed(t, o, table, "OUTPUT")); diff != "" {
			t.Errorf("step %d: -before +after:\n%s", step, diff)
		}
		switch step {
		case 0:
			state = proxytest.Mutate(rng, state, 3)
		case 1:
			b.Forget()
		case 2: // all that is ours in one chain is lost
			lost := map[string]string{nat: "nat KUBE-SERVICES", filter: "filter KUBE-FORWARD", mangle: "mangle KUBE-PROXY-CANARY", "raw": "nat KUBE-POSTROUTING"}
			run(t, o, "nft flush chain "+in(o.Family, "ip ", "ip6 ")+lost[table])
			if damage, err := b.Check(t.Context()); damage == "" || err != nil {
				t.Errorf("damage %q, %v", damage, err)
			}
			b.Forget()
		}
	}
	if table == "raw" { // where this mode has nothing to do
		unreadable = 0
	}
	if n := len(slices.Concat(slices.Collect(maps.Values(told))...)); n != unreadable || len(told[table]) != unreadable || len(told) < len(tables) {
		t.Errorf("told %q, want %d rules of table %s", told, unreadable, table)
	}
	if err := b.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(foreign, listed(t, o, table, "OUTPUT")); diff != "" {
		t.Errorf("after the cleanup: -before +after:\n%s", diff)
	}
	if text := run(t, o, "nft list ruleset"); strings.Contains(text, "KUBE-") {
		t.Errorf("left over:\n%s", text)
	}
}

// Twenty resyncs under a rule that another program put above ours: each jump is there once, at the place where it was put, and so are the other program's rules.
func TestResyncsUnderForeignRule(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		state := proxytest.RandomState(rand.New(rand.NewPCG(13, uint64(o.Family))), o.Family, 5)
		b := newKernelBackend(t, o)
		mustApply(t, b, state)
		if o.Variant == NFT {
			run(t, o, "nft insert rule "+in(o.Family, "ip", "ip6")+" nat PREROUTING ct state established counter accept")
			run(t, o, "nft insert rule "+in(o.Family, "ip", "ip6")+" filter FORWARD ct state established counter accept")
		} else {
			run(t, o, "IPT -t nat -I PREROUTING -m conntrack --ctstate ESTABLISHED -j ACCEPT")
			run(t, o, "IPT -t filter -I FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT")
		}
		before := topRules(t, o)
		if n := strings.Count(strings.Join(before, "\n"), "KUBE-"); n != len(Jumps) {
			t.Fatalf("%d jumps, want %d:\n%s", n, len(Jumps), strings.Join(before, "\n"))
		}
		for i := range 20 {
			if i%2 == 0 {
				b = newKernelBackend(t, o)
			} else {
				b.Forget()
			}
			mustApply(t, b, state)
			if diff := cmp.Diff(before, topRules(t, o)); diff != "" {
				t.Fatalf("after %d resyncs: -before +after:\n%s", i+1, diff)
			}
		}
	})
}

// topRules lists the rules of the kernel's own chains in their order, without counters: of iptables-nft by nft, since the programs cannot read them.
func topRules(t *testing.T, o Options) (out []string) {
	t.Helper()
	for _, table := range tables {
		for _, chain := range builtin[table] {
			command := "IPT -t " + table + " -S " + chain
			if o.Variant == NFT {
				command = "nft -a list table " + in(o.Family, "ip ", "ip6 ") + table
			}
			at := ""
			for l := range strings.Lines(run(t, o, command)) {
				words := strings.Fields(l)
				if len(words) > 1 && words[0] == "chain" {
					at = words[1]
				}
				if (o.Variant == NFT && at == chain || o.Variant == Legacy) && len(words) > 2 && words[0] != "chain" {
					out = append(out, fmt.Sprint(table, " ", chain, ": ", counts.ReplaceAllString(strings.TrimSpace(l), "")))
				}
			}
		}
	}
	return out
}

// What is in the way is told when all is written, again when it changes, and when it is gone; with iptables-legacy nothing can be.
func TestObstructed(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		var told []map[string][]string
		o.Obstructed = func(rules map[string][]string) { told = append(told, rules) }
		b := newKernelBackend(t, o)
		state := proxytest.NewState(o.Family)
		next := func(what string, apply bool) map[string][]string {
			t.Helper()
			told = nil
			if apply {
				mustApply(t, b, state)
			}
			for range 2 {
				if damage, err := b.Check(t.Context()); damage != "" || err != nil {
					t.Errorf("%s: damage %q, %v", what, damage, err)
				}
			}
			if len(told) > 1 {
				t.Errorf("%s: told %d times", what, len(told))
			}
			if len(told) == 0 {
				return nil
			}
			return told[0]
		}
		none := map[string][]string{nat: nil, filter: nil, mangle: nil}
		if diff := cmp.Diff(none, next("at first", true)); diff != "" {
			t.Errorf("at first: -want +got:\n%s", diff)
		}
		b.Forget()
		if got := next("rebuilt", true); got != nil {
			t.Errorf("told again: %v", got)
		}
		if o.Variant == Legacy {
			return
		}
		family := in(o.Family, "ip", "ip6")
		run(t, o, "nft add rule "+family+" filter FORWARD iifname wt0 ct state established accept")
		got := next("with a rule", false)
		if len(got) != 3 || len(got[nat]) != 0 || len(got[mangle]) != 0 || len(got[filter]) != 1 || !strings.HasSuffix(got[filter][0], "of chain FORWARD in table filter (with ct; it looks like one of NetBird)") {
			t.Errorf("with a rule: %q", got)
		}
		if got := next("nothing new", false); got != nil {
			t.Errorf("told again: %v", got)
		}
		b.Forget() // as after an error: the rules are not known, but what is in the way is
		run(t, o, "nft flush chain "+family+" filter FORWARD")
		if diff := cmp.Diff(none, next("without it", false)); diff != "" {
			t.Errorf("without it: -want +got:\n%s", diff)
		}
	})
}

// unreadableKernel is a kernel in which nobody can look for obstacles.
type unreadableKernel struct{ *fakeKernel }

var errUnreadable = errors.New("cannot look")

func (unreadableKernel) obstacles() (_ []compat.Rule, err error) { return nil, errUnreadable }

// That obstacles cannot be looked for keeps nothing from being written or mended, and is told once nothing else is wrong.
func TestObstaclesUnknown(t *testing.T) {
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4, Obstructed: func(map[string][]string) { t.Error("told what is not known") }}, unreadableKernel{k})
	mustApply(t, b, proxytest.NewState(proxy.IPv4))
	if damage, err := b.Check(context.Background()); damage != "" || !errors.Is(err, errUnreadable) {
		t.Errorf("%q, %v", damage, err)
	}
	k.tables[nat]["PREROUTING"] = nil
	if damage, err := b.Check(context.Background()); damage == "" || err != nil {
		t.Errorf("%q, %v", damage, err)
	}
}
