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

func endpoints(ports ...int) (out []proxy.Endpoint) {
	for _, p := range ports {
		out = append(out, proxy.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr("10.244.0.1"), uint16(p))})
	}
	return out
}

func ports(slots []netip.AddrPort) (out []int) {
	for _, a := range slots {
		out = append(out, int(a.Port()))
	}
	return out
}

func TestAssign(t *testing.T) {
	for _, row := range []struct {
		name            string
		old, pool, want []int
	}{
		{"all new", nil, []int{1, 2, 3}, []int{1, 2, 3}},
		{"no change", []int{3, 1, 2}, []int{1, 2, 3}, []int{3, 1, 2}},
		{"added at the end", []int{2, 3}, []int{1, 2, 3}, []int{2, 3, 1}},
		{"removed at the end", []int{1, 2, 3}, []int{1, 2}, []int{1, 2}},
		{"the last one fills the hole", []int{1, 2, 3, 4}, []int{2, 3, 4}, []int{4, 2, 3}},
		{"a new one fills the hole", []int{1, 2, 3}, []int{2, 3, 9}, []int{9, 2, 3}},
		{"those behind the end go first into holes", []int{1, 2, 3, 4}, []int{3, 4}, []int{3, 4}},
		{"all replaced", []int{1, 2}, []int{3, 4, 5}, []int{3, 4, 5}},
		{"none left", []int{1, 2}, nil, nil},
	} {
		old := assign(nil, endpoints(row.old...))
		if got := ports(assign(old, endpoints(row.pool...))); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v to %v: got %v, want %v", row.name, row.old, row.pool, got, row.want)
		}
		if !slices.Equal(ports(old), row.old) {
			t.Errorf("%s: the old slots were changed to %v", row.name, ports(old))
		}
	}
}

// Slots hold exactly the pool; whoever stays keeps the slot if there is one of that number; and no fewer slots can change.
func TestAssignAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var slots []netip.AddrPort
	for step := range 2000 {
		var pool []proxy.Endpoint
		likely := rng.IntN(5)
		for p := range 1 + rng.IntN(20) {
			if rng.IntN(5) < likely {
				pool = append(pool, endpoints(p)...)
			}
		}
		next := assign(slots, pool)
		sorted := slices.Sorted(slices.Values(ports(next)))
		var want []int
		for _, e := range pool {
			want = append(want, int(e.Addr.Port()))
		}
		if diff := cmp.Diff(want, sorted); diff != "" {
			t.Fatalf("step %d: slots do not hold the pool: -want +got:\n%s", step, diff)
		}
		for i, a := range slots {
			if i < len(next) && slices.Contains(next, a) && next[i] != a {
				t.Fatalf("step %d: %v lost slot %d: %v to %v", step, a, i, ports(slots), ports(next))
			}
		}
		slots = next
	}
}

// A number is given again only when all others were, oldest first, and never by the transaction that freed it.
func TestNumbers(t *testing.T) {
	name := func(i int) proxy.ServicePortName { return proxytest.Name(fmt.Sprintf("ns/s%d/TCP", i)) }
	n := newNumbers(0)
	n.adopt(name(0), 2)
	n.adopt(name(1), 2) // taken
	n.adopt(name(1), 0)
	n.adopt(name(1), maxNumber+1)
	n.reserve(4)
	n.reserve(2) // of a Service
	var got []uint32
	get := func(i int) {
		v, err := n.get(name(i))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	get(0)
	for i := 1; i <= 3; i++ {
		get(i)
	}
	get(2) // again
	if want := []uint32{2, 1, 3, 5, 3}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	n.next = maxNumber // as if all between had been given
	got = nil
	get(10)
	n.release(name(2)) // 3
	n.release(name(2))
	n.release(name(99))
	if v, err := n.get(name(11)); err == nil {
		t.Errorf("a number was used by the transaction that freed it: %d", v)
	}
	n.committed()      // what was found and what was freed
	n.release(name(0)) // 2
	n.committed()
	for i := 11; i <= 13; i++ {
		get(i)
	}
	if want := []uint32{maxNumber, 4, 3, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := n.get(name(14)); err == nil {
		t.Error("more numbers than there are")
	}
}

func TestClassNames(t *testing.T) {
	forward := func(p proxy.Pool, masquerade bool) proxy.Action { return proxy.Action{Pool: p, Masquerade: masquerade} }
	reject, drop := proxy.Action{Verdict: proxy.Reject}, proxy.Action{Verdict: proxy.Drop}
	names := map[string]class{}
	actions := []proxy.Action{forward(0, false), forward(0, true), forward(1, false), forward(1, true), reject, drop}
	for _, a := range actions {
		for _, b := range actions {
			for _, c := range actions {
				for bits := range 4 {
					x := class{actions: [3]proxy.Action{a, b, c}, sticky: bits&1 > 0, restricted: bits&2 > 0}
					for _, act := range x.actions {
						if act.Verdict == proxy.Forward {
							x.endpoints[act.Pool] = 2 + int(act.Pool)
						}
					}
					if x.endpoints == [2]int{} && x.sticky {
						continue // nothing to remember
					}
					if other, ok := names[x.name()]; ok {
						t.Fatalf("%+v and %+v are both called %s", x, other, x.name())
					}
					names[x.name()] = x
					if len(x.name()) > 200 {
						t.Errorf("name %s is too long for a chain", x.name())
					}
				}
			}
		}
	}
}
