package hamt_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy/hamt"
)

type key struct{ name string }

// TestAgainstGoMap walks at random and compares with a map of the language; every version ever made must stay as it was.
func TestAgainstGoMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var m hamt.Map[key, int]
	model := map[key]int{}
	type version struct {
		m     hamt.Map[key, int]
		model map[key]int
	}
	var versions []version
	for step := range 20000 {
		k := key{fmt.Sprint(rng.IntN(500))}
		if rng.IntN(3) == 0 {
			m = m.Delete(k)
			delete(model, k)
		} else {
			m = m.Set(k, step)
			model[k] = step
		}
		if step%500 == 0 {
			versions = append(versions, version{m, maps.Clone(model)})
		}
	}
	for _, v := range versions {
		compare(t, v.m, v.model)
	}
	for range 200 {
		a, b := versions[rng.IntN(len(versions))], versions[rng.IntN(len(versions))]
		compareDiff(t, a.m, b.m, a.model, b.model)
	}
}

// TestBuilder checks that building in place neither changes what it began with nor what was taken from it.
func TestBuilder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var base hamt.Map[key, int]
	model := map[key]int{}
	for i := range 300 {
		base, model[key{fmt.Sprint(i)}] = base.Set(key{fmt.Sprint(i)}, i), i
	}
	b, edited := base.Edit(), maps.Clone(model)
	change := func() {
		for range 1000 {
			k := key{fmt.Sprint(rng.IntN(900))}
			if v := rng.Int(); v%4 == 0 {
				b.Delete(k)
				delete(edited, k)
			} else {
				b.Set(k, v)
				edited[k] = v
			}
		}
	}
	change()
	first, firstModel := b.Map(), maps.Clone(edited)
	change()
	second := b.Map()
	compare(t, base, model)
	compare(t, first, firstModel)
	compare(t, second, edited)
	compareDiff(t, base, second, model, edited)
	compareDiff(t, first, second, firstModel, edited)
	if b.Len() != len(edited) {
		t.Errorf("Len() = %d, want %d", b.Len(), len(edited))
	}
}

// TestDiffVisitsChangesOnly counts comparisons: a change to one of many entries must not lead to looking at all.
func TestDiffVisitsChangesOnly(t *testing.T) {
	b := hamt.Map[key, int]{}.Edit()
	for i := range 30000 {
		b.Set(key{fmt.Sprint(i)}, i)
	}
	before := b.Map()
	after := before.Set(key{"7"}, -7).Delete(key{"8"}).Set(key{"new"}, 1)
	compared := 0
	changes := hamt.Diff(before, after, func(x, y int) bool { compared++; return x == y })
	if len(changes) != 3 || compared > 3 {
		t.Errorf("%d changes with %d comparisons, want 3 with at most 3: %v", len(changes), compared, changes)
	}
	if before.Same(after) || !before.Same(before) || !before.Delete(key{"absent"}).Same(before) {
		t.Error("Same does not tell versions apart")
	}
}

func compare(t *testing.T, m hamt.Map[key, int], want map[key]int) {
	t.Helper()
	got := maps.Collect(m.All())
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(key{})); diff != "" {
		t.Fatalf("entries (-want +got):\n%s", diff)
	}
	if m.Len() != len(want) {
		t.Fatalf("Len() = %d, want %d", m.Len(), len(want))
	}
	for k, v := range want {
		if got, ok := m.Get(k); !ok || got != v {
			t.Fatalf("Get(%v) = %d, %v, want %d", k, got, ok, v)
		}
	}
	if _, ok := m.Get(key{"absent"}); ok {
		t.Fatal("Get finds what is not there")
	}
}

// compareDiff applies a difference to the one map and compares with the other.
func compareDiff(t *testing.T, a, b hamt.Map[key, int], from, to map[key]int) {
	t.Helper()
	got := maps.Clone(from)
	for _, c := range hamt.Diff(a, b, func(x, y int) bool { return x == y }) {
		old, had := from[c.Key]
		if had != c.Had || had && old != c.Old {
			t.Fatalf("change %+v, but the key had %d, %v", c, old, had)
		}
		if c.Has {
			got[c.Key] = c.New
		} else {
			delete(got, c.Key)
		}
		if value, has := to[c.Key]; has && had && value == old {
			t.Fatalf("change %+v is none", c)
		}
	}
	if diff := cmp.Diff(to, got, cmp.AllowUnexported(key{})); diff != "" {
		t.Fatalf("after applying the difference (-want +got):\n%s", diff)
	}
}
