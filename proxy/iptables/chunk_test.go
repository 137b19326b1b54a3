package iptables

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// A rebuild, or a cleanup, in several steps has none after which a rule leads to a chain without rules.
func TestChunks(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 4))
	k := newFakeKernel()
	k.size = 3
	b := newBackend(Options{Family: proxy.IPv4}, k)
	state := proxytest.RandomState(rng, proxy.IPv4, 30)
	if _, err := b.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	steps := 0
	k.seen = func() {
		steps++
		for name, rules := range k.tables[nat] {
			for _, r := range rules {
				to := target(r)
				if strings.HasPrefix(to, "KUBE-") && to != nodePortsChain && len(k.tables[nat][to]) == 0 {
					t.Errorf("step %d: %s leads to %s, which is empty", steps, name, to)
				}
			}
		}
	}
	state = proxytest.Mutate(rng, state, 40)
	b.Forget()
	if _, err := b.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	if steps < 8 {
		t.Errorf("a rebuild of 30 Services had %d steps", steps)
	}
	k.size, steps = 1, 0
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for table, chains := range k.tables {
		for name := range chains {
			if !slices.Contains(builtin[table], name) {
				t.Errorf("cleanup left %s in table %s", name, table)
			}
		}
	}
	if steps < 5 {
		t.Errorf("a cleanup had %d steps", steps)
	}
}

// The mark that is set and the one that is looked for change at the same time, also in a rebuild of several steps.
func TestChunksAndMark(t *testing.T) {
	k := newFakeKernel()
	k.size = 3
	b := newBackend(Options{Family: proxy.IPv4}, k)
	state := proxytest.RandomState(rand.New(rand.NewPCG(13, 4)), proxy.IPv4, 30)
	if _, err := b.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	steps := 0
	k.seen = func() {
		steps++
		set, asked := k.tables[nat][markChain][0], k.tables[nat][postroutingChain][0]
		if mark := set[strings.LastIndex(set, "/")+1:]; !strings.Contains(asked, " "+mark+"/"+mark+" ") {
			t.Errorf("step %d: %q, and %q", steps, set, asked)
		}
	}
	next, node := *state, *state.Node
	node.MasqueradeMark <<= 1
	next.Node = &node
	if r, err := b.Apply(t.Context(), &next); err != nil || !r.Full || steps < 8 {
		t.Errorf("%+v, %v, %d steps", r, err, steps)
	}
}
