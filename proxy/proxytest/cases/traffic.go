package cases

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// Mode is a backend whose packets are looked at.
type Mode struct {
	// Open opens the backend in the network namespace of the calling thread, and closes it at the end of the test.
	Open func(t *testing.T, f proxy.Family) proxy.Backend
	// Expressible is what the mode makes of a State, where that is not the State: its declared limits. It may be nil.
	Expressible func(*proxy.State) *proxy.State
	// Slowly has few packets sent at a time: see VerifySlowly.
	Slowly bool
	// Seed begins the random States, so that every mode that has the same meets the same States and packets.
	Seed uint64
	// Random is the number of random States after those of the cases.
	Random int
	// Most is the number of packets that are sent to each State.
	Most int
}

// Traffic has the kernel follow the States of all cases, and then random ones, one after the other, and sends the same packets to each in every mode.
// What becomes of them must be what the tracer says of the State.
func (m Mode) Traffic(t *testing.T, f proxy.Family) {
	t.Helper()
	all, l := All(t), lab.ForTest(t)
	// What leaves the node untranslated is answered outside, so that it can be told from what is dropped.
	if err := errors.Join(l.ServeEndpoints(ports(all)...), l.Symmetric(), l.CatchStrays(80, 443, 53)); err != nil {
		t.Fatal(err)
	}
	w := &walker{Mode: m, lab: l, rng: rand.New(rand.NewPCG(m.Seed, uint64(f)))}
	for _, c := range all {
		i := slices.IndexFunc(c.States, func(s *proxy.State) bool { return s.Family == f })
		w.follow(t, "case "+c.Name, here(c.States[i], l))
	}
	w.backend = nil // as after a restart
	s := proxytest.RandomState(w.rng, f, 25)
	for i := range m.Random {
		w.follow(t, "a random State", s)
		if i%3 == 2 {
			w.backend = nil
		}
		s = proxytest.Mutate(w.rng, s, 8)
	}
	t.Logf("%d packets", w.sent)
}

// ports are those of endpoints in cases that the lab does not serve anyway.
func ports(cases []*Case) (out []uint16) {
	for _, c := range cases {
		for _, s := range c.States {
			for _, service := range s.Services.All() {
				for _, e := range service.Serving {
					if !slices.Contains(proxytest.EndpointPorts, e.Port()) && !slices.Contains(out, e.Port()) {
						out = append(out, e.Port())
					}
				}
			}
		}
	}
	return out
}

// here is a State whose NodePorts, if they are on every address of the machine, are on those of the lab's.
func here(s *proxy.State, l *lab.Lab) *proxy.State {
	if !s.Node.NodePorts.Any {
		return s
	}
	state, node := *s, *s.Node
	node.NodePorts.Addrs = slices.SortedFunc(slices.Values(proxytest.AddrsOf(s.Family, l.NodeAddrs)), netip.Addr.Compare)
	state.Node = &node
	return &state
}

// walker is a backend that follows one State after the other.
type walker struct {
	Mode
	lab     *lab.Lab
	rng     *rand.Rand
	backend proxy.Backend
	sent    int
}

// follow applies a State and sends its packets.
func (w *walker) follow(t *testing.T, what string, s *proxy.State) {
	t.Helper()
	if err := w.lab.Node().Do(func() error {
		if w.backend == nil {
			w.backend = w.Open(t, s.Family)
		}
		r, err := w.backend.Apply(t.Context(), s)
		for _, x := range r.Rejected {
			err = errors.Join(err, x.Err)
		}
		return err
	}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	expressed := s
	if w.Expressible != nil {
		expressed = w.Expressible(s)
	}
	packets := w.packets(s)
	w.sent += len(packets)
	verify := w.lab.Verify
	if w.Slowly {
		verify = w.lab.VerifySlowly
	}
	errs := verify(expressed, packets)
	if len(errs) == 0 {
		return
	}
	for _, err := range errs[:min(8, len(errs))] {
		t.Errorf("%s: %v", what, err)
	}
	var text strings.Builder
	_ = proxy.WriteText(&text, expressed) // a Builder takes everything
	t.Fatalf("%s: %d of %d packets disagree; the State is\n%s", what, len(errs), len(packets), &text)
}

// packets are some of those that a State decides on: not those that somebody outside of the lab would answer, nor what nobody can connect to.
func (w *walker) packets(s *proxy.State) []proxytest.Packet {
	all := slices.DeleteFunc(proxytest.Packets(s, w.lab.Cluster), func(p proxytest.Packet) bool {
		return p.Destination.IsMulticast() || slices.ContainsFunc(proxytest.Trace(s, p).Destinations, func(d proxytest.Destination) bool {
			return !slices.ContainsFunc(w.lab.Cluster.Hosts, func(h proxytest.Host) bool { return slices.Contains(h.Addrs, d.Addr.Addr()) })
		})
	})
	w.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), w.Most)]
}
