package ipvs

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// An address that was added is waited for until it is local, and an address that is not is an error in the end, which names it.
func TestKernelAwait(t *testing.T) {
	proxytest.InNamespace(t, func() {
		for _, f := range proxy.Families {
			d, err := openDevice(f)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.Make(); errors.Is(err, unix.EOPNOTSUPP) {
				t.Skipf("needs a kernel with dummy interfaces: %v", err)
			} else if err != nil {
				t.Fatal(err)
			}
			list := []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.96.0.2")}
			if f == proxy.IPv6 {
				list = []netip.Addr{netip.MustParseAddr("fd00:10:96::1"), netip.MustParseAddr("fd00:10:96::2")}
			}
			for _, a := range list {
				if err := d.Add(a); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Await(list...); err != nil {
				t.Error(err)
			}
			for _, a := range list {
				if local, err := d.local(a); err != nil || !local {
					t.Errorf("%s is not local after the wait: %v", a, err)
				}
			}
			other := list[1].Next()
			d.patience = 20 * time.Millisecond
			if err := d.Await(list[0], other); (f == proxy.IPv6) != (err != nil) || err != nil && !strings.Contains(err.Error(), other.String()) {
				t.Errorf("%s, which nobody added: %v", other, err)
			}
		}
	})
}
