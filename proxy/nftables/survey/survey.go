package survey

import (
	"fmt"
	"slices"

	lib "github.com/google/nftables"
	"github.com/google/nftables/expr"

	"turnout/proxy"
	"turnout/proxy/nftables/compat"
)

// Table is a table of nftables, those of iptables-nft included.
type Table struct {
	Family string // "ip", "ip6" or "inet"
	Name   string
	// Chains are the names of all its chains, in no order.
	Chains []string
	// Hooks are its chains of type nat that packets meet when a connection begins, before they are routed.
	Hooks []Hook
	// Translating are the chains whose rules change the destination of packets. There are none without Hooks.
	Translating []string
}

// Hook is where packets meet a chain.
type Hook struct {
	Chain string
	// Output tells that these are packets which the node itself sends; otherwise those that come in.
	Output bool
	// Priority orders the chains of a hook, the lowest first. What makes iptables' table nat has -100.
	Priority int
}

// String returns such as "ip nat".
func (t *Table) String() string { return t.Family + " " + t.Name }

// Tables lists the tables that packets of a family meet, in the network namespace of the calling thread. Rules of chains that skip names are not read:
// there may be tens of thousands of those that belong to a proxy.
func Tables(f proxy.Family, skip func(table, chain string) bool) (out []*Table, err error) {
	err = compat.Steady(func() error {
		out, err = tables(f, skip)
		return err
	})
	return out, err
}

func tables(f proxy.Family, skip func(table, chain string) bool) ([]*Table, error) {
	c, err := lib.New()
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	own := lib.TableFamilyIPv4
	if f == proxy.IPv6 {
		own = lib.TableFamilyIPv6
	}
	var out []*Table
	for _, family := range [...]lib.TableFamily{own, lib.TableFamilyINet} {
		tables, err := c.ListTablesOfFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list the tables of %s: %w", names[family], err)
		}
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list the chains of %s: %w", names[family], err)
		}
		for _, t := range tables {
			read, err := readTable(c, t, chains, skip)
			if err != nil {
				return nil, err
			}
			out = append(out, read)
		}
	}
	return out, nil
}

var names = map[lib.TableFamily]string{lib.TableFamilyIPv4: "ip", lib.TableFamilyIPv6: "ip6", lib.TableFamilyINet: "inet"}

// readTable reads a table; all are the chains of its family.
func readTable(c *lib.Conn, t *lib.Table, all []*lib.Chain, skip func(table, chain string) bool) (*Table, error) {
	out := &Table{Family: names[t.Family], Name: t.Name}
	mine := slices.DeleteFunc(slices.Clone(all), func(x *lib.Chain) bool { return x.Table.Name != t.Name })
	for _, x := range mine {
		out.Chains = append(out.Chains, x.Name)
		if x.Type != lib.ChainTypeNAT || x.Hooknum == nil || x.Priority == nil {
			continue
		}
		if *x.Hooknum == *lib.ChainHookPrerouting || *x.Hooknum == *lib.ChainHookOutput {
			out.Hooks = append(out.Hooks, Hook{x.Name, *x.Hooknum == *lib.ChainHookOutput, int(*x.Priority)})
		}
	}
	if len(out.Hooks) == 0 {
		return out, nil // the kernel lets addresses be translated on the way from a chain of type nat only
	}
	for _, x := range mine {
		if skip(t.Name, x.Name) {
			continue
		}
		rules, err := c.GetRules(t, x)
		if err != nil {
			return nil, fmt.Errorf("list the rules of chain %s of table %s: %w", x.Name, out, err)
		}
		if slices.ContainsFunc(rules, translates) {
			out.Translating = append(out.Translating, x.Name)
		}
	}
	return out, nil
}

// translates tells that a rule changes the destination of packets, natively or by a target of iptables.
func translates(r *lib.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		switch e := e.(type) {
		case *expr.NAT:
			return e.Type == expr.NATTypeDestNAT
		case *expr.Redir:
			return true
		case *expr.Target:
			return slices.Contains(Targets, e.Name)
		}
		return false
	})
}

// Targets are those of iptables that change the destination of packets, in both variants.
var Targets = []string{"DNAT", "REDIRECT", "NETMAP"}
