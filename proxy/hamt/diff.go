package hamt

// Change is one difference between two versions of a map.
type Change[K comparable, V any] struct {
	Key      K
	Old, New V
	Had, Has bool // whether the key is in the old and the new version
}

// Diff returns how b differs from a. Entries that were set again to an equal value may be reported: same, if not nil, tells
// which values count as equal. The cost is proportional to the number of changes if b was made from a.
func Diff[K comparable, V any](a, b Map[K, V], same func(x, y V) bool) []Change[K, V] {
	d := differ[K, V]{same: same}
	d.nodes(a.root, b.root, 0)
	return d.out
}

type differ[K comparable, V any] struct {
	same func(x, y V) bool
	out  []Change[K, V]
}

func (d *differ[K, V]) nodes(a, b *node[K, V], shift int) {
	switch {
	case a == b:
	case a == nil:
		b.each(func(e *entry[K, V]) bool { d.added(e); return true })
	case b == nil:
		a.each(func(e *entry[K, V]) bool { d.removed(e); return true })
	case shift >= deepst:
		d.lists(a.entries, b.entries)
	default:
		d.slots(a, b, shift)
	}
}

func (d *differ[K, V]) slots(a, b *node[K, V], shift int) {
	if a.entryMap == b.entryMap && a.childMap == b.childMap { // most nodes on the way to a change
		for i, x := range a.entries {
			if y := b.entries[i]; x != y {
				d.lists(list(x), list(y))
			}
		}
		for i, x := range a.children {
			d.nodes(x, b.children[i], shift+fan)
		}
		return
	}
	for rest := a.entryMap | a.childMap | b.entryMap | b.childMap; rest != 0; rest &= rest - 1 {
		bit := rest & -rest
		d.slot(a.slot(bit), b.slot(bit), shift)
	}
}

// A slot is an entry, a child, or nothing.
type slot[K comparable, V any] struct {
	entry *entry[K, V]
	child *node[K, V]
}

func (n *node[K, V]) slot(bit uint32) (s slot[K, V]) {
	switch {
	case n.entryMap&bit != 0:
		s.entry = n.entries[index(n.entryMap, bit)]
	case n.childMap&bit != 0:
		s.child = n.children[index(n.childMap, bit)]
	}
	return s
}

func (d *differ[K, V]) slot(x, y slot[K, V], shift int) {
	switch {
	case x == y:
	case x.entry == nil && y.entry == nil:
		d.nodes(x.child, y.child, shift+fan)
	case x.child == nil && y.child == nil:
		d.lists(list(x.entry), list(y.entry))
	case x.entry != nil:
		n, _ := (*node[K, V])(nil).set(x.entry, shift+fan, nil)
		d.nodes(n, y.child, shift+fan)
	default:
		n, _ := (*node[K, V])(nil).set(y.entry, shift+fan, nil)
		d.nodes(x.child, n, shift+fan)
	}
}

func list[K comparable, V any](e *entry[K, V]) []*entry[K, V] {
	if e == nil {
		return nil
	}
	return []*entry[K, V]{e}
}

func (d *differ[K, V]) lists(a, b []*entry[K, V]) {
	for _, x := range a {
		if y := find(b, x.key); y == nil {
			d.removed(x)
		} else if x != y && (d.same == nil || !d.same(x.val, y.val)) {
			d.out = append(d.out, Change[K, V]{Key: x.key, Old: x.val, New: y.val, Had: true, Has: true})
		}
	}
	for _, y := range b {
		if find(a, y.key) == nil {
			d.added(y)
		}
	}
}

func find[K comparable, V any](es []*entry[K, V], k K) *entry[K, V] {
	for _, e := range es {
		if e.key == k {
			return e
		}
	}
	return nil
}

func (d *differ[K, V]) added(e *entry[K, V]) {
	d.out = append(d.out, Change[K, V]{Key: e.key, New: e.val, Has: true})
}

func (d *differ[K, V]) removed(e *entry[K, V]) {
	d.out = append(d.out, Change[K, V]{Key: e.key, Old: e.val, Had: true})
}
