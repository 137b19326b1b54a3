package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// found is what tables hold already, of ours and around it.
type found struct {
	chains map[string][]string // ours, by table
	jumps  map[Jump]int        // how often each is there
}

func newFound() *found { return &found{map[string][]string{}, map[Jump]int{}} }

// reconcile adds to a section what makes the table right whatever was found: jumps that are missing are put first in their chains, and chains of ours that
// are not made again are deleted.
func (f *found) reconcile(x *section, made map[string]bool) {
	for i := range Jumps {
		j := &Jumps[i]
		if j.Table == x.table && (f == nil || f.jumps[*j] == 0) {
			x.insert(j.From, 1, j.rule(), nil)
		}
	}
	if f == nil {
		return
	}
	for _, name := range f.chains[x.table] {
		if !made[name] && !slices.Contains(staticChains[x.table], name) {
			x.drop(name, nil)
		}
	}
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

// parseSave reads what iptables-save prints of a table.
func (f *found) parseSave(table, text string) (surplus []string) {
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
		if j, ok := f.add(table, words[1], words[len(words)-1]); ok && f.jumps[*j] > 1 {
			surplus = append(surplus, "-D "+strings.TrimPrefix(l, "-A "))
		}
	}
	return surplus
}
