package nftables

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// A table that belongs to a process cannot be changed by another; once that process has ended, any process takes it over, with
// protection or without, and keeps the clients of Services with affinity.
func TestProtect(t *testing.T) {
	proxytest.InNamespace(t, func() {
		if b, err := New(Options{Family: proxy.IPv4, Protect: true}); err != nil {
			t.Skipf("needs Linux 6.9: %v", err)
		} else if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		other, err := New(Options{Family: proxy.IPv4})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		state := proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/web/TCP", proxytest.Sticky(time.Hour),
			proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.Internal), proxytest.On("10.244.1.2:80", "10.244.1.3:80")))
		for i, protect := range []bool{true, true, false, false, true, false} {
			b, err := New(Options{Family: proxy.IPv4, Protect: protect})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Apply(context.Background(), state); err != nil {
				t.Fatalf("process %d, protect %v: %v", i, protect, err)
			}
			remembered, err := b.kernel.remembered(b.table.sets.affinity, func(*remembered) bool { return true })
			if err != nil || len(remembered) != min(i, 1) {
				t.Fatalf("process %d, protect %v: %d clients remembered, %v; want %d", i, protect, len(remembered), err, min(i, 1))
			}
			if i == 0 {
				tx := &transaction{}
				p := b.table.programs[proxytest.Name("ns/web/TCP")]
				tx.add(element{set: b.table.sets.affinity, key: append(numberBytes(p.number), 192, 0, 2, 1), value: []byte{10, 244, 1, 3, 0, 80, 0, 0},
					more: &details{timeout: time.Hour, expires: time.Hour}}, -1)
				if err := b.commit(tx); err != nil {
					t.Fatal(err)
				}
			}
			other.Forget()
			if _, err := other.Apply(context.Background(), state); errors.Is(err, unix.EPERM) != protect {
				t.Errorf("process %d, protect %v: another process's Apply: %v", i, protect, err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func numberBytes(v uint32) []byte {
	var a arena
	return a.numberKey(v)
}
