package nftables

import (
	"maps"
	"net/netip"
	"slices"
)

// references counts how many Services make use of an address. A set of the table holds the addresses whose count is not 0.
type references struct {
	set    *set
	fields int // how often the address stands in the set's key
	count  map[netip.Addr]int
	before map[netip.Addr]int // counts before the transaction that is being prepared, of those that it touches
}

func newReferences(s *set, fields int) *references {
	return &references{set: s, fields: fields, count: map[netip.Addr]int{}, before: map[netip.Addr]int{}}
}

func (r *references) change(a netip.Addr, by int) {
	n := r.count[a]
	if _, ok := r.before[a]; !ok {
		r.before[a] = n
	}
	if n += by; n == 0 {
		delete(r.count, a)
	} else {
		r.count[a] = n
	}
}

// settle appends the addresses that came into use or went out of use.
func (r *references) settle(tx *transaction, bytes *arena) {
	for _, a := range slices.SortedFunc(maps.Keys(r.before), netip.Addr.Compare) {
		had, has := r.before[a] > 0, r.count[a] > 0
		if had == has {
			continue
		}
		e := element{set: r.set, key: bytes.addrKey(slices.Repeat([]netip.Addr{a}, r.fields)...)}
		if has {
			tx.add(e, -1)
		} else {
			tx.remove(e, -1)
		}
	}
	clear(r.before)
}
