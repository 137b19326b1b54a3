package nftables

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// willing is a kernel that takes every batch and has nothing to say.
type willing struct{ bytes int }

func (w *willing) send(b []byte) error             { w.bytes += len(b); return nil }
func (*willing) receive([]byte, bool) (int, error) { return 0, unix.EAGAIN }
func (*willing) portID() uint32                    { return 1 }
func (*willing) close() error                      { return nil }

// versionOf returns a version of a Service with endpoints on other nodes; another version has one of them replaced.
func versionOf(i, version int) *proxy.Service {
	address := func(base, i int) string { return fmt.Sprintf("10.%d.%d.%d", base+i>>16, i>>8&0xff, i&0xff) }
	var endpoints []string
	for e := range 5 {
		endpoints = append(endpoints, address(128, 6*i+e)+":8080")
	}
	endpoints[2] = address(128, 6*i+2+3*(version%2)) + ":8080"
	return proxytest.NewService(fmt.Sprintf("ns-%d/service-%d:http/TCP", i%100, i), proxytest.At(proxy.ClusterIP, address(96, i)+":80", proxytest.Internal),
		proxytest.On(endpoints...))
}

func fiveEach(n int) *proxy.State {
	s := &proxy.State{Family: proxy.IPv4, Node: proxytest.NodeOf(proxy.IPv4)}
	s.Node.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	for i := range n {
		x := versionOf(i, 0)
		s.Services = s.Services.Set(x.Name, x)
	}
	return s
}

var changeSizes = []int{100, 1000, 10000, 30000}

// BenchmarkUpdateOneEndpoint replaces one endpoint of one Service out of many: what the kernel does with it is not in it.
func BenchmarkUpdateOneEndpoint(b *testing.B) {
	for _, n := range changeSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			backend, state := newLoaded(b, n)
			versions := [2]*proxy.Service{versionOf(n/2, 0), versionOf(n/2, 1)}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				next := *state
				next.Services = state.Services.Set(versions[i%2].Name, versions[i%2])
				if r, err := backend.Apply(b.Context(), &next); err != nil || r.Full {
					b.Fatal(r, err)
				}
				state = &next
			}
		})
	}
}

// BenchmarkEncode writes the batch of a first sync.
func BenchmarkEncode(b *testing.B) {
	for _, n := range changeSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			tx := newTable(fiveEach(n), nil, map[proxy.ServicePortName]error{}).build(replace)
			var e encoder
			e.family = proxy.IPv4
			b.ReportAllocs()
			for b.Loop() {
				batch, err := e.encode(tx)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(batch)))
			}
		})
	}
}

func newLoaded(t testing.TB, n int) (*Backend, *proxy.State) {
	t.Helper()
	backend, state := newBackend(Options{Family: proxy.IPv4}, &willing{}), fiveEach(n)
	backend.table = newTable(state, nil, backend.excluded)
	if err := backend.commit(backend.table.build(replace)); err != nil {
		t.Fatal(err)
	}
	return backend, state
}

// A change costs as much as it changes, however many Services there are.
func TestUpdateIsFlat(t *testing.T) {
	costs := map[int]float64{}
	var bytes [2]int
	for i, n := range []int{100, 5000} {
		backend, state := newLoaded(t, n)
		version := 0
		update := func() {
			version++
			next := *state
			x := versionOf(n/2, version)
			next.Services = state.Services.Set(x.Name, x)
			if r, err := backend.Apply(t.Context(), &next); err != nil || r.Full || r.Operations != 2 {
				t.Fatal(r, err)
			}
			state = &next
		}
		update()
		sent := backend.kernel.socket.(*willing).bytes
		update()
		bytes[i] = backend.kernel.socket.(*willing).bytes - sent
		costs[n] = testing.AllocsPerRun(50, update)
	}
	if costs[5000] > costs[100]+10 { // the map of Services is one level deeper
		t.Errorf("allocations by number of Services: %v", costs)
	}
	if bytes[0] != bytes[1] || bytes[0] > 700 {
		t.Errorf("bytes of a batch: %v", bytes)
	}
}
