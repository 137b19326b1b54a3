package nftables

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// twin is a socket to the kernel that shows every batch to a fakeKernel as well.
type twin struct {
	socket
	fake *fakeSocket
}

func (s *twin) send(b []byte) error {
	if binary.NativeEndian.Uint16(b[4:]) == unix.NFNL_MSG_BATCH_BEGIN {
		if err := s.fake.send(b); err != nil {
			return err
		}
	}
	return s.socket.send(b)
}

// newTwins returns a Backend on the kernel whose batches the fake gets, too.
func newTwins(t *testing.T, k *fakeKernel) *Backend {
	t.Helper()
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	fake := &fakeSocket{kernel: k}
	b := newBackend(Options{Family: k.family}, &twin{s, fake})
	b.sleep = func(time.Duration) {}
	fake.text = b.ruleText
	return b
}

// The kernel and the fake hold the same after each step of a walk, so what the other walk proves of the fake is true of the kernel.
func TestKernelWalk(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			inKernel(t, func() {
				w := &walker{t: t, rng: rand.New(rand.NewPCG(3, uint64(f))), kernel: newFakeKernel(f)}
				w.backend = newTwins(t, w.kernel)
				w.state = proxytest.RandomState(w.rng, f, 10)
				for step := range 25 {
					switch step % 8 {
					case 3:
						w.backend = newTwins(t, w.kernel)
					case 6:
						w.backend.Forget()
					}
					w.state = proxytest.Mutate(w.rng, w.state, 1+w.rng.IntN(4))
					if r, err := w.backend.Apply(t.Context(), w.state); err != nil || len(r.Rejected) > 0 {
						t.Fatalf("step %d: %+v, %v", step, r, err)
					}
					if diff := cmp.Diff(w.kernel.dump(), listTable(t, f)); diff != "" {
						t.Fatalf("step %d: -fake +kernel:\n%s", step, diff)
					}
				}
			})
		})
	}
}

// Sets of prefixes go from any list to any other: neighbours, one inside the place of another, up to the highest address.
func TestKernelPrefixes(t *testing.T) {
	bases := map[proxy.Family]netip.Addr{proxy.IPv4: netip.MustParseAddr("255.255.255.0"), proxy.IPv6: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00")}
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			inKernel(t, func() {
				k := newFakeKernel(f)
				b := newTwins(t, k)
				rng := rand.New(rand.NewPCG(4, uint64(f)))
				service := func(from []netip.Prefix) *proxy.Service {
					s := proxytest.NewService("ns/web/TCP", proxytest.At(proxy.LoadBalancerIP, lbAddress[f]+":80", proxytest.RejectAll))
					s.Frontends[0].AllowedSources = from
					return s
				}
				var full int
				for step := range 40 {
					state := proxytest.NewState(f, service(randomPrefixes(rng, bases[f])))
					state.Node.ServiceCIDRs = randomPrefixes(rng, bases[f])
					r, err := b.Apply(t.Context(), state)
					if err != nil || len(r.Rejected) > 0 {
						t.Fatalf("step %d: %+v, %v", step, r, err)
					}
					if r.Full {
						full++
					}
					if diff := cmp.Diff(k.dump(), listTable(t, f)); diff != "" {
						t.Fatalf("step %d: -fake +kernel:\n%s", step, diff)
					}
				}
				if full > 1 {
					t.Errorf("%d of 40 steps were rebuilds", full)
				}
			})
		})
	}
}

var lbAddress = map[proxy.Family]string{proxy.IPv4: "192.168.60.1", proxy.IPv6: "[fd60::1]"}

// randomPrefixes returns prefixes among the last 256 addresses, sorted, none inside another.
func randomPrefixes(rng *rand.Rand, base netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for range rng.IntN(6) {
		a := base.AsSlice()
		a[len(a)-1] = byte(rng.IntN(256))
		addr, _ := netip.AddrFromSlice(a)
		p := netip.PrefixFrom(addr, base.BitLen()-rng.IntN(8)).Masked()
		if !slices.ContainsFunc(out, p.Overlaps) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// Names, addresses and timeouts at their limits.
func TestKernelLimits(t *testing.T) {
	inKernel(t, func() {
		b := newTestBackend(t, Options{Family: proxy.IPv4})
		var services []*proxy.Service
		for i, timeout := range []time.Duration{time.Second, 59 * time.Second, 61 * time.Second, time.Hour + time.Second, 24 * time.Hour} {
			services = append(services, proxytest.NewService(fmt.Sprintf("ns/s%d/TCP", i), proxytest.Sticky(timeout),
				proxytest.At(proxy.ClusterIP, fmt.Sprintf("10.96.0.%d:65535", i), proxytest.Internal),
				proxytest.At(proxy.NodePort, fmt.Sprintf(":%d", 65535-i), proxytest.External),
				proxytest.On("255.255.255.255:65535 local", "0.0.0.1:1")))
		}
		state := proxytest.NewState(proxy.IPv4, services...)
		if r, err := b.Apply(t.Context(), state); err != nil || len(r.Rejected) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if diff := cmp.Diff(textOf(t, state), listTable(t, proxy.IPv4)); diff != "" {
			t.Errorf("-text +nft:\n%s", diff)
		}
	})
}
