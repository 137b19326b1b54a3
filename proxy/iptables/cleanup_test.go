package iptables

import (
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// The jumps by which new connections are translated go before that by which they are masqueraded, and packets come through in between.
func TestCleanupInSteps(t *testing.T) {
	k := newFakeKernel()
	b := newBackend(Options{Family: proxy.IPv4}, k)
	if _, err := b.Apply(t.Context(), proxytest.LargeState(3)); err != nil {
		t.Fatal(err)
	}
	type jumps struct{ prerouting, output, postrouting int }
	var got []jumps
	b.wait = func() {
		n := k.tables[nat]
		got = append(got, jumps{len(n["PREROUTING"]), len(n["OUTPUT"]), len(n["POSTROUTING"])})
		if len(n[servicesChain]) == 0 || len(n[postroutingChain]) == 0 {
			t.Error("rules are gone that packets may be in")
		}
	}
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != (jumps{postrouting: 1}) || got[1] != (jumps{}) {
		t.Errorf("jumps while packets come through: %+v, want one for packets on their way out, then none", got)
	}
}
