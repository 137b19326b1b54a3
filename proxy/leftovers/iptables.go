package leftovers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Iptables is what kube-proxy in mode iptables or ipvs left in one family's tables, as far as the tables are of iptables-nft. It is read and
// removed over netlink, by name and handle: that also works where another program has written rules that iptables cannot read.
type Iptables struct {
	Family proxy.Family
	// Jumps from chains that all programs share to chains of ours, and these chains, will be removed.
	jumps  []*lib.Rule
	chains []*lib.Chain
	names  map[tableChain]*lib.Chain
	// kept are chains of kube-proxy's that another program's chain uses, and that program's rules.
	kept map[*lib.Chain][]*lib.Rule
}

type tableChain struct{ table, chain string }

// FindIptables looks for what is in scope. It reads the names of all chains, and the rules of those that are not kube-proxy's. It needs
// CAP_NET_ADMIN.
func FindIptables(s Scope, f proxy.Family) (*Iptables, error) {
	c, err := lib.New()
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	all, err := c.ListChainsOfTableFamily(tableFamily(f))
	if err != nil {
		return nil, fmt.Errorf("list the chains of %s: %w", f, err)
	}
	found := &Iptables{Family: f, names: map[tableChain]*lib.Chain{}, kept: map[*lib.Chain][]*lib.Rule{}}
	var others []*lib.Chain
	for _, chain := range all {
		switch {
		case !slices.Contains(iptablesTables, chain.Table.Name):
		case s.owns(chain.Table.Name, chain.Name):
			found.chains = append(found.chains, chain)
			found.names[tableChain{chain.Table.Name, chain.Name}] = chain
		default:
			others = append(others, chain)
		}
	}
	if len(found.chains) == 0 {
		return found, nil
	}
	for _, chain := range others {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("list the rules of chain %s of table %s for %s: %w", chain.Name, chain.Table.Name, f, err)
		}
		for _, r := range rules {
			found.sort(chain, r)
		}
	}
	found.chains = slices.DeleteFunc(found.chains, func(c *lib.Chain) bool { return found.kept[c] != nil })
	return found, nil
}

// sort notes a rule that leads to a chain of kube-proxy's: from a chain at a hook it was put there by kube-proxy, from any other by whoever
// owns that.
func (i *Iptables) sort(from *lib.Chain, r *lib.Rule) {
	target := jumpTarget(r)
	to := i.names[tableChain{from.Table.Name, target}]
	switch {
	case to == nil:
	case from.Hooknum != nil:
		i.jumps = append(i.jumps, r)
	default:
		i.kept[to] = append(i.kept[to], r)
	}
}

// jumpTarget is the chain that a rule leads to; empty if to none.
func jumpTarget(r *lib.Rule) string {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			return v.Chain
		}
	}
	return ""
}

// Objects lists what Remove removes.
func (i *Iptables) Objects() (out []Object) {
	for _, r := range i.jumps {
		out = append(out, i.rule(r))
	}
	for _, c := range i.chains {
		out = append(out, i.chain(c))
	}
	return out
}

// Kept lists the chains that stay because another program's rules lead to them.
func (i *Iptables) Kept() (out []Object) {
	for c, rules := range i.kept {
		o := i.chain(c)
		for _, r := range rules {
			o.UsedBy = append(o.UsedBy, r.Chain.Name)
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Object) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func (i *Iptables) rule(r *lib.Rule) Object {
	return Object{Family: i.Family, Kind: "rule", Table: r.Table.Name, Name: r.Chain.Name, Detail: jumpTarget(r)}
}

func (i *Iptables) chain(c *lib.Chain) Object {
	return Object{Family: i.Family, Kind: "chain", Table: c.Table.Name, Name: c.Name}
}

// chunk is how many messages one batch has: the kernel answers each, and the answers must fit the socket's buffer.
const chunk = 200

// Remove removes what was found. The jumps go first and all at once: from then on no packet meets a rule of what is left, and the
// connections that were translated go on, since that is remembered for each. What is gone already is no error.
func (i *Iptables) Remove() error {
	c, err := lib.New()
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := i.inChunks(c, "remove a jump", len(i.jumps), func(n int) error { return c.DelRule(i.jumps[n]) }); err != nil {
		return err
	}
	// Chains lead to each other, so all are emptied before the first is deleted.
	if err := i.inChunks(c, "empty a chain", len(i.chains), func(n int) error { c.FlushChain(i.chains[n]); return nil }); err != nil {
		return err
	}
	return i.inChunks(c, "delete a chain", len(i.chains), func(n int) error { c.DelChain(i.chains[n]); return nil })
}

// inChunks does something n times in batches. Where a batch is refused, its parts are tried one by one, so that one does not keep the others.
func (i *Iptables) inChunks(c *lib.Conn, what string, n int, do func(int) error) error {
	var errs []error
	for from := 0; from < n; from += chunk {
		to := min(from+chunk, n)
		if flush(c, from, to, do) == nil {
			continue
		}
		for one := from; one < to; one++ {
			if err := flush(c, one, one+1, do); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("%s that an earlier proxy left for %s: %w", what, i.Family, err))
			}
		}
	}
	return errors.Join(errs...)
}

func flush(c *lib.Conn, from, to int, do func(int) error) error {
	for n := from; n < to; n++ {
		if err := do(n); err != nil {
			return err
		}
	}
	return c.Flush()
}

func tableFamily(f proxy.Family) lib.TableFamily {
	if f == proxy.IPv6 {
		return lib.TableFamilyIPv6
	}
	return lib.TableFamilyIPv4
}
