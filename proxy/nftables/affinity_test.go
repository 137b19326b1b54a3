package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// sticky is a Service with session affinity, if there is a timeout.
func sticky(timeout time.Duration, endpoints ...string) *proxy.Service {
	return proxytest.NewService("ns/sticky/TCP", proxytest.Sticky(timeout),
		proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On(endpoints...))
}

// know makes the kernel remember n clients of the Service, which are led to one of its endpoints.
func (k *fakeKernel) know(b *Backend, n int, endpoint string) {
	p := b.table.programs[proxytest.Name("ns/sticky/TCP")]
	for i := range n {
		e := &fakeElement{key: append(host(p.number), 192, 168, byte(i>>8), byte(i)), timeout: time.Hour, left: time.Hour}
		e.value = b.table.bytes.addrPort(netip.MustParseAddrPort(endpoint))
		k.known()[e.id()] = e
	}
}

// known are the clients that the kernel remembers.
func (k *fakeKernel) known() map[string]*fakeElement {
	return k.tables[TableName].set("affinity").elements
}

func applyAll(t *testing.T, b *Backend, services ...*proxy.Service) proxy.Report {
	t.Helper()
	r, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4, services...))
	if err != nil || len(r.Rejected) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// A Service that loses session affinity and gets it back later, when an endpoint has gone meanwhile, leads nobody to that endpoint.
func TestAffinityThatComesBack(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	applyAll(t, b, sticky(time.Hour, "10.244.2.1:80", "10.244.2.2:80"))
	k.know(b, 3, "10.244.2.1:80")
	applyAll(t, b, sticky(0, "10.244.2.1:80", "10.244.2.2:80"))
	applyAll(t, b, sticky(0, "10.244.2.2:80"))
	applyAll(t, b, sticky(time.Hour, "10.244.2.2:80"))
	if n := len(k.known()); n > 0 {
		t.Errorf("%d clients are led to an endpoint that went while the Service had no affinity", n)
	}
}

// omitting is a socket that loses the first part of a dump when it is told to: so the kernel passes over entries of a map when others before
// them end between two parts.
type omitting struct {
	socket
	next bool
}

func (o *omitting) receive(b []byte, wait bool) (int, error) {
	n, err := o.socket.receive(b, wait)
	if o.next && err == nil && binary.NativeEndian.Uint16(b[4:])&0xff == unix.NFT_MSG_NEWSETELEM {
		o.next = false
		return o.socket.receive(b, wait)
	}
	return n, err
}

// Clients that the kernel passed over when it listed them are forgotten all the same.
func TestClientsThatAreNotListed(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	o := &omitting{}
	b := k.backendThrough(Options{}, func(s socket) socket { o.socket = s; return o })
	applyAll(t, b, sticky(time.Hour, "10.244.2.1:80", "10.244.2.2:80"))
	const clients = 3 * fakePart
	k.know(b, clients, "10.244.2.1:80")
	o.next = true
	r := applyAll(t, b, sticky(time.Hour, "10.244.2.2:80"))
	if n := len(k.known()); o.next || n > 0 || r.Forgotten != clients {
		t.Errorf("%d clients are left and %d forgotten, want 0 and %d", n, r.Forgotten, clients)
	}
}

// ending is a socket to a kernel in which clients end just after they were listed.
type ending struct {
	socket
	kernel *fakeKernel
	end    []string // what is about to end
	listed bool
	sent   int // batches
}

func (e *ending) send(b []byte) error {
	if binary.NativeEndian.Uint16(b[4:]) != unix.NFNL_MSG_BATCH_BEGIN {
		e.listed = true
		return e.socket.send(b)
	}
	e.sent++
	if e.listed {
		for _, id := range e.end {
			delete(e.kernel.known(), id)
		}
	}
	return e.socket.send(b)
}

// Where some of the clients that are to be forgotten end by themselves at the same time, the others are not forgotten one by one.
func TestClientsThatEnd(t *testing.T) {
	for _, ends := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(ends), func(t *testing.T) {
			k := newFakeKernel(proxy.IPv4)
			e := &ending{kernel: k}
			b := k.backendThrough(Options{}, func(s socket) socket { e.socket = s; return e })
			applyAll(t, b, sticky(time.Hour, "10.244.2.1:80", "10.244.2.2:80"), plain(2))
			const clients = 1000
			k.know(b, clients, "10.244.2.1:80")
			for id := range k.known() {
				if len(e.end) < ends {
					e.end = append(e.end, id)
				}
			}
			e.listed, e.sent = false, 0
			applyAll(t, b, sticky(time.Hour, "10.244.2.2:80"), plain(2))
			// New chains, the change, all clients at once, and two batches for each halving that leads to one of those that ended.
			if n, most := len(k.known()), 3+20*ends; n > 0 || e.sent > most {
				t.Errorf("%d clients are left after %d batches, want 0 after at most %d", n, e.sent, most)
			}
		})
	}
}
