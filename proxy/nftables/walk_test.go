package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Along a walk of States, with restarts and rebuilds between, the table does with every packet what the State says; and so it does
// with a packet that meets a commit on its way.
func TestWalk(t *testing.T) {
	for _, f := range proxy.Families {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/%d", f, seed), func(t *testing.T) {
				t.Parallel()
				w := newWalker(t, f, seed)
				for range 40 {
					w.step()
				}
				t.Logf("%+v", w.seen)
				if w.seen.partial < 15 || w.seen.full < 5 || w.seen.replaced > 0 || w.seen.known < 20 || w.seen.mixed < 200 {
					t.Errorf("the walk did not lead through enough: %+v", w.seen)
				}
			})
		}
	}
}

// walker leads a Backend from State to State.
type walker struct {
	t       *testing.T
	rng     *rand.Rand
	kernel  *fakeKernel
	backend *Backend
	state   *proxy.State
	before  *proxy.State // the last one that the table was found to follow, while Applies fail
	steps   int
	full    bool // the last Apply rebuilt the table
	seen    struct{ partial, full, replaced, known, mixed, packets int }
}

func newWalker(t *testing.T, f proxy.Family, seed uint64) *walker {
	w := &walker{t: t, rng: rand.New(rand.NewPCG(seed, uint64(f))), kernel: newFakeKernel(f)}
	w.backend = w.kernel.backend(Options{})
	w.state = proxytest.RandomState(w.rng, f, 12)
	w.apply(w.state)
	return w
}

// step makes some changes, now and then after a restart or with everything forgotten, and checks all that must hold.
func (w *walker) step() {
	w.t.Helper()
	w.steps++
	switch w.rng.IntN(12) {
	case 0:
		w.backend = w.kernel.backend(Options{})
	case 1:
		w.backend.Forget()
	}
	before := w.state
	w.kernel.generations = []*fakeTable{w.kernel.tables[TableName]}
	w.apply(proxytest.Mutate(w.rng, w.state, 1+w.rng.IntN(4)))
	for i, g := range w.kernel.generations[1:] {
		w.checkMixed(w.kernel.generations[i], g, before)
	}
}

func (w *walker) apply(s *proxy.State) {
	w.t.Helper()
	w.state = s
	r, err := w.backend.Apply(w.t.Context(), s)
	if err != nil || len(r.Rejected) > 0 {
		w.t.Fatalf("step %d: %+v, %v", w.steps, r, err)
	}
	if w.full = r.Full; w.full {
		w.seen.full++
	} else {
		w.seen.partial++
	}
	w.checkTraces()
	w.checkSize()
	w.checkNothingToDo()
}

// checkTraces compares what the table does with what the State says, and has some clients remembered.
func (w *walker) checkTraces() {
	w.t.Helper()
	for _, p := range proxytest.Packets(w.state, proxytest.Addressing()) {
		tr := w.kernel.trace(p)
		want := proxytest.Trace(w.state, p)
		if problem := compareTraces(tr, want); problem != "" {
			w.t.Fatalf("step %d: %v: %s\n%s", w.steps, p, problem, w.kernel.dump())
		}
		w.seen.packets++
		for _, r := range tr.results {
			if r.known {
				w.seen.known++
			}
		}
		w.learn(tr)
	}
}

// compareTraces says how what was traced differs from what should be. The order of endpoints does not matter, and a client that is
// known has but one.
func compareTraces(tr *tracer, want proxytest.Outcome) string {
	got := tr.outcome()
	if len(tr.failures) > 0 {
		return fmt.Sprint(tr.failures)
	}
	if got.Verdict != want.Verdict {
		return fmt.Sprintf("verdict %v, want %v", got, want)
	}
	if len(tr.results) == 1 && tr.results[0].known {
		if !slices.Contains(want.Destinations, got.Destinations[0]) {
			return fmt.Sprintf("remembered %v, want one of %v", got, want)
		}
		return ""
	}
	return cmp.Diff(want.String(), got.String())
}

// learn writes what a packet would write to the affinity map, for one of the ways that it may go.
func (w *walker) learn(tr *tracer) {
	if len(tr.results) == 0 || w.rng.IntN(10) > 0 {
		return
	}
	clients := w.kernel.tables[TableName].set("affinity")
	for _, e := range tr.results[w.rng.IntN(len(tr.results))].learned {
		clients.elements[e.id()] = e
	}
}

