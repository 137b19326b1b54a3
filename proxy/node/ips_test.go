package node

import (
	"net/netip"
	"strings"
	"testing"

	"turnout/proxy"
)

// checkWarnings wants one warning for each entry of tells, which contains it.
func checkWarnings(t *testing.T, got []string, tells ...string) {
	t.Helper()
	if len(got) != len(tells) {
		t.Errorf("%d warnings, want %d: %q", len(got), len(tells), got)
		return
	}
	for i, part := range tells {
		if !strings.Contains(got[i], part) {
			t.Errorf("warning %q does not tell %q", got[i], part)
		}
	}
}

func addrOrNone(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestDetectIPs(t *testing.T) {
	internal := func(a string) Address { return Address{"InternalIP", a} }
	external := func(a string) Address { return Address{"ExternalIP", a} }
	for _, tt := range []struct {
		name      string
		bind      string
		addresses []Address
		primary   proxy.Family
		v4, v6    string
		tells     []string
	}{
		{"internal address", "0.0.0.0", []Address{internal("192.0.2.1")}, proxy.IPv4, "192.0.2.1", "", nil},
		{"internal before external", "0.0.0.0", []Address{external("198.51.100.1"), internal("192.0.2.1")}, proxy.IPv4, "192.0.2.1", "", nil},
		{"external if there is no internal one", "0.0.0.0", []Address{external("198.51.100.1")}, proxy.IPv4, "198.51.100.1", "", nil},
		{"first of several", "0.0.0.0", []Address{internal("192.0.2.2"), internal("192.0.2.1")}, proxy.IPv4, "192.0.2.2", "", nil},
		{"first of the other family", "0.0.0.0", []Address{internal("192.0.2.1"), internal("2001:db8::1"), internal("2001:db8::2")}, proxy.IPv4, "192.0.2.1", "2001:db8::1", nil},
		{"other family from the external ones", "0.0.0.0", []Address{external("2001:db8::1"), internal("192.0.2.1")}, proxy.IPv4, "192.0.2.1", "2001:db8::1", nil},
		{"the first address's family is primary", "0.0.0.0", []Address{internal("2001:db8::1"), internal("192.0.2.1")}, proxy.IPv6, "192.0.2.1", "2001:db8::1", nil},
		{"also against an unspecified bind address", "::", []Address{internal("192.0.2.1")}, proxy.IPv4, "192.0.2.1", "", nil},
		{"bind address replaces its family's", "192.0.2.77", []Address{internal("192.0.2.1"), internal("2001:db8::1")}, proxy.IPv4, "192.0.2.77", "2001:db8::1", nil},
		{"bind address makes its family primary", "2001:db8::77", []Address{internal("192.0.2.1")}, proxy.IPv6, "192.0.2.1", "2001:db8::77", nil},
		{"bind address without a Node", "192.0.2.77", nil, proxy.IPv4, "192.0.2.77", "", nil},
		{"other types do not count", "0.0.0.0", []Address{{"Hostname", "192.0.2.1"}, {"InternalDNS", "node"}}, proxy.IPv4, "", "", []string{"127.0.0.1 is assumed"}},
		{"nothing known", "0.0.0.0", nil, proxy.IPv4, "", "", []string{"--bind-address"}},
		{"nothing known and no bind address", "", nil, proxy.IPv4, "", "", []string{"127.0.0.1 is assumed"}},
		{"nothing known with ::", "::", nil, proxy.IPv6, "", "", []string{"::1 is assumed"}},
		{"loopback bind address", "127.0.0.1", []Address{internal("192.0.2.1")}, proxy.IPv4, "127.0.0.1", "", []string{"127.0.0.1 is assumed"}},
		{"bad entry does not hide the others", "0.0.0.0", []Address{internal("192.0.2.300"), internal("192.0.2.1")}, proxy.IPv4, "192.0.2.1", "", []string{`InternalIP "192.0.2.300"`}},
		{"mapped address is IPv4", "::ffff:192.0.2.77", nil, proxy.IPv4, "192.0.2.77", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings := DetectIPs(addrOrNone(tt.bind), tt.addresses)
			if want := (IPs{Primary: tt.primary, V4: addrOrNone(tt.v4), V6: addrOrNone(tt.v6)}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			checkWarnings(t, warnings, tt.tells...)
		})
	}
}

func TestOrLoopback(t *testing.T) {
	n := IPs{V4: netip.MustParseAddr("192.0.2.1")}
	if got := n.OrLoopback(proxy.IPv4).String() + " " + n.OrLoopback(proxy.IPv6).String(); got != "192.0.2.1 ::1" {
		t.Errorf("got %s", got)
	}
	if got := (IPs{}).OrLoopback(proxy.IPv4).String(); got != "127.0.0.1" {
		t.Errorf("got %s", got)
	}
}
