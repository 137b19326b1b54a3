package nftables

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// diary is a socket that writes down what each batch does.
type diary struct {
	socket
	backend *Backend
	lines   []string
}

func (d *diary) send(b []byte) error {
	if binary.NativeEndian.Uint16(b[4:]) != unix.NFNL_MSG_BATCH_BEGIN {
		return d.socket.send(b) // a request
	}
	var deletes []string
	for _, m := range d.backend.kernel.encoder.messages {
		if set, ok := strings.CutPrefix(m.what(), "delete elements of "); ok {
			deletes = append(deletes, set)
		}
	}
	if len(deletes) > 0 {
		slices.Sort(deletes)
		d.lines = append(d.lines, "delete from "+strings.Join(deletes, ", "))
	}
	return d.socket.send(b)
}

// A packet that is under way to an endpoint on this node when that goes still finds its address in the set hairpin, and what such a
// packet makes the node learn is forgotten.
func TestPacketsUnderWay(t *testing.T) {
	proxytest.InNamespace(t, func() {
		s, err := openSocket()
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		d := &diary{socket: s}
		d.backend = newBackend(Options{Family: proxy.IPv4}, d)
		d.backend.sleep = func(time.Duration) { d.lines = append(d.lines, "wait") }
		service := func(endpoints ...string) *proxy.State {
			return proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/web/TCP", proxytest.Sticky(time.Hour),
				proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On(endpoints...)))
		}
		for _, step := range []struct {
			name  string
			state *proxy.State
			want  []string
		}{
			{"start", service("10.244.1.2:80 local", "10.244.1.3:80 local"), []string{"wait"}},
			{"an endpoint goes", service("10.244.1.2:80 local"), // The class for one endpoint is new.
				[]string{"wait", "delete from endpoints, frontends, sticky-endpoints", "wait", "delete from hairpin"}},
			{"nothing goes", service("10.244.1.2:80 local", "10.244.2.2:80"), []string{"delete from frontends"}},
		} {
			d.lines = nil
			if _, err := d.backend.Apply(t.Context(), step.state); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			if diff := cmp.Diff(step.want, d.lines); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
		}
	})
}

// A port that gets another name is another Service of the same address. A packet that found the old one just before is still forwarded.
func TestRenamedPort(t *testing.T) {
	service := func(port string) *proxy.State {
		return proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/web:"+port+"/TCP",
			proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On("10.244.2.1:80", "10.244.2.2:80")))
	}
	k := newFakeKernel(proxy.IPv4)
	b := k.backend(Options{})
	for _, port := range []string{"http", "web"} {
		k.generations = k.generations[max(0, len(k.generations)-1):]
		if _, err := b.Apply(t.Context(), service(port)); err != nil {
			t.Fatal(err)
		}
	}
	p := proxytest.Packet{Source: netip.MustParseAddr("10.244.1.9"), Interface: "veth9", Protocol: proxy.TCP, Destination: netip.MustParseAddr("10.96.0.1"), Port: 80}
	for i, after := range k.generations[1:] {
		for split, most := 0, 0; split <= most; split++ {
			tr := traceMixed(proxy.IPv4, k.generations[i], after, split, p)
			most = tr.lookups
			if got := tr.outcome(); got.Verdict != proxytest.Forwarded || len(tr.failures) > 0 {
				t.Errorf("commit %d after lookup %d: %v, %v", i+1, split, got, tr.failures)
			}
		}
	}
}
