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

// A node has, for each value that the hash's bits of its level may have, an entry, a child or nothing; the maps tell which, and the
// lists are in order (Steindorfer and Vinju, "Optimizing Hash-Array Mapped Tries", 2015). Pointers of 8 bytes apart from each other
// keep what one change copies and reads small. Below the deepest level, entries holds all those that collide, and there are no maps.
type node[K comparable, V any] struct {
	owner              *token // who may change the node and its lists in place; nil if nobody
	entryMap, childMap uint32
	entries            []*entry[K, V]
	children           []*node[K, V]
}

// A token tells Builders apart.
type token struct{ _ byte }

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
		bit := bitOf(h, shift)
		if n.entryMap&bit != 0 {
			if e := n.entries[index(n.entryMap, bit)]; e.key == k {
				return e.val, true
			}
			return v, false
		}
		if n.childMap&bit == 0 {
			return v, false
		}
		n = n.children[index(n.childMap, bit)]
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
func (m Map[K, V]) Delete(k K) Map[K, V] { return m.delete(k, nil) }

func (m Map[K, V]) delete(k K, by *token) Map[K, V] {
	root, removed := m.root.remove(k, maphash.Comparable(seed, k), 0, by)
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

// bitOf is the bit of the maps that stands for a hash on one level.
func bitOf(h uint64, shift int) uint32 { return 1 << (h >> shift & mask) }

// index is the place in a list of what the bit of its map stands for.
func index(bitmap, bit uint32) int { return bits.OnesCount32(bitmap & (bit - 1)) }

func (n *node[K, V]) set(e *entry[K, V], shift int, by *token) (*node[K, V], bool) {
	if n == nil {
		n = &node[K, V]{owner: by}
	}
	if shift >= deepst {
		return n.setColliding(e)
	}
	bit := bitOf(e.hash, shift)
	i, j := index(n.entryMap, bit), index(n.childMap, bit)
	switch {
	case n.childMap&bit != 0:
		child, added := n.children[j].set(e, shift+fan, by)
		if child == n.children[j] { // changed in place
			return n, added
		}
		n = n.edit(by)
		n.children[j] = child
		return n, added
	case n.entryMap&bit == 0:
		n = n.edit(by)
		n.entryMap, n.entries = n.entryMap|bit, slices.Insert(n.entries, i, e)
		return n, true
	case n.entries[i].key == e.key:
		n = n.edit(by)
		n.entries[i] = e
		return n, false
	}
	child, _ := (*node[K, V])(nil).set(n.entries[i], shift+fan, by)
	child, _ = child.set(e, shift+fan, by)
	n = n.edit(by)
	n.entryMap, n.entries = n.entryMap&^bit, slices.Delete(n.entries, i, i+1)
	n.childMap, n.children = n.childMap|bit, slices.Insert(n.children, j, child)
	return n, true
}

// edit returns the node if it may be changed in place, or else a copy.
func (n *node[K, V]) edit(by *token) *node[K, V] {
	if by != nil && n.owner == by {
		return n
	}
	c := *n
	c.owner, c.entries, c.children = by, withRoom(n.entries), slices.Clone(n.children)
	return &c
}

// withRoom copies a list so that one more fits, which is what happens next.
func withRoom[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return append(make([]T, 0, len(list)+1), list...)
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

func (n *node[K, V]) remove(k K, h uint64, shift int, by *token) (*node[K, V], bool) {
	if n == nil {
		return nil, false
	}
	if shift >= deepst {
		return n.removeColliding(k)
	}
	bit := bitOf(h, shift)
	switch {
	case n.entryMap&bit != 0:
		i := index(n.entryMap, bit)
		if n.entries[i].key != k {
			return n, false
		}
		if len(n.entries)+len(n.children) == 1 {
			return nil, true
		}
		n = n.edit(by)
		n.entryMap, n.entries = n.entryMap&^bit, slices.Delete(n.entries, i, i+1)
		return n, true
	case n.childMap&bit == 0:
		return n, false
	}
	j := index(n.childMap, bit)
	child, removed := n.children[j].remove(k, h, shift+fan, by)
	if !removed || child == n.children[j] && child.only() == nil {
		return n, removed
	}
	n = n.edit(by)
	if e := child.only(); e != nil { // the shape depends on the contents alone, not on the way there
		n.childMap, n.children = n.childMap&^bit, slices.Delete(n.children, j, j+1)
		n.entryMap, n.entries = n.entryMap|bit, slices.Insert(n.entries, index(n.entryMap, bit), e)
		return n, true
	}
	n.children[j] = child
	return n, true
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

// only returns the single entry of a node that has no more than that.
func (n *node[K, V]) only() *entry[K, V] {
	if len(n.entries) == 1 && len(n.children) == 0 {
		return n.entries[0]
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
	for _, c := range n.children {
		if !c.each(fn) {
			return false
		}
	}
	return true
}
