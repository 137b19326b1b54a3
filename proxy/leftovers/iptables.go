package leftovers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/underway"
)

// Iptables is what kube-proxy in mode iptables or ipvs left in one family's tables, as far as the tables are of iptables-nft. It is read and
// removed over netlink, by name and handle: that also works where another program has written rules that iptables cannot read.
type Iptables struct {
	Family proxy.Family
	// Jumps from chains that all programs share to chains of kube-proxy's, and these chains, will be removed.
	jumps  []compat.Rule
	chains []compat.Chain
	// ours are all of kube-proxy's chains.
	ours map[compat.Chain]bool
	// kept are chains of kube-proxy's that another program's chain uses, and the names of such chains.
	kept map[compat.Chain][]string
}

// FindIptables looks for what is in scope. It reads the names of all chains, and the rules of those that are not kube-proxy's. It needs
// CAP_NET_ADMIN.
func FindIptables(s Scope, f proxy.Family) (*Iptables, error) {
	reader := compat.New(f)
	found := &Iptables{Family: f, ours: map[compat.Chain]bool{}, kept: map[compat.Chain][]string{}}
	var all []compat.Chain
	err := compat.Steady(func() (err error) {
		all, err = reader.Chains(iptablesTables...)
		return err
	})
	if Lacking(err) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	others := found.own(s, all)
	if len(found.chains) == 0 {
		return found, nil
	}
	for _, c := range others {
		rules, err := reader.Rules(c.Table, c.Name)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			found.sort(c, r)
		}
	}
	if err := found.keep(reader); err != nil {
		return nil, err
	}
	found.chains = slices.DeleteFunc(found.chains, func(c compat.Chain) bool { return found.kept[c] != nil })
	return found, nil
}

// own notes the chains that are in scope, and returns the others.
func (i *Iptables) own(s Scope, all []compat.Chain) (others []compat.Chain) {
	names := map[string][]string{}
	for _, c := range all {
		names[c.Table] = append(names[c.Table], c.Name)
	}
	scopes := map[string]Scope{}
	for table, chains := range names {
		scopes[table] = s.beside(chains)
	}
	for _, c := range all {
		if scopes[c.Table].owns(c.Table, c.Name) {
			i.chains, i.ours[c] = append(i.chains, c), true
		} else {
			others = append(others, c)
		}
	}
	return others
}

// keep has stay what chains lead to that stay.
func (i *Iptables) keep(reader *compat.Reader) error {
	for next := slices.Collect(maps.Keys(i.kept)); len(next) > 0; next = next[1:] {
		from := next[0]
		rules, err := reader.Rules(from.Table, from.Name)
		if err != nil {
			return err
		}
		for _, r := range rules {
			to := compat.Chain{Table: r.Table, Name: r.Jump}
			if !i.ours[to] {
				continue
			}
			if i.kept[to] == nil {
				next = append(next, to)
			}
			i.kept[to] = append(i.kept[to], r.Chain)
		}
	}
	return nil
}

// sort notes a rule that leads to a chain of kube-proxy's: from a chain at a hook, or from one that kube-proxy has in other modes, it was put there by
// kube-proxy, from any other by whoever owns that.
func (i *Iptables) sort(from compat.Chain, r compat.Rule) {
	to := compat.Chain{Table: r.Table, Name: r.Jump}
	switch {
	case !i.ours[to]:
	case from.Base, ofKubeProxy.owns(from.Table, from.Name):
		i.jumps = append(i.jumps, r)
	default:
		i.kept[to] = append(i.kept[to], r.Chain)
	}
}

// Objects lists what Remove removes.
func (i *Iptables) Objects() (out []Object) {
	for _, r := range i.jumps {
		out = append(out, i.jump(r))
	}
	for _, c := range i.chains {
		out = append(out, i.chain(c))
	}
	return out
}

// Kept lists the chains that stay because another program's rules lead to them, or to a chain that leads to them.
func (i *Iptables) Kept() (out []Object) {
	for c, users := range i.kept {
		o := i.chain(c)
		o.UsedBy = slices.Compact(slices.Sorted(slices.Values(users)))
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Object) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func (i *Iptables) jump(r compat.Rule) Object {
	return Object{Family: i.Family, Kind: "rule", Table: r.Table, Name: r.Chain, Detail: r.Jump}
}

func (i *Iptables) chain(c compat.Chain) Object {
	return Object{Family: i.Family, Kind: "chain", Table: c.Table, Name: c.Name}
}

// Remove removes what was found. The jumps go first, those by which new connections are translated before all others: from then on no packet meets a rule of what is
// left, and the connections that were translated go on, since that is remembered for each. What is gone already is no error.
func (i *Iptables) Remove() error {
	reader := compat.New(i.Family)
	early, late := i.inOrder()
	for _, jumps := range [][]compat.Rule{early, late} {
		if err := inChunks(jumps, i.jump, reader.Delete); err != nil {
			return err
		}
		if len(jumps) > 0 {
			underway.Wait()
		}
	}
	// Chains lead to each other, so all are emptied before the first is deleted.
	if err := inChunks(i.chains, i.chain, reader.Empty); err != nil {
		return err
	}
	return inChunks(i.chains, i.chain, reader.DeleteChains)
}

// inOrder splits the jumps: early are those by which new connections are translated, and late what becomes of such connections on their way.
func (i *Iptables) inOrder() (early, late []compat.Rule) {
	for _, r := range i.jumps {
		if r.Table == "nat" && (r.Chain == "PREROUTING" || r.Chain == "OUTPUT") {
			early = append(early, r)
		} else {
			late = append(late, r)
		}
	}
	return early, late
}

// chunk is how many messages one batch has: the kernel answers each, and the answers must fit the socket's buffer.
const chunk = 200

// inChunks does something with a list in batches. Where a batch is refused, its parts are tried one by one, so that one does not keep the others.
func inChunks[T any](list []T, object func(T) Object, do func(...T) error) error {
	var errs []error
	for batch := range slices.Chunk(list, chunk) {
		if do(batch...) == nil {
			continue
		}
		for _, one := range batch {
			if err := do(one); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove %s: %w", object(one), err))
			}
		}
	}
	return errors.Join(errs...)
}
