package hamt

// Builder makes a Map out of another by many changes: nodes that it made are changed in place rather than copied each time. The
// Map that it began with stays as it is. A Builder must not be used by several goroutines at once.
type Builder[K comparable, V any] struct {
	m  Map[K, V]
	by *token
}

// Edit returns a Builder that begins with the entries of the map.
func (m Map[K, V]) Edit() *Builder[K, V] { return &Builder[K, V]{m: m, by: new(token)} }

// Get returns the value of a key and whether there is one.
func (b *Builder[K, V]) Get(k K) (V, bool) { return b.m.Get(k) }

// Len returns the number of entries.
func (b *Builder[K, V]) Len() int { return b.m.size }

// Set puts v at k.
func (b *Builder[K, V]) Set(k K, v V) { b.m = b.m.set(k, v, b.by) }

// Delete removes k.
func (b *Builder[K, V]) Delete(k K) { b.m = b.m.delete(k, b.by) }

// Map returns what was made. Later changes by the Builder do not affect it.
func (b *Builder[K, V]) Map() Map[K, V] {
	b.by = new(token)
	return b.m
}
