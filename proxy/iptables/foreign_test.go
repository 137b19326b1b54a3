package iptables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

func kindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return 255
}

var counts = regexp.MustCompile(`counter packets \d+ bytes \d+ `)

// nftRules lists the rules of the kernel's own chains, as nft shows them, without counters and without ours.
func nftRules(t *testing.T, o Options) (foreign, jumps []string) {
	t.Helper()
	family := map[proxy.Family]string{proxy.IPv4: "ip", proxy.IPv6: "ip6"}[o.Family]
	for table, chains := range builtin {
		text := run(t, o, "nft -a list table "+family+" "+table)
		chain := ""
		for l := range strings.Lines(text) {
			words := strings.Fields(l)
			switch {
			case len(words) > 1 && words[0] == "chain":
				chain = words[1]
			case !slices.Contains(chains, chain) || len(words) < 3 || !strings.Contains(l, "# handle"):
			case strings.Contains(l, "jump KUBE-"):
				jumps = append(jumps, fmt.Sprint(table, chain, l))
			default:
				foreign = append(foreign, fmt.Sprint(table, " ", chain, " ", counts.ReplaceAllString(strings.TrimSpace(l), "")))
			}
		}
	}
	slices.Sort(foreign)
	return foreign, jumps
}

// With rules in its tables that iptables-nft cannot read, the mode programs, changes, heals and cleans up as always; what is in the way is told, and stays.
func TestUnreadableTables(t *testing.T) {
	for _, f := range proxy.Families {
		for _, table := range tables {
			rules := []string{"ct state related,established accept", "fib daddr type local accept"}
			if table == filter {
				rules = append(rules, "ct mark 7 accept", "log prefix vpn", "numgen random mod 2 vmap { 0 : accept, 1 : accept }")
			}
			for _, rule := range rules {
				t.Run(fmt.Sprintf("%s/%s/%s", f, table, rule), func(t *testing.T) {
					t.Parallel()
					unreadable(t, Options{Family: f, Variant: NFT}, table, rule)
				})
			}
		}
	}
}

func unreadable(t *testing.T, o Options, table, rule string) {
	o.setDefaults()
	if _, err := findPrograms(t.Context(), &o, NFT); err != nil {
		t.Skip(err)
	}
	n := newNode(t, o)
	if err := n.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	family := map[proxy.Family]string{proxy.IPv4: "ip", proxy.IPv6: "ip6"}[o.Family]
	base := builtin[table][len(builtin[table])-1] // OUTPUT or POSTROUTING
	var foreign []string
	n.do(func() error {
		for _, tt := range tables { // the chains exist, with a rule of iptables itself
			run(t, o, "IPT -t "+tt+" -A "+builtin[tt][0]+" -p tcp --dport 9 -j ACCEPT")
			run(t, o, "IPT -t "+tt+" -A "+builtin[tt][len(builtin[tt])-1]+" -p tcp --dport 9 -j ACCEPT")
		}
		run(t, o, "nft add rule "+family+" "+table+" "+base+" "+rule)
		foreign, _ = nftRules(t, o)
		return nil
	})
	rng := rand.New(rand.NewPCG(9, uint64(o.Family)))
	state := proxytest.NewState(o.Family, proxytest.NewService("ns/web/TCP",
		proxytest.At(proxy.ClusterIP, map[proxy.Family]string{proxy.IPv4: "10.96.0.1:80", proxy.IPv6: "[fd00:10:96::1]:80"}[o.Family], proxytest.Internal),
		proxytest.On(map[proxy.Family]string{proxy.IPv4: "10.244.1.3:8080 local", proxy.IPv6: "[fd00:10:244:1::3]:8080 local"}[o.Family])))
	for step := range 3 {
		n.apply(state)
		n.do(func() error {
			if step == 1 { // somebody flushes what he can: the rules are lost
				run(t, o, "nft flush chain "+family+" nat PREROUTING")
				foreign, _ = nftRules(t, o)
				damage, err := n.backend.Check(t.Context())
				if damage == "" || err != nil {
					t.Errorf("damage %q, %v", damage, err)
				}
				n.backend.Forget()
				mustApply(t, n.backend, state)
			}
			left, jumps := nftRules(t, o)
			if diff := cmp.Diff(foreign, left); diff != "" || len(jumps) != len(Jumps) {
				t.Errorf("step %d: %d jumps, want %d; foreign rules -before +after:\n%s", step, len(jumps), len(Jumps), diff)
			}
			obstacles, err := n.backend.Obstacles()
			if err != nil || len(obstacles) != 1 || !strings.Contains(obstacles[0], "of chain "+base+" in table "+table) {
				t.Errorf("obstacles: %v, %v", obstacles, err)
			}
			return nil
		})
		if out := n.Client().Dial(proxy.TCP, clusterIP(state), lab.DialOptions{}); out.Result != lab.Connected {
			t.Errorf("step %d: %v", step, out)
		}
		state = withMore(rng, state)
	}
	n.do(func() error {
		if err := n.backend.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
		left, jumps := nftRules(t, o)
		if diff := cmp.Diff(foreign, left); diff != "" || len(jumps) != 0 {
			t.Errorf("cleanup left %v; -before +after:\n%s", jumps, diff)
		}
		return nil
	})
}

func clusterIP(s *proxy.State) netip.AddrPort {
	web, _ := s.Services.Get(proxytest.Name("ns/web/TCP"))
	return netip.AddrPortFrom(web.Frontends[0].Addr, web.Frontends[0].Port)
}

// withMore is a State with some Services more.
func withMore(rng *rand.Rand, s *proxy.State) *proxy.State {
	next := *s
	web, _ := s.Services.Get(proxytest.Name("ns/web/TCP"))
	next.Services = proxytest.RandomState(rng, s.Family, 5).Services.Set(web.Name, web)
	return &next
}
