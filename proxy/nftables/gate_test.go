package nftables

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// The table of a Gate that walks from State to State is, as nft lists it, the one that a new Gate would make.
func TestKernelGate(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			inKernel(t, func() {
				g, err := OpenGate(f)
				if err != nil {
					t.Fatal(err)
				}
				defer g.Close()
				rng := rand.New(rand.NewPCG(7, uint64(f)))
				s := proxytest.RandomState(rng, f, 10)
				for step := range 30 {
					if _, rejected, err := g.Admit(s, func(netip.Addr) bool { return false }); err != nil || len(rejected) > 0 {
						t.Fatalf("step %d: %v, %v", step, rejected, err)
					}
					if _, err := g.Retire(); err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
					var text strings.Builder
					if err := WriteGateText(&text, s); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(chainsSorted(text.String()), chainsSorted(normalise(nft(t, "list", "table", familyWord(f), GateTable)))); diff != "" {
						t.Fatalf("step %d: -text +nft:\n%s", step, diff)
					}
					checkRecord(t, g, s)
					s = proxytest.Mutate(rng, s, 1+rng.IntN(4))
					if step%7 == 6 {
						g.Forget()
					}
				}
				if _, _, err := g.Admit(s, func(netip.Addr) bool { return false }); err != nil {
					t.Fatal(err)
				}
				if _, err := g.Retire(); err != nil {
					t.Fatal(err)
				}
				for range 2 { // also when there is nothing left to do
					if err := g.Disarm(); err != nil {
						t.Fatal(err)
					}
					checkRecord(t, g, s)
					if text := nft(t, "list", "table", familyWord(f), GateTable); strings.Contains(text, "hook") {
						t.Fatalf("after Disarm packets still come to the table:\n%s", text)
					}
				}
				if err := g.Cleanup(); err != nil {
					t.Fatal(err)
				}
				if err := g.Disarm(); err != nil {
					t.Errorf("Disarm without a table: %v", err)
				}
				if ports, addrs, err := g.Record(); err != nil || len(ports)+len(addrs) > 0 {
					t.Errorf("after Cleanup: %v, %v, %v", ports, addrs, err)
				}
			})
		})
	}
}

// A record is read again if somebody changes a table of any kind meanwhile, though not for ever.
func TestKernelRecordInterrupted(t *testing.T) {
	inKernel(t, func() {
		g, err := OpenGate(proxy.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		s := proxytest.RandomState(rand.New(rand.NewPCG(8, 8)), proxy.IPv4, 10)
		if _, _, err := g.Admit(s, func(netip.Addr) bool { return false }); err != nil {
			t.Fatal(err)
		}
		direct := g.kernel.socket
		for dumps := range 4 {
			g.kernel.socket = &interrupted{direct, dumps}
			checkRecord(t, g, s)
		}
		g.kernel.socket = &interrupted{direct, 1000}
		if ports, _, err := g.Record(); !errors.Is(err, errInterrupted) {
			t.Errorf("always interrupted: %v, %v", ports, err)
		}
		g.kernel.socket = direct
		checkRecord(t, g, s)
	})
}

// interrupted is a socket whose first dumps the kernel calls inconsistent.
type interrupted struct {
	socket
	dumps int
}

func (i *interrupted) receive(b []byte, wait bool) (int, error) {
	n, err := i.socket.receive(b, wait)
	if i.dumps == 0 || err != nil {
		return n, err
	}
	for at := 0; at+unix.SizeofNlMsghdr <= n; at += padded(int(binary.NativeEndian.Uint32(b[at:]))) {
		flags := b[at+6:]
		binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_DUMP_INTR)
		if binary.NativeEndian.Uint16(b[at+4:]) == unix.NLMSG_DONE {
			i.dumps--
		}
	}
	return n, nil
}

// The kernel follows all verdicts of a map when one is added: there must be no more of them for more Services.
func TestGateVerdicts(t *testing.T) {
	verdicts := func(services int) (n int) {
		tx := newGateTable(proxytest.LargeState(services), func(netip.Addr) bool { return false }).build(replace)
		for _, l := range tx.new {
			if l.set.verdicts() {
				n += len(l.elements)
			}
		}
		return n
	}
	if few, many := verdicts(100), verdicts(1000); few == 0 || few != many {
		t.Errorf("%d verdicts for 100 Services, %d for 1000", few, many)
	}
}