// checkSize compares the numbers of elements with those of a table that is made afresh.
func (w *walker) checkSize() {
	w.t.Helper()
	fresh := newFakeKernel(w.state.Family)
	if _, err := fresh.backend(Options{}).Apply(w.t.Context(), w.state); err != nil {
		w.t.Fatal(err)
	}
	table := w.kernel.tables[TableName]
	for _, s := range fresh.tables[TableName].sets {
		if s.name == "dispatch" || s.name == "affinity" {
			continue // classes stay, and so do clients
		}
		if got := len(table.set(s.name).elements); got != len(s.elements) {
			w.t.Fatalf("step %d: %s has %d elements, want %d\n%s", w.steps, s.name, got, len(s.elements), w.kernel.dump())
		}
	}
	for _, s := range table.sets {
		if fresh.tables[TableName].set(s.name) == nil && len(s.elements) > 0 && table.uses(s.name) {
			w.t.Fatalf("step %d: %s has %d elements, want none", w.steps, s.name, len(s.elements))
		}
	}
}

// uses tells that a rule refers to a set.
func (t *fakeTable) uses(name string) bool {
	return slices.ContainsFunc(t.chains, func(c *fakeChain) bool {
		return slices.ContainsFunc(c.rules, func(r fakeRule) bool { return slices.Contains(r.words, "@"+name) })
	})
}

// checkNothingToDo applies the same State again.
func (w *walker) checkNothingToDo() {
	w.t.Helper()
	sent := w.kernel.sent
	if r, err := w.backend.Apply(w.t.Context(), w.state); err != nil || r.Full || r.Operations != 0 || w.kernel.sent != sent {
		w.t.Fatalf("step %d: again: %+v, %v, sent %d times", w.steps, r, err, w.kernel.sent-sent)
	}
}

// checkMixed follows packets that meet a commit on their way: they are treated as before it or as after it, and if both
// mean to be forwarded, they are forwarded to one of the endpoints before or after.
func (w *walker) checkMixed(before, after *fakeTable, beforeState *proxy.State) {
	w.t.Helper()
	if before.made != after.made {
		w.seen.replaced++
		return // in a table that was replaced, packets on their way find nothing any longer
	}
	c := proxytest.Addressing()
	for _, p := range append(proxytest.Packets(beforeState, c), proxytest.Packets(w.state, c)...) {
		a, b := proxytest.Trace(beforeState, p), proxytest.Trace(w.state, p)
		if a.String() == b.String() {
			continue
		}
		w.seen.mixed++
		for split, most := 0, 0; split <= most; split++ {
			tr := traceMixed(w.state.Family, before, after, split, p)
			most = tr.lookups
			for _, r := range tr.results {
				if problem := w.mixture(r, a, b, beforeState); problem != "" {
					w.t.Fatalf("step %d, commit after lookup %d: %v: %s: before %v, after %v\n%s", w.steps, split, p, problem, a, b,
						cmp.Diff((&fakeKernel{family: w.state.Family, tables: map[string]*fakeTable{TableName: before}}).dump(), w.kernel.dump()))
				}
			}
		}
	}
}

// endpointsOf lists the endpoints in all pools of a Service in some States.
func endpointsOf(name proxy.ServicePortName, states ...*proxy.State) (out []netip.AddrPort) {
	for _, state := range states {
		if s, ok := state.Services.Get(name); ok {
			for _, e := range slices.Concat(s.Cluster, s.Local) {
				out = append(out, e.Addr)
			}
		}
	}
	return out
}

// mixture says what is wrong with one way of a packet that met a commit. It may be treated by the old Service's rules and sent to the
// new one's endpoints, so the pools do not matter, but Services do.
func (w *walker) mixture(r traced, a, b proxytest.Outcome, before *proxy.State) string {
	serves := func(name proxy.ServicePortName) bool {
		return slices.Contains(endpointsOf(name, before, w.state), r.to.Addr)
	}
	forwards := r.verdict == proxytest.Forwarded
	switch {
	case forwards && !serves(a.Service) && !serves(b.Service):
		return fmt.Sprintf("led astray to %v", r.to.Addr)
	case !before.Node.Equal(w.state.Node):
		// By the old facts it came from elsewhere than by the new ones.
	case !forwards && a.Verdict == proxytest.Forwarded && b.Verdict == proxytest.Forwarded && !(w.full && lostPool(a.Service, before, w.state)):
		return fmt.Sprintf("lost: %v", r.verdict)
	case r.verdict == proxytest.Pass && a.Service.Name != "" && b.Verdict == proxytest.Forwarded:
		return "passes"
	case r.verdict == proxytest.Pass && a.Verdict == proxytest.Forwarded && b.Verdict != proxytest.Pass:
		return "passes"
	}
	return ""
}

// lostPool tells that a Service has no endpoints any longer in a pool that had some. A rebuild has them go at once, an update only when no
// packet is under way to them.
func lostPool(name proxy.ServicePortName, before, after *proxy.State) bool {
	a, hadA := before.Services.Get(name)
	b, hasB := after.Services.Get(name)
	if !hadA || !hasB {
		return hadA
	}
	return len(a.Cluster) > 0 && len(b.Cluster) == 0 || len(a.Local) > 0 && len(b.Local) == 0
}
