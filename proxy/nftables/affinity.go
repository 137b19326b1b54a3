package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// A remembered client is an entry of the affinity map.
type remembered struct {
	key, value       []byte
	timeout, expires time.Duration
}

// number is the Service's number and the local bit.
func (r *remembered) number() uint32 { return binary.NativeEndian.Uint32(r.key) & poolBits }

// sweep deletes the memory of clients whose endpoint is no longer in the pool. It reads the affinity map, so it is done only if a
// Service with affinity lost an endpoint, or after a rebuild.
func (b *Backend) sweep() (forgotten int, err error) {
	t := b.table
	gone, err := b.kernel.remembered(t.sets.affinity, func(r *remembered) bool {
		number := r.number() & numberBits
		return (b.sweepAll || t.stale[number]) && !leadsSomewhere(t.byNumber[number], r)
	})
	if err != nil {
		return 0, err
	}
	if err := b.forgetClients(gone); err != nil {
		return 0, err
	}
	b.sweepAll = false
	clear(t.stale)
	return len(gone), nil
}

// carryOver adds the clients that the table in the kernel remembers to a transaction that replaces it.
func (b *Backend) carryOver(t *table, tx *transaction) error {
	if len(t.byNumber) == 0 {
		return nil
	}
	clients, err := b.kernel.remembered(t.sets.affinity, func(r *remembered) bool {
		return leadsSomewhere(t.byNumber[r.number()&numberBits], r)
	})
	for _, c := range clients {
		tx.add(element{set: t.sets.affinity, key: c.key, value: c.value, more: &details{timeout: c.timeout, expires: c.expires}}, -1)
	}
	return err
}

// forgetClients deletes entries. One of them may end while they are deleted, and the kernel then refuses them all: they are tried
// one by one.
func (b *Backend) forgetClients(gone []remembered) error {
	if len(gone) == 0 || b.kernel.commit(b.forgetting(gone...)) == nil {
		return nil
	}
	for _, r := range gone {
		if err := b.kernel.commit(b.forgetting(r)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func (b *Backend) forgetting(gone ...remembered) *transaction {
	tx := &transaction{}
	for _, r := range gone {
		tx.remove(element{set: b.table.sets.affinity, key: r.key}, -1)
	}
	return tx
}

func leadsSomewhere(p *programmed, r *remembered) bool {
	if p == nil {
		return false
	}
	pool := proxy.Cluster
	if r.number()&localBit != 0 {
		pool = proxy.Local
	}
	return slices.ContainsFunc(p.slots[pool], func(a netip.AddrPort) bool { return matches(a, r.value) })
}

func matches(a netip.AddrPort, value []byte) bool {
	ip := a.Addr().AsSlice()
	return len(value) >= len(ip)+2 && bytes.Equal(value[:len(ip)], ip) && binary.BigEndian.Uint16(value[len(ip):]) == a.Port()
}

// remembered lists the clients that keep wants.
func (k *kernel) remembered(affinity *set, keep func(*remembered) bool) (out []remembered, err error) {
	for range dumpAttempts {
		out = out[:0]
		err = k.dump(affinity, func(e dumped) error {
			r := remembered{key: e.key, value: e.value}
			if len(e.key) > 4 && keep(&r) {
				// The kernel does not tell a timeout that is the map's own.
				out = append(out, remembered{key: bytes.Clone(e.key), value: bytes.Clone(e.value), timeout: cmp.Or(e.timeout, affinity.timeout), expires: e.expires})
			}
			return nil
		})
		if !errors.Is(err, errInterrupted) {
			return out, err
		}
	}
	return out, err
}

// dumpAttempts is how often a dump is repeated that was interrupted by a change of another process's tables.
const dumpAttempts = 5
