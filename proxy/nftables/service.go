package nftables

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"time"

	"turnout/proxy"
)

// A programmed Service is a Service together with what was chosen for it: its number and the slots of its endpoints. It is not
// modified once it was applied.
type programmed struct {
	service *proxy.Service
	number  uint32
	slots   [2][]netip.AddrPort // by pool
}

// program chooses the slots of a Service so that they differ little from the old ones.
func program(s *proxy.Service, number uint32, old *programmed) *programmed {
	p := &programmed{service: s, number: number}
	for _, pool := range [...]proxy.Pool{proxy.Cluster, proxy.Local} {
		var before []netip.AddrPort
		if old != nil {
			before = old.slots[pool]
		}
		p.slots[pool] = assign(before, s.Pool(pool))
	}
	return p
}

// renderer turns programmed Services into elements.
type renderer struct {
	sets    *sets
	bytes   *arena
	sticky  func(time.Duration) (frontends, nodeports *set)
	classes func(class) uint32 // the number of a class
}

// frontends appends the elements of the Service's frontends: everything but its endpoints.
func (r *renderer) frontends(out []element, p *programmed) []element {
	s := p.service
	for i := range s.Frontends {
		f := &s.Frontends[i]
		key, c := s.Key(f), classOf(s, f)
		value := p.number
		if c.usesLocal() {
			value |= localBit
		}
		to := r.sets.frontends
		if f.Kind == proxy.NodePort {
			to = r.sets.nodeports
		}
		out = append(out, element{set: to, key: r.bytes.tuple(key), value: r.bytes.numberKey(r.classes(c)<<classShift | value), named: true})
		if c.sticky {
			out = append(out, r.stickyElement(p, f, key))
		}
		for _, source := range f.AllowedSources {
			out = append(out, element{set: r.sets.allowed, key: r.bytes.source(key, source.Addr()), more: &details{keyEnd: r.bytes.source(key, lastAddr(source))}})
		}
	}
	return r.memorable(out, p)
}

// memorable appends what clients of a Service with affinity may be remembered for: the endpoints of each pool.
func (r *renderer) memorable(out []element, p *programmed) []element {
	if p.service.Affinity == 0 {
		return out
	}
	for _, pool := range [...]proxy.Pool{proxy.Cluster, proxy.Local} {
		for _, a := range p.slots[pool] {
			out = append(out, element{set: r.sets.memorable, key: r.bytes.endpointKey(p.numberOf(pool), a)})
		}
	}
	return out
}

// numberOf is the number by which the kernel finds a pool's endpoints.
func (p *programmed) numberOf(pool proxy.Pool) uint32 {
	if pool == proxy.Local {
		return p.number | localBit
	}
	return p.number
}

// stickyElement leads from a frontend with session affinity to the memory of its Service: all of a Service's frontends share one.
func (r *renderer) stickyElement(p *programmed, f *proxy.Frontend, key proxy.FrontendKey) element {
	frontends, nodeports := r.sticky(p.service.Affinity)
	value := p.number
	if len(p.service.Local) > 0 {
		value |= localBit
	}
	to := frontends
	if f.Kind == proxy.NodePort {
		to = nodeports
	}
	return element{set: to, key: r.bytes.tuple(key), value: r.bytes.numberKey(value)}
}

// endpoint is the element of one slot.
func (r *renderer) endpoint(p *programmed, pool proxy.Pool, slot int) element {
	return element{set: r.sets.endpoints, key: r.bytes.slotKey(p.numberOf(pool), uint32(slot)), value: r.bytes.addrPort(p.slots[pool][slot])}
}

// diffEndpoints appends what must be deleted and added to get from one assignment of slots to another; either may be nil. What deletes a pool
// as a whole is appended to parting.
func (r *renderer) diffEndpoints(tx, parting *transaction, owner int32, before, after *programmed) {
	for _, pool := range [...]proxy.Pool{proxy.Cluster, proxy.Local} {
		had, has := slotCount(before, pool), slotCount(after, pool)
		// Without a change of number or slots there is nothing to look at; a Service may have thousands of endpoints.
		if had > 0 && has == had && before.number == after.number && &before.slots[pool][0] == &after.slots[pool][0] {
			continue
		}
		gone := tx
		if before == nil {
			tx.new.reserve(r.sets.endpoints, uint32(has))
		} else if has == 0 && had > 0 {
			gone = parting
			gone.gone.reserve(r.sets.endpoints, uint32(had))
		}
		for i := range max(had, has) {
			same := i < had && i < has && before.number == after.number && before.slots[pool][i] == after.slots[pool][i]
			if i < had && !same {
				gone.remove(r.endpoint(before, pool, i), owner)
			}
			if i < has && !same {
				tx.add(r.endpoint(after, pool, i), owner)
			}
		}
	}
}

func slotCount(p *programmed, pool proxy.Pool) int {
	if p == nil {
		return 0
	}
	return len(p.slots[pool])
}

// diffElements appends what must be deleted and added to get from one short list of elements to another.
func diffElements(tx *transaction, owner int32, before, after []element) {
	slices.SortFunc(before, compareElements)
	slices.SortFunc(after, compareElements)
	for len(before) > 0 || len(after) > 0 {
		c := 0
		switch {
		case len(before) == 0:
			c = 1
		case len(after) == 0:
			c = -1
		default:
			c = compareElements(before[0], after[0])
		}
		switch {
		case c < 0:
			tx.remove(before[0], owner)
			before = before[1:]
		case c > 0:
			tx.add(after[0], owner)
			after = after[1:]
		default:
			if !bytes.Equal(before[0].value, after[0].value) {
				tx.remove(before[0], owner)
				tx.add(after[0], owner)
			}
			before, after = before[1:], after[1:]
		}
	}
}

func compareElements(a, b element) int {
	if a.set != b.set {
		return strings.Compare(a.set.name, b.set.name)
	}
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c
	}
	if a.more == nil && b.more == nil {
		return 0
	}
	return bytes.Compare(a.detail().keyEnd, b.detail().keyEnd)
}