// A probe leaves nothing behind, and does not touch the table that is there.
func TestKernelGateProbe(t *testing.T) {
	inKernel(t, func() {
		for _, f := range proxy.Families {
			g, err := OpenGate(f)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if err := g.Probe(); err != nil {
				t.Fatal(err)
			}
			if got := nft(t, "list", "tables"); got != "" {
				t.Errorf("%s: left: %s", f, got)
			}
			s := proxytest.RandomState(rand.New(rand.NewPCG(9, uint64(f))), f, 10)
			if _, _, err := g.Admit(s, func(netip.Addr) bool { return false }); err != nil {
				t.Fatal(err)
			}
			before := nft(t, "list", "ruleset")
			if err := g.Probe(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, nft(t, "list", "ruleset")); d != "" {
				t.Errorf("%s: -before +after a probe:\n%s", f, d)
			}
			if err := g.Cleanup(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What others change of a Gate's table is reported, and nothing else.
func TestKernelWatchGate(t *testing.T) {
	inKernel(t, func() {
		g, err := OpenGate(proxy.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		reports, stop := watchFor(t, GateTable, []uint32{g.PortID()})
		defer stop()
		if _, _, err := g.Admit(proxytest.LargeState(10), func(netip.Addr) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Retire(); err != nil {
			t.Fatal(err)
		}
		nft(t, "add table ip kube-proxy; delete table ip kube-proxy")
		if got := drainReports(t, reports, 0); len(got) > 0 {
			t.Errorf("its own changes, and other tables: %+v", got)
		}
		for change, what := range map[string]string{
			"flush table ip " + GateTable:                  "delete rule",
			"flush map ip kube-proxy-ipvs frontends":       "delete element",
			"delete chain ip " + GateTable + " nat-output": "delete rule",
		} {
			nft(t, change)
			if got, want := drainReports(t, reports, 1), []Interference{{Family: proxy.IPv4, What: what, Process: "nft"}}; !slices.Equal(want, got) {
				t.Errorf("%s: %+v, want %+v", change, got, want)
			}
			g.Forget()
			if _, _, err := g.Admit(proxytest.LargeState(10), func(netip.Addr) bool { return false }); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// checkRecord compares the frontends that the kernel tells with those of a State.
func checkRecord(t *testing.T, g *Gate, s *proxy.State) {
	t.Helper()
	var want []proxy.FrontendKey
	for _, service := range s.Services.All() {
		for i := range service.Frontends {
			want = append(want, service.Key(&service.Frontends[i]))
		}
	}
	ports, addrs, err := g.Record()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, proxy.FrontendKey.Compare)
	slices.SortFunc(ports, proxy.FrontendKey.Compare)
	slices.SortFunc(addrs, netip.Addr.Compare)
	if d := cmp.Diff(want, ports, cmp.Comparer(func(a, b proxy.FrontendKey) bool { return a == b })); d != "" {
		t.Fatalf("-want +got:\n%s", d)
	}
	if !slices.Equal(addrs, s.Node.NodePorts.Addrs) {
		t.Fatalf("addresses %v, want %v", addrs, s.Node.NodePorts.Addrs)
	}
}

// chainsSorted sorts the chains of a table's text, and leaves out those that nothing leads to: an update makes no chain a second time, and
// deletes none. Classes, whose numbers depend on what came first, are named.
func chainsSorted(text string) string {
	if dispatch := regexp.MustCompile(`(?s)\tmap dispatch \{.*?\n\t\}\n`).FindString(text); dispatch != "" {
		text = strings.Replace(text, dispatch, "", 1)
		for _, class := range regexp.MustCompile(`(\w+:\w+) : (goto \w+)`).FindAllStringSubmatch(dispatch, -1) {
			text = regexp.MustCompile(`(" : )`+class[1]+`(,?\n)`).ReplaceAllString(text, "${1}"+class[2]+"${2}")
		}
	}
	parts := strings.Split(strings.TrimSuffix(text, "}\n"), "\n\tchain ")
	chains := slices.DeleteFunc(parts[1:], func(c string) bool {
		name, _, _ := strings.Cut(c, " ")
		used := slices.ContainsFunc([]string{"goto " + name + "\n", "goto " + name + ",", "jump " + name + "\n"}, func(way string) bool { return strings.Contains(text, way) })
		return !used && !strings.Contains(c, "hook")
	})
	for i := range chains {
		chains[i] = strings.TrimRight(chains[i], "\n")
	}
	slices.Sort(chains)
	return parts[0] + strings.Join(chains, "\n\tchain ")
}
