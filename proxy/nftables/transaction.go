package nftables

import "turnout/proxy"

// A transaction is everything that one batch changes, in one step for all packets.
type transaction struct {
	start  start
	sets   []*set
	chains []chain        // made if they are missing, then their rules appended
	rules  []appendedRule // appended to chains that exist
	gone   lists          // deleted before any is added
	new    lists
	owners []proxy.ServicePortName
}

// lists are elements, a list for each set.
type lists [][]element

func (l *lists) add(e element) {
	for i := range *l {
		if (*l)[i][0].set == e.set {
			(*l)[i] = append((*l)[i], e)
			return
		}
	}
	*l = append(*l, []element{e})
}

func (l lists) len() (n int) {
	for i := range l {
		n += len(l[i])
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
