package iptables

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// What the programs of iptables-nft do with a table that has a rule which they cannot read. This package relies on what works, and must not rely on what does not: a
// version in which a row differs is to be looked at. What `-S` of one chain and `-C` say is not the same in all versions, so only that they fail is.
func TestProgramFacts(t *testing.T) {
	const foreign = "nft insert rule ip filter INPUT ct state related,established accept"
	for _, row := range []struct {
		name    string
		command string // after the foreign rule was put above what is there
		fails   bool
		says    string
	}{
		{"listing a chain", "iptables-nft -t filter -S INPUT", true, "is incompatible, use 'nft' tool"},
		{"listing a table", "iptables-nft -t filter -S", true, "is incompatible, use 'nft' tool"},
		{"listing another table", "iptables-nft -t nat -S", false, "-A OUTPUT -j KUBE-SERVICES"},
		{"listing one of our chains", "iptables-nft -t filter -S KUBE-FORWARD", false, "-A KUBE-FORWARD -j ACCEPT"},
		{"saving: no rules, only a comment, and success", "iptables-nft-save -t filter", false, "is incompatible, use 'nft' tool"},
		{"looking for a rule behind it", "iptables-nft -C INPUT -p tcp -m tcp --dport 22 -j ACCEPT", true, ""},
		{"deleting a rule behind it", "iptables-nft -D INPUT -p tcp -m tcp --dport 22 -j ACCEPT", true, ""},
		{"inserting a rule", "iptables-nft -I INPUT -p tcp --dport 23 -j ACCEPT", false, ""},
		{"adding a rule", "iptables-nft -A INPUT -p tcp --dport 23 -j ACCEPT", false, ""},
		{"making a chain", "iptables-nft -N KUBE-OTHER", false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			proxytest.InNamespace(t, func() {
				withForeignRule(t, foreign)
				out, err := exec.Command("sh", "-c", row.command).CombinedOutput()
				if (err != nil) != row.fails || !strings.Contains(string(out), row.says) {
					t.Errorf("%v, %s; want an error: %t, %q", err, out, row.fails, row.says)
				}
				if strings.Contains(string(out), "*filter") {
					t.Errorf("it can be saved, so this test shows nothing:\n%s", out)
				}
			})
		})
	}
}

// withForeignRule makes rules with iptables-nft, and one with nft; it skips the test where the programs are missing.
func withForeignRule(t *testing.T, foreign string) {
	t.Helper()
	o := Options{Family: proxy.IPv4, Variant: NFT}
	o.setDefaults()
	if _, err := findPrograms(t.Context(), &o, NFT); err != nil {
		t.Skip(err)
	}
	for _, c := range []string{
		"IPT -A INPUT -p tcp --dport 22 -j ACCEPT", "IPT -N KUBE-FORWARD", "IPT -A KUBE-FORWARD -j ACCEPT", "IPT -A FORWARD -j KUBE-FORWARD",
		"IPT -t nat -N KUBE-SERVICES", "IPT -t nat -A OUTPUT -j KUBE-SERVICES", "IPT -t nat -A POSTROUTING -p tcp --dport 9 -j ACCEPT", foreign,
	} {
		run(t, o, c)
	}
}

// Cleaning up by saving a table, and restoring it without what is to go, removes nothing from a table that cannot be read, and says that all went well. The cleanup
// here does not.
func TestCleanupOfUnreadableTables(t *testing.T) {
	for _, foreign := range []string{"nft add rule ip nat POSTROUTING ct state established accept", "nft insert rule ip filter FORWARD ct mark 1 accept"} {
		t.Run(foreign, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				withForeignRule(t, foreign)
				o := Options{Family: proxy.IPv4, Variant: NFT}
				table := strings.Fields(foreign)[4]
				if out, err := exec.Command("sh", "-c", "iptables-nft-save | grep -v KUBE- | iptables-nft-restore").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if left := run(t, o, "nft list table ip "+table); strings.Count(left, "KUBE-") != 2 {
					t.Fatalf("of table %s there is left, want a chain of ours and what leads to it:\n%s", table, left)
				}
				b, err := Open(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Cleanup(t.Context()); err != nil {
					t.Error(err)
				}
				if left := run(t, o, "nft list ruleset"); strings.Contains(left, "KUBE-") || !strings.Contains(left, "accept") {
					t.Errorf("left over:\n%s", left)
				}
			})
		})
	}
}

// A program that cannot read a table is told with the rule that is in its way.
func TestBrokenByRule(t *testing.T) {
	path := shims(t, nftNames, `echo "iptables v1.8.4 (nf_tables)"`, `echo "iptables-nft-restore v1.8.4 (nf_tables): table 'filter' is incompatible, use 'nft' tool." >&2; exit 1`)
	proxytest.InNamespace(t, func() {
		withForeignRule(t, "nft add rule ip filter INPUT iifname wt0 ct state established accept")
		_, err := New(t.Context(), Options{Family: proxy.IPv4, Variant: NFT, Path: path})
		if kindOf(err) != Incompatible {
			t.Fatal(err)
		}
		for _, want := range []string{"iptables-nft-restore 1.8.4 cannot read", "table 'filter'", "in the way: rule handle ", "of chain INPUT in table filter (with ct; it looks like one of NetBird)", "mode nftables", "newer version"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
	})
}

// A program that prints no rules but that a table is incompatible, and ends with success, is not believed: the table is not taken for an empty one.
func TestSaveWithoutRules(t *testing.T) {
	names := []string{"iptables-legacy", "iptables-legacy-restore", "iptables-legacy-save"}
	path := shims(t, names, `echo "iptables v1.8.4 (legacy)"`, "echo \"# Table \\`nat' is incompatible, use 'nft' tool.\"; [ ! -t 0 ] && cat >/dev/null; exit 0")
	b, err := New(t.Context(), Options{Family: proxy.IPv4, Variant: Legacy, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Apply(t.Context(), proxytest.NewState(proxy.IPv4))
	var e *Error
	if !errors.As(err, &e) || e.Kind != Incompatible || !strings.Contains(err.Error(), "table nat cannot be read") {
		t.Errorf("%v", err)
	}
}
