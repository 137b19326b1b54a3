// Package hamt is an immutable map that shares structure between versions: changing one entry copies a few small nodes, and
// comparing two versions visits only what differs (Bagwell, "Ideal Hash Trees", 2001).
package hamt

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
)

const (
	fan    = 5 // bits of the hash used per level
	mask   = 1<<fan - 1
	deepst = 60 // the shift from which on entries collide for good and are kept in a list
)

// One seed for all maps, so that any two versions can be compared by structure.
var seed = maphash.MakeSeed()

// Map is an immutable map. The zero Map is empty. Iteration order is not defined and differs from run to run.
type Map[K comparable, V any] struct {
	root *node[K, V]
	size int
}

type entry[K comparable, V any] struct {
	hash uint64
	key  K
	val  V
}

// A node has a slot for each bit set in bitmap, in order: a child, or an entry. Below the deepest level, entries holds all
// those that collide, and there are no slots.
type node[K comparable, V any] struct {
	owner   *token // who may change the node in place; nil if nobody
	bitmap  uint32
	slots   []slot[K, V]
	entries []*entry[K, V]
}

// A token tells Builders apart.
type token struct{ _ byte }

type slot[K comparable, V any] struct {
	child *node[K, V]
	entry *entry[K, V]
}

// Len returns the number of entries.
func (m Map[K, V]) Len() int { return m.size }

// Same tells whether two maps are one and the same version; it never compares contents.
func (m Map[K, V]) Same(o Map[K, V]) bool { return m.root == o.root }

// Get returns the value of a key and whether there is one.
func (m Map[K, V]) Get(k K) (v V, ok bool) {
	h := maphash.Comparable(seed, k)
	n := m.root
	for shift := 0; n != nil; shift += fan {
		if shift >= deepst {
			for _, e := range n.entries {
				if e.key == k {
					return e.val, true
				}
			}
			return v, false
		}
		i, ok := n.index(h, shift)
		if !ok {
			return v, false
		}
		s := n.slots[i]
		if s.entry != nil {
			if s.entry.key == k {
				return s.entry.val, true
			}
			return v, false
		}
		n = s.child
	}
	return v, false
}

// Set returns a map that has v at k.
func (m Map[K, V]) Set(k K, v V) Map[K, V] {
	return m.set(k, v, nil)
}

func (m Map[K, V]) set(k K, v V, by *token) Map[K, V] {
	e := &entry[K, V]{hash: maphash.Comparable(seed, k), key: k, val: v}
	root, added := m.root.set(e, 0, by)
	if added {
		m.size++
	}
	m.root = root
	return m
}

// Delete returns a map without k; the same map if it had none.
func (m Map[K, V]) Delete(k K) Map[K, V] {
	root, removed := m.root.remove(k, maphash.Comparable(seed, k), 0)
	if !removed {
		return m
	}
	return Map[K, V]{root: root, size: m.size - 1}
}

// All iterates over the entries.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		m.root.each(func(e *entry[K, V]) bool { return yield(e.key, e.val) })
	}
}

func (n *node[K, V]) index(h uint64, shift int) (int, bool) {
	bit := uint32(1) << (h >> shift & mask)
	return bits.OnesCount32(n.bitmap & (bit - 1)), n.bitmap&bit != 0
}

func (n *node[K, V]) set(e *entry[K, V], shift int, by *token) (*node[K, V], bool) {
	if n == nil {
		n = &node[K, V]{owner: by}
	}
	if shift >= deepst {
		return n.setColliding(e)
	}
	i, ok := n.index(e.hash, shift)
	if !ok {
		return n.insert(i, e, shift, by), true
	}
	s, added := n.slots[i], false
	switch {
	case s.child != nil:
		s.child, added = s.child.set(e, shift+fan, by)
	case s.entry.key == e.key:
		s.entry = e
	default:
		child, _ := (*node[K, V])(nil).set(s.entry, shift+fan, by)
		child, _ = child.set(e, shift+fan, by)
		s, added = slot[K, V]{child: child}, true
	}
	return n.replace(i, s, by), added
}

func (n *node[K, V]) setColliding(e *entry[K, V]) (*node[K, V], bool) {
	out := make([]*entry[K, V], 0, len(n.entries)+1)
	for _, x := range n.entries {
		if x.key != e.key {
			out = append(out, x)
		}
	}
	added := len(out) == len(n.entries)
	return &node[K, V]{entries: append(out, e)}, added
}

func (n *node[K, V]) insert(i int, e *entry[K, V], shift int, by *token) *node[K, V] {
	bit := uint32(1) << (e.hash >> shift & mask)
	if by != nil && n.owner == by {
		n.slots = slices.Insert(n.slots, i, slot[K, V]{entry: e})
		n.bitmap |= bit
		return n
	}
	out := make([]slot[K, V], len(n.slots)+1)
	copy(out, n.slots[:i])
	out[i] = slot[K, V]{entry: e}
	copy(out[i+1:], n.slots[i:])
	return &node[K, V]{owner: by, bitmap: n.bitmap | bit, slots: out}
}

func (n *node[K, V]) replace(i int, s slot[K, V], by *token) *node[K, V] {
	if by != nil && n.owner == by {
		n.slots[i] = s
		return n
	}
	out := make([]slot[K, V], len(n.slots))
	copy(out, n.slots)
	out[i] = s
	return &node[K, V]{owner: by, bitmap: n.bitmap, slots: out}
}

func (n *node[K, V]) remove(k K, h uint64, shift int) (*node[K, V], bool) {
	if n == nil {
		return nil, false
	}
	if shift >= deepst {
		return n.removeColliding(k)
	}
	i, ok := n.index(h, shift)
	if !ok {
		return n, false
	}
	s := n.slots[i]
	if s.entry != nil {
		if s.entry.key != k {
			return n, false
		}
		return n.without(i, h, shift), true
	}
	child, removed := s.child.remove(k, h, shift+fan)
	if !removed {
		return n, false
	}
	if child == nil {
		return n.without(i, h, shift), true
	}
	if e := child.only(); e != nil { // the shape depends on the contents alone, not on the way there
		return n.replace(i, slot[K, V]{entry: e}, nil), true
	}
	return n.replace(i, slot[K, V]{child: child}, nil), true
}

func (n *node[K, V]) removeColliding(k K) (*node[K, V], bool) {
	var out []*entry[K, V]
	for _, x := range n.entries {
		if x.key != k {
			out = append(out, x)
		}
	}
	if len(out) == len(n.entries) {
		return n, false
	}
	if len(out) == 0 {
		return nil, true
	}
	return &node[K, V]{entries: out}, true
}

func (n *node[K, V]) without(i int, h uint64, shift int) *node[K, V] {
	if len(n.slots) == 1 {
		return nil
	}
	out := make([]slot[K, V], 0, len(n.slots)-1)
	out = append(append(out, n.slots[:i]...), n.slots[i+1:]...)
	return &node[K, V]{bitmap: n.bitmap &^ (1 << (h >> shift & mask)), slots: out}
}

// only returns the single entry of a node that has no more than that.
func (n *node[K, V]) only() *entry[K, V] {
	if len(n.entries) == 1 {
		return n.entries[0]
	}
	if len(n.slots) == 1 {
		return n.slots[0].entry
	}
	return nil
}

func (n *node[K, V]) each(fn func(*entry[K, V]) bool) bool {
	if n == nil {
		return true
	}
	for _, e := range n.entries {
		if !fn(e) {
			return false
		}
	}
	for _, s := range n.slots {
		if s.entry != nil && !fn(s.entry) || s.child != nil && !s.child.each(fn) {
			return false
		}
	}
	return true
}
