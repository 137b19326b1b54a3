package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestForeignPrograms starts the proxy in one mode after the other, on a node full of rules of other programs, some of which the programs of iptables cannot read,
// and at last cleans up: nobody else's rule is changed or made anew, iptables-nft says of each table what it said before, and Services work throughout.
func TestForeignPrograms(t *testing.T) {
	t.Parallel()
	needs(t, "nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	c.settleForeigners()
	before, own := c.rulesOfOthers()
	if len(before) < 300 || len(own) > 0 {
		t.Fatalf("%d rules of others and %d of a proxy, want many and none", len(before), len(own))
	}
	unchanged := func(when string, modes ...string) {
		t.Helper()
		others, own := c.rulesOfOthers()
		if diff := cmp.Diff(before, others); diff != "" {
			t.Fatalf("%s: rules of others (-before +now):\n%s", when, diff)
		}
		if now := ownModes(own); !slices.Equal(now, modes) {
			t.Fatalf("%s: there are rules of modes %q, want %q", when, now, modes)
		}
	}
	listings := c.listings()
	for _, unreadable := range []string{"iptables-nft -t filter", "ip6tables-nft -t nat", "iptables-nft -t mangle"} {
		if !strings.Contains(listings[unreadable], "exit status 1") {
			t.Fatalf("%s can list the table, so this test shows less than it should: %s", unreadable, listings[unreadable])
		}
	}
	for i, mode := range []string{"nftables", "iptables-nft", "iptables-legacy", "nftables", "iptables-nft"} {
		_, variant, _ := strings.Cut(mode, "-")
		c.hint(variant)
		p := c.start("--proxy-mode="+proxyOf(mode), "--nodeport-addresses=primary", "--iptables-min-sync-period=10ms")
		eventually(t, "only mode "+mode+" has rules", func() bool {
			_, own := c.rulesOfOthers()
			return slices.Equal(ownModes(own), []string{mode})
		})
		unchanged("after the start of mode "+mode, mode)
		c.reachable("in mode " + mode)
		if i < 3 {
			for _, pod := range []string{"pod-3", "pod-4", "pod-5"} {
				c.set(c.stock(pod)...)
				p.follow()
			}
			unchanged("after three syncs in mode "+mode, mode)
		}
		if i == 0 {
			if diff := cmp.Diff(listings, c.listings()); diff != "" {
				t.Errorf("what iptables-nft lists, with mode nftables running (-before +now):\n%s", diff)
			}
		}
		p.stop()
		if i < 2 { // its rules stay until those of the next are there
			continue
		}
		if got := c.onNode("cleanup"); got.code != 0 {
			t.Errorf("cleanup: %+v", got)
		}
		unchanged("after the cleanup of mode " + mode)
	}
}

func proxyOf(mode string) string {
	name, _, _ := strings.Cut(mode, "-")
	return name
}

// listings are what iptables-nft says of each table, with its exit status.
func (c *cluster) listings() map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		for _, table := range []string{"filter", "nat", "mangle", "raw", "security"} {
			said, err := c.trySh(fmt.Sprintf("%s -t %s -S", program, table))
			out[program+" -t "+table] = fmt.Sprint(said, err)
		}
	}
	return out
}
