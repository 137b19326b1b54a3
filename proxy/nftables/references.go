package nftables

import (
	"net/netip"
	"slices"
)

// references counts how many Services make use of an address. A set of the table holds the addresses whose count is not 0.
type references struct {
	set     *set
	fields  int // how often the address stands in the set's key
	count   map[netip.Addr]reference
	touched []netip.Addr // by the transaction that is being prepared
}

type reference struct {
	now, before int // before the transaction that is being prepared
	touched     bool
}

func newReferences(s *set, fields int) *references {
	return &references{set: s, fields: fields, count: map[netip.Addr]reference{}}
}

func (r *references) change(a netip.Addr, by int) {
	c := r.count[a]
	if !c.touched {
		c.before, c.touched = c.now, true
		r.touched = append(r.touched, a)
	}
	c.now += by
	r.count[a] = c
}

// settle appends the addresses that came into use to one transaction, those that went out of use to another or the same.
func (r *references) settle(used, unused *transaction, bytes *arena) {
	slices.SortFunc(r.touched, netip.Addr.Compare)
	for _, a := range r.touched {
		c := r.count[a]
		if c.now == 0 {
			delete(r.count, a)
		} else {
			r.count[a] = reference{now: c.now}
		}
		if (c.before > 0) == (c.now > 0) {
			continue
		}
		bytes.reserve()
		for range r.fields {
			bytes.addr(a)
		}
		if e := (element{set: r.set, key: bytes.take()}); c.now > 0 {
			used.add(e, -1)
		} else {
			unused.remove(e, -1)
		}
	}
	r.touched = r.touched[:0]
}
