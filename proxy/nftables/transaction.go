package nftables

import (
	"slices"

	"turnout/proxy"
)

// A transaction is everything that one batch changes, in one step for all packets.
type transaction struct {
	start  start
	small  []*set // of the table as it is: deleted before sets of the same names are made
	sets   []*set
	chains []chain        // made if they are missing, then their rules appended
	rules  []appendedRule // appended to chains that exist
	gone   lists          // deleted before any is added
	new    lists
	owners []proxy.ServicePortName
}

// lists are elements, a list for each set.
type lists []list

type list struct {
	set      *set
	elements []element
}

func (l *lists) add(e element) {
	x := l.list(e.set)
	x.elements = append(x.elements, e)
}

// list returns the list of a set, which is made if there is none.
func (l *lists) list(s *set) *list {
	for i := range *l {
		if (*l)[i].set == s {
			return &(*l)[i]
		}
	}
	*l = append(*l, list{set: s})
	return &(*l)[len(*l)-1]
}

// reserve makes room for n more elements of a set.
func (l *lists) reserve(s *set, n uint32) {
	x := l.list(s)
	x.elements = slices.Grow(x.elements, int(n))
}

func (l lists) of(s *set) []element {
	for i := range l {
		if l[i].set == s {
			return l[i].elements
		}
	}
	return nil
}

func (l lists) len() (n int) {
	for i := range l {
		n += len(l[i].elements)
	}
	return n
}

type appendedRule struct {
	chain string
	rule  rule
}

// start is what a transaction builds on.
type start uint8

const (
	change  start = iota // the table as it is
	refill               // the table, its rules and elements flushed; clients with affinity stay known
	replace              // nothing: the table is deleted if there is one
)

// own registers a Service as an owner of elements.
func (tx *transaction) own(n proxy.ServicePortName) int32 {
	tx.owners = append(tx.owners, n)
	return int32(len(tx.owners) - 1)
}

func (tx *transaction) add(e element, owner int32) {
	e.owner = owner
	tx.new.add(e)
}

func (tx *transaction) remove(e element, owner int32) {
	e.owner = owner
	tx.gone.add(e)
}

func (tx *transaction) empty() bool { return tx.start == change && tx.operations() == 0 }

// operations counts the objects and elements that the transaction writes or deletes.
func (tx *transaction) operations() int {
	n := len(tx.sets) + len(tx.chains) + len(tx.rules) + tx.gone.len() + tx.new.len()
	for i := range tx.chains {
		n += len(tx.chains[i].rules)
	}
	return n
}

// size estimates the length of the batch in bytes, generously: growing a buffer of tens of MB means to copy it.
func (tx *transaction) size() int {
	const object, element = 512, 128
	return 4096 + object*(len(tx.sets)+2*len(tx.chains)+len(tx.rules)) + element*(tx.gone.len()+tx.new.len())
}

// takeRanges moves the sets of ranges and their elements to a transaction of their own, which comes first; the rest builds on it.
func (tx *transaction) takeRanges() *transaction {
	first := &transaction{start: tx.start, owners: tx.owners}
	tx.start = change
	tx.sets, first.sets = divide(tx.sets, func(s *set) bool { return s.interval })
	tx.new, first.new = divide(tx.new, func(l list) bool { return l.set.interval })
	return first
}

// divide splits a slice into what does not have a property and what has it.
func divide[T any](list []T, has func(T) bool) (without, with []T) {
	for _, x := range list {
		if has(x) {
			with = append(with, x)
		} else {
			without = append(without, x)
		}
	}
	return without, with
}

// takeObjects moves what an update adds besides elements, and the elements of the set that leads to chains, to a transaction of its own.
func (tx *transaction) takeObjects(dispatch *set) *transaction {
	first := &transaction{sets: tx.sets, chains: tx.chains, rules: tx.rules, owners: tx.owners}
	tx.sets, tx.chains, tx.rules = nil, nil, nil
	for i := range tx.new {
		if tx.new[i].set == dispatch {
			first.new = lists{tx.new[i]}
			tx.new = slices.Delete(tx.new, i, i+1)
			break
		}
	}
	return first
}
