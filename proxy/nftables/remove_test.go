package nftables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// A table goes in steps: first the ways for new connections, then those for the packets of connections, and then what nothing leads to any longer. Between any two
// of them the packets come through that are on their way.
func TestRemoveInSteps(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	if _, err := b.Apply(t.Context(), proxytest.LargeState(3)); err != nil {
		t.Fatal(err)
	}
	var got []string
	b.kernel.wait = func() {
		var hooked []string
		table, elements := k.tables[TableName], 0
		for _, c := range table.chains {
			if c.hook != "" {
				hooked = append(hooked, c.name)
			}
		}
		slices.Sort(hooked)
		for _, s := range table.sets {
			elements += len(s.elements)
		}
		got = append(got, fmt.Sprintf("%s; elements: %v", strings.Join(hooked, " "), elements > 0))
	}
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"filter-input nat-postrouting; elements: true", "; elements: true"}, got); diff != "" {
		t.Errorf("what there is while packets come through (-want +got):\n%s", diff)
	}
	if k.tables[TableName] != nil {
		t.Error("the table is still there")
	}
	if err := b.Cleanup(t.Context()); err != nil || len(got) > 2 {
		t.Errorf("once more: %v, and %d waits", err, len(got))
	}
}
