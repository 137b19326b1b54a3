package survey

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

func run(t *testing.T, command string) {
	t.Helper()
	words := strings.Fields(command)
	if _, err := exec.LookPath(words[0]); err != nil {
		t.Skipf("needs %s: %v", words[0], err)
	}
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// Rules that change a destination are found wherever they are in a table of type nat, natively or of iptables; others, and those of chains that
// are skipped, are not.
func TestKernelTables(t *testing.T) {
	proxytest.InNamespace(t, func() {
		for _, command := range []string{
			"iptables-nft -t nat -N CNI-HOSTPORT-DNAT", "iptables-nft -t nat -A PREROUTING -j CNI-HOSTPORT-DNAT",
			"iptables-nft -t nat -A CNI-HOSTPORT-DNAT -p tcp --dport 80 -j DNAT --to-destination 192.0.2.1:80",
			"iptables-nft -t nat -A OUTPUT -p tcp --dport 81 -j REDIRECT --to-ports 82", "iptables-nft -t nat -A POSTROUTING -j MASQUERADE",
			"iptables-nft -t nat -N SKIPPED", "iptables-nft -t nat -A SKIPPED -p tcp -j DNAT --to-destination 192.0.2.1:80",
			"iptables-nft -A INPUT -j ACCEPT",
			"nft add table inet first", "nft add chain inet first pre { type nat hook prerouting priority -150 ; }", "nft add rule inet first pre tcp dport 80 redirect to :81",
			"nft add chain inet first out { type nat hook output priority -100 ; }", "nft add chain inet first src { type nat hook postrouting priority 100 ; }",
			"nft add rule inet first src snat ip to 192.0.2.1", "nft add table ip6 other",
		} {
			run(t, command)
		}
		skip := func(table, chain string) bool { return table == "nat" && chain == "SKIPPED" }
		got, err := Tables(proxy.IPv4, skip)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range got {
			slices.Sort(table.Chains)
			slices.Sort(table.Translating)
			slices.SortFunc(table.Hooks, func(a, b Hook) int { return strings.Compare(a.Chain, b.Chain) })
		}
		slices.SortFunc(got, func(a, b *Table) int { return strings.Compare(a.String(), b.String()) })
		want := []*Table{
			{Family: "inet", Name: "first", Chains: []string{"out", "pre", "src"}, Hooks: []Hook{{"out", true, -100}, {"pre", false, -150}}, Translating: []string{"pre"}},
			{Family: "ip", Name: "filter", Chains: []string{"INPUT"}},
			{Family: "ip", Name: "nat", Chains: []string{"CNI-HOSTPORT-DNAT", "OUTPUT", "POSTROUTING", "PREROUTING", "SKIPPED"},
				Hooks: []Hook{{"OUTPUT", true, -100}, {"PREROUTING", false, -100}}, Translating: []string{"CNI-HOSTPORT-DNAT", "OUTPUT"}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if got, err := Tables(proxy.IPv6, skip); err != nil || len(got) != 2 || got[0].String() != "ip6 other" {
			t.Errorf("%v, %v for IPv6", got, err)
		}
	})
}
