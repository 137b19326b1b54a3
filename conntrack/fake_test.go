package conntrack

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"turnout/proxy"
)

// fakeTable is a table in memory. Like the kernel it filters dumps, delivers a flow again that it cannot tell from a new one,
// and knows nothing of flows that were removed.
type fakeTable struct {
	flows []Flow
	// interruptions is how many of the next dumps end after the first flow; opens and dumps count what was asked.
	interruptions, opens, dumps int
	filters                     []filter
	// vanished are flows that are gone by the time they are removed; refused are those that cannot be removed.
	vanished, refused map[uint32]bool
}

var _ table = (*fakeTable)(nil)

func (t *fakeTable) cleaner(family proxy.Family) *Cleaner {
	c := NewCleaner(family)
	c.open = func(proxy.Family) (table, error) { t.opens++; return t, nil }
	return c
}

func (t *fakeTable) close() {}

func (t *fakeTable) each(f filter, fn func(Flow) bool) error {
	t.dumps++
	t.filters = append(t.filters, f)
	for _, flow := range slices.Clone(t.flows) {
		if flow.Protocol != f.protocol || proxy.FamilyOf(flow.Original.Dst.Addr()) != f.family ||
			f.port != 0 && flow.Original.Dst.Port() != f.port || f.addr.IsValid() && flow.Original.Dst.Addr() != f.addr {
			continue
		}
		if !fn(flow) {
			return nil
		}
		if t.interruptions > 0 {
			t.interruptions--
			return fmt.Errorf("dump: %w", errInterrupted)
		}
	}
	return nil
}

func (t *fakeTable) remove(f Flow) (bool, error) {
	if t.refused[f.ID] {
		return false, errors.New("operation not permitted")
	}
	i := slices.IndexFunc(t.flows, func(g Flow) bool { return g.ID == f.ID && g.Original == f.Original && g.Protocol == f.Protocol })
	if i < 0 {
		return false, nil
	}
	t.flows = slices.Delete(t.flows, i, i+1)
	return !t.vanished[f.ID], nil
}

// String lists the flows, one per line.
func (t *fakeTable) String() string {
	var b strings.Builder
	for _, f := range t.flows {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}
