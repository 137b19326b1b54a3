package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
)

// numbered gives flows IDs and clients of their own, from 1.
func numbered(flows ...Flow) []Flow {
	for i := range flows {
		flows[i].ID = uint32(i + 1)
		flows[i].Original.Src = netip.AddrPortFrom(flows[i].Original.Src.Addr(), uint16(40000+i))
		flows[i].Reply.Dst = flows[i].Original.Src
	}
	return flows
}

func TestCleanRemovesAllAndOnlyStaleFlows(t *testing.T) {
	table := &fakeTable{flows: numbered(flow(vip, podA), flow(vip, podB), flow("8.8.8.8:53", "8.8.8.8:53"), flow(vip, vip))}
	want := (&fakeTable{flows: []Flow{table.flows[0], table.flows[2]}}).String()
	r, err := table.cleaner(proxy.IPv4).Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if err != nil || !r.Ran || r.Deleted != 2 || r.Examined != 3 || r.Duration <= 0 {
		t.Errorf("got %+v, %v, want 2 of 3 deleted", r, err)
	}
	if table.String() != want {
		t.Errorf("left:\n%swant:\n%s", table, want)
	}
}

func TestInterruptedDumpsAreRepeated(t *testing.T) {
	table := &fakeTable{flows: numbered(flow(vip, podB), flow(vip, vip)), interruptions: attempts - 1}
	r, err := table.cleaner(proxy.IPv4).Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if err != nil || r.Deleted != 2 || len(table.flows) != 0 {
		t.Errorf("got %+v, %v after %d dumps, left: %s", r, err, table.dumps, table)
	}
}

func TestPartialResultsAreUsedAndTheRestIsTriedAgain(t *testing.T) {
	flows := numbered(flow(vip, podA), flow(vip, podB), flow(vip, podB), flow(vip, podB), flow(vip, podB), flow(vip, podB), flow(vip, podB), flow(vip, podB))
	table := &fakeTable{flows: flows[1:], interruptions: attempts}
	c := table.cleaner(proxy.IPv4)
	r, err := c.Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if !errors.Is(err, errInterrupted) || table.dumps != attempts || r.Deleted != attempts {
		t.Fatalf("got %+v, %v after %d dumps, want %d deleted", r, err, table.dumps, attempts)
	}
	r, err = c.Clean(context.Background(), nil, nil)
	if err != nil || !r.Ran || r.Deleted != 2 || len(table.flows) != 0 {
		t.Fatalf("again: %+v, %v, left: %s", r, err, table)
	}
	if r, err = c.Clean(context.Background(), nil, nil); err != nil || r.Ran {
		t.Fatalf("after success: %+v, %v, want no run", r, err)
	}
}

func TestGoneFlowIsNoError(t *testing.T) {
	table := &fakeTable{flows: numbered(flow(vip, podB)), vanished: map[uint32]bool{1: true}}
	r, err := table.cleaner(proxy.IPv4).Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if err != nil || r.Deleted != 0 || r.Examined != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestOneRefusedDeletionDoesNotStopOthers(t *testing.T) {
	table := &fakeTable{flows: numbered(flow(vip, podB), flow(vip, podB), flow(vip, podB)), refused: map[uint32]bool{1: true, 2: true}}
	c := table.cleaner(proxy.IPv4)
	r, err := c.Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if err == nil || r.Deleted != 1 {
		t.Fatalf("got %+v, %v, want an error and 1 deleted", r, err)
	}
	for _, part := range []string{"clean IPv4 conntrack flows", "2 deletions", "10.96.0.10:53/UDP", "not permitted"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not tell %q", err, part)
		}
	}
	table.refused = nil
	if r, err = c.Clean(context.Background(), nil, nil); err != nil || r.Deleted != 2 {
		t.Fatalf("again: %+v, %v", r, err)
	}
}

func TestCleanStopsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	table := &fakeTable{flows: numbered(flow(vip, podA), flow(vip, podA))}
	c := table.cleaner(proxy.IPv4)
	r, err := c.Clean(ctx, nil, []Change{{New: service("dns", []string{vip}, podA)}})
	if !errors.Is(err, context.Canceled) || r.Examined != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestKernelThatCannotBeAsked(t *testing.T) {
	c := NewCleaner(proxy.IPv6)
	refusal := errors.New("protocol not supported")
	c.open = func(proxy.Family) (table, error) { return nil, refusal }
	if _, err := c.Clean(context.Background(), nil, []Change{{New: service("dns", []string{"[fd00::10]:53"})}}); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
}

// TestChangesAddUpToTheState walks randomly through sets of services that give frontends to one another. However the steps
// are cut into calls, and whatever fails on the way, in the end exactly those flows remain that the last set serves, and
// those that no frontend was ever asked about.
func TestChangesAddUpToTheState(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		table := &fakeTable{}
		c := table.cleaner(proxy.IPv4)
		state := map[string]*proxy.Service{}
		for range 12 {
			next := randomState(rng)
			table.flows = randomFlows(rng, next, state)
			table.interruptions = rng.IntN(2) * attempts // fails every other time
			_, _ = c.Clean(context.Background(), nil, changes(rng, state, next))
			state = next
		}
		table.interruptions = 0
		if _, err := c.Clean(context.Background(), nil, nil); err != nil {
			t.Fatal(err)
		}
		for _, f := range table.flows {
			if owner := ownerOf(state, f.Original.Dst); owner != nil && c.index.owners[owner.Key(&owner.Frontends[0])] != owner {
				t.Fatalf("seed %d: owner of %s is not known", seed, f.Original.Dst)
			} else if owner != nil && !slices.Contains(owner.Serving, f.Reply.Src) {
				t.Fatalf("seed %d: %s is left, serving are %v", seed, f, owner.Serving)
			}
		}
		for _, s := range state {
			for _, e := range s.Serving {
				for i := range s.Frontends {
					live := flow(netip.AddrPortFrom(s.Frontends[i].Addr, s.Frontends[i].Port).String(), e.String())
					if c.index.stale(live) {
						t.Fatalf("seed %d: live flow %s is stale", seed, live)
					}
				}
			}
		}
	}
}

// randomState gives each of four addresses to one of three services, or to none.
func randomState(rng *rand.Rand) map[string]*proxy.Service {
	frontends := map[string][]string{}
	for i := range 4 {
		if n := rng.IntN(4); n < 3 {
			name := fmt.Sprintf("s%d", n)
			frontends[name] = append(frontends[name], fmt.Sprintf("10.96.0.%d:53", i+1))
		}
	}
	state := map[string]*proxy.Service{}
	for name, f := range frontends {
		var serving []string
		for i := range 3 {
			if rng.IntN(2) == 0 {
				serving = append(serving, fmt.Sprintf("10.1.0.%d:53", i+1))
			}
		}
		state[name] = service(name, f, serving...)
	}
	return state
}

// randomFlows returns flows that can exist once next is programmed: those of the state before, and new ones.
func randomFlows(rng *rand.Rand, states ...map[string]*proxy.Service) []Flow {
	var flows []Flow
	for _, state := range states {
		for i := range 4 {
			dst := netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:53", i+1))
			from := dst.String() // nobody's
			if owner := ownerOf(state, dst); owner != nil && len(owner.Serving) > 0 {
				from = owner.Serving[rng.IntN(len(owner.Serving))].String()
			} else if owner != nil {
				continue // rejected: there is no flow
			}
			flows = append(flows, flow(dst.String(), from))
		}
	}
	return numbered(flows...)
}

func ownerOf(state map[string]*proxy.Service, dst netip.AddrPort) *proxy.Service {
	for _, s := range state {
		if slices.ContainsFunc(s.Frontends, func(f proxy.Frontend) bool { return f.Addr == dst.Addr() && f.Port == dst.Port() }) {
			return s
		}
	}
	return nil
}

func changes(rng *rand.Rand, old, next map[string]*proxy.Service) []Change {
	var out []Change
	for _, name := range []string{"s0", "s1", "s2"} {
		if old[name] != nil || next[name] != nil {
			out = append(out, Change{Old: old[name], New: next[name]})
		}
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
