package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
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

// endpoint is where the client is led; invalid if the value cannot be one.
func (r *remembered) endpoint() netip.AddrPort {
	const port = 4 // in a register
	if len(r.value) < port {
		return netip.AddrPort{}
	}
	at := len(r.value) - port
	a, _ := netip.AddrFromSlice(r.value[:at])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(r.value[at:]))
}

// sweep deletes the memory of clients whose endpoint is no longer in the pool. It reads the affinity map, so it is done only if a
// Service with affinity lost an endpoint, or after a rebuild. It reads again until it finds nothing: the kernel goes on at the place in the
// map where it stopped for want of room in a message, and passes over some entries if others before that place ended meanwhile. A client that
// was passed over for good would be led to an endpoint that is gone for hours.
func (b *Backend) sweep() (forgotten int, err error) {
	t := b.table
	leads := t.leads()
	for range dumpAttempts {
		gone, err := b.kernel.remembered(t.sets.affinity, func(r *remembered) bool {
			return (b.sweepAll || t.stale[r.number()&numberBits]) && !leads(r)
		})
		if err == nil {
			err = b.forgetClients(gone)
		}
		if err != nil {
			return forgotten, err
		}
		if len(gone) == 0 {
			break
		}
		forgotten += len(gone)
	}
	b.sweepAll = false
	clear(t.stale)
	return forgotten, nil
}

// carryOver adds the clients that the table in the kernel remembers to a transaction that replaces it.
func (b *Backend) carryOver(t *table, tx *transaction) error {
	if len(t.byNumber) == 0 {
		return nil
	}
	clients, err := b.kernel.remembered(t.sets.affinity, t.leads())
	for _, c := range clients {
		tx.add(element{set: t.sets.affinity, key: c.key, value: c.value, more: &details{timeout: c.timeout, expires: c.expires}}, -1)
	}
	return err
}

// forgetClients deletes entries. One of them may end while they are deleted, and the kernel then refuses them all: it is looked for by
// halves.
func (b *Backend) forgetClients(gone []remembered) error {
	if len(gone) == 0 {
		return nil
	}
	err := b.kernel.commit(b.forgetting(gone...))
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if len(gone) == 1 {
		return nil
	}
	half := len(gone) / 2
	return cmp.Or(b.forgetClients(gone[:half]), b.forgetClients(gone[half:]))
}

func (b *Backend) forgetting(gone ...remembered) *transaction {
	tx := &transaction{}
	for _, r := range gone {
		tx.remove(element{set: b.table.sets.affinity, key: r.key}, -1)
	}
	return tx
}

// leads returns what tells whether a client is remembered for an endpoint that its pool has.
func (t *table) leads() func(*remembered) bool {
	pools := map[uint32]map[netip.AddrPort]bool{} // of the numbers that were asked for, which may have thousands of clients
	return func(r *remembered) bool {
		number := r.number()
		pool, ok := pools[number]
		if !ok {
			pool = t.byNumber[number&numberBits].endpoints(number&localBit != 0)
			pools[number] = pool
		}
		return pool[r.endpoint()]
	}
}

// endpoints returns those of a pool; none if there is no such Service.
func (p *programmed) endpoints(local bool) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	if p == nil {
		return out
	}
	pool := proxy.Cluster
	if local {
		pool = proxy.Local
	}
	for _, a := range p.slots[pool] {
		out[a] = true
	}
	return out
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
