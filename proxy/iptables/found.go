package iptables

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// found is what tables hold already, of ours and around it.
type found struct {
	chains map[string][]string // ours, by table
	jumps  map[Jump]int        // how often each is there
	// kept are chains of ours that cannot be deleted, since rules of other programs lead to them.
	kept map[place]bool
}

// place is a chain of a table.
type place struct{ table, chain string }

func newFound() *found { return &found{map[string][]string{}, map[Jump]int{}, map[place]bool{}} }

// keep notes a chain that could not be deleted; false if that is not why a script failed.
func (f *found) keep(s *script, err error) bool {
	table, text, _ := s.refused(err)
	chain, ok := strings.CutPrefix(text, "-X ")
	if !ok || f.kept[place{table, chain}] {
		return false
	}
	f.kept[place{table, chain}] = true
	return true
}

// remove empties a chain, and deletes it if it can be.
func (f *found) remove(x *section, chain string) {
	if f.kept[place{x.table, chain}] {
		x.declare(chain, nil)
		return
	}
	x.drop(chain, nil)
}

// reconcile adds to a section what makes the table right whatever was found: jumps that are missing are put first in their chains, and chains of ours that
// are not made again are deleted.
func (f *found) reconcile(x *section, made map[string]bool) {
	for i := range Jumps {
		j := &Jumps[i]
		if j.Table == x.table && (f == nil || f.jumps[*j] == 0) {
			x.jump(j)
		}
	}
	if f == nil {
		return
	}
	for _, name := range f.chains[x.table] {
		if !made[name] && !slices.Contains(staticChains[x.table], name) {
			f.remove(x, name)
		}
	}
}

// drop returns scripts that delete all chains that were found, about so many Services' at a time; all at once if chunk is 0. Nothing but these chains leads to them. A chain
// goes before those that it leads to.
func (f *found) drop(chunk int) []*script {
	const chainsEach = 8 // what a Service has
	order := []string{"", sourcesPrefix, entryPrefix, clusterPrefix, localPrefix, endpointPrefix, markChain}
	s := &script{}
	scripts := []*script{s}
	for _, table := range tables {
		names := slices.Clone(f.chains[table])
		slices.SortFunc(names, func(a, b string) int { return cmp.Compare(rank(order, a), rank(order, b)) })
		x := s.section(table)
		for _, name := range names {
			if chunk > 0 && len(x.chains) >= chunk*chainsEach {
				s = &script{}
				scripts = append(scripts, s)
				x = s.section(table)
			}
			f.remove(x, name)
		}
	}
	if len(scripts) == 1 && s.operations() == 0 {
		return nil
	}
	return scripts
}

// rank is the place of a chain by how its name begins; all others come first, as they lead to these.
func rank(order []string, name string) int {
	for i := len(order) - 1; i > 0; i-- {
		if strings.HasPrefix(name, order[i]) {
			return i
		}
	}
	return 0
}

// add notes a rule of one of the kernel's own chains, if it is one of our jumps.
func (f *found) add(table, from, to string) (*Jump, bool) {
	for i := range Jumps {
		if j := &Jumps[i]; j.Table == table && j.From == from && j.To == to {
			f.jumps[*j]++
			return j, true
		}
	}
	return nil, false
}

// once says which jumps are not there exactly once, "" if all are.
func (f *found) once() string {
	var wrong []string
	for _, j := range Jumps {
		if n := f.jumps[j]; n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s of table %s leads to %s %d times", j.From, j.Table, j.To, n))
		}
	}
	return strings.Join(wrong, "; ")
}

// parseSave reads what iptables-save prints of a table, and returns deletions of our jumps but for the first so many of each. They may look unlike ours: those of
// earlier releases of kube-proxy, and of its mode ipvs, have other matches and comments.
func (f *found) parseSave(table, text string, keep keeper) (surplus []string) {
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if name, ok := strings.CutPrefix(l, ":"); ok {
			if name, _, _ = strings.Cut(name, " "); Owns(table, name) {
				f.chains[table] = append(f.chains[table], name)
			}
			continue
		}
		words := strings.Fields(l)
		if len(words) < 4 || words[0] != "-A" || words[len(words)-2] != "-j" {
			continue
		}
		if j, ok := f.add(table, words[1], words[len(words)-1]); ok && f.jumps[*j] > keep(j) {
			surplus = append(surplus, "-D "+strings.TrimPrefix(l, "-A "))
		}
	}
	return surplus
}

// A keeper says how many jumps of a kind to keep.
type keeper func(*Jump) int

func keepNone(*Jump) int { return 0 }

func keepFirst(*Jump) int { return 1 }

// keepLater keeps all but those by which new connections are translated.
func keepLater(j *Jump) int {
	if j.Table == nat && j.To != postroutingChain {
		return 0
	}
	return math.MaxInt
}
