package leftovers

import (
	"fmt"
	"slices"

	"turnout/proxy"
	"turnout/proxy/iptables"
)

// LegacyTable is a table of iptables-legacy, whoever wrote it.
type LegacyTable struct {
	Name string
	// Chains are those that programs made.
	Chains []string
	// Targets are what the rules of a chain end in, besides verdicts and other chains, such as DNAT; by chain, "" for those of the kernel itself.
	Targets map[string][]string
}

// LegacyTables reads the tables that the network namespace has. It makes none, loads no module and runs no program, but needs CAP_NET_ADMIN.
func LegacyTables(f proxy.Family) ([]LegacyTable, error) {
	names, err := iptables.LegacyTables(f)
	if err != nil {
		return nil, err
	}
	var out []LegacyTable
	for _, name := range names {
		err := withSocket(f, func(fd int) error {
			t, err := readTable(fd, f, name)
			if err != nil {
				return err
			}
			entries, err := t.parse()
			if err == nil {
				out = append(out, LegacyTable{name, chains(entries), targets(entries)})
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read table %s of iptables-legacy for %s: %w", name, f, err)
		}
	}
	return out, nil
}

func targets(entries []xentry) map[string][]string {
	out := map[string][]string{}
	for _, e := range entries {
		name := text(e.bytes[e.target+2 : e.target+targetHeader-1])
		if name != "" && name != errorTarget && !slices.Contains(out[e.in], name) {
			out[e.in] = append(out[e.in], name)
		}
	}
	return out
}

// Owns tells that a chain of a table of iptables is one that kube-proxy, or Turnout, makes in one of its modes or made in an earlier release. The
// chains of kubelet and kube-router whose names are alike are not.
func Owns(table, chain string) bool {
	return Scope{Iptables: true, IPVS: true}.owns(table, chain)
}

// Translating lists the chains that have one of these targets, but for those of proxies.
func (t *LegacyTable) Translating(targets []string) (out []string) {
	for chain, list := range t.Targets {
		if !Owns(t.Name, chain) && slices.ContainsFunc(list, func(n string) bool { return slices.Contains(targets, n) }) {
			if chain == "" {
				chain = "one of the kernel itself"
			}
			out = append(out, chain)
		}
	}
	return out
}
