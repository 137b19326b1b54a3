package nftables

import (
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Where there is no table, the sets of ranges are complete before there are rules. A table that is there is replaced in one step.
func TestRangesFirst(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	for _, row := range []struct {
		name string
		want int
	}{{"from nothing", 2}, {"in place of another", 1}} {
		name, want := row.name, row.want
		if table := k.tables[TableName]; table != nil {
			table.comment = "another layout"
			b.Forget()
		}
		k.generations = nil
		if _, err := b.Apply(t.Context(), proxytest.LargeState(3)); err != nil {
			t.Fatal(err)
		}
		if len(k.generations) != want {
			t.Errorf("%s: %d steps, want %d", name, len(k.generations), want)
		}
		for i, table := range k.generations {
			pods := table.set("pod-cidrs")
			if pods == nil || len(pods.elements) == 0 {
				t.Errorf("%s: no ranges of pods after step %d", name, i+1)
			}
			if rules := len(table.chains) > 0; rules != (i == len(k.generations)-1) {
				t.Errorf("%s: rules after step %d: %t", name, i+1, rules)
			}
		}
	}
}
