package genl

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"

	"turnout/proxy"
)

func TestServer(t *testing.T) {
	for _, want := range []Server{
		{Key: Key{proxy.TCP, netip.MustParseAddrPort("10.96.0.1:443")}, Scheduler: "rr"},
		{Key: Key{proxy.UDP, netip.MustParseAddrPort("[fd00:96::a]:53")}, Scheduler: "mh", Flags: SchedulerFlag2},
		{Key: Key{proxy.SCTP, netip.MustParseAddrPort("192.0.2.1:65535")}, Scheduler: "wlc", Persistence: 3 * time.Hour},
	} {
		got, ok := parseServer(encodeServer(want).Serialize())
		if !ok || got != want {
			t.Errorf("got %+v, %t, want %+v", got, ok, want)
		}
	}
}

func TestDestination(t *testing.T) {
	for _, want := range []Destination{
		{At: netip.MustParseAddrPort("10.244.1.2:8080"), Weight: 1},
		{At: netip.MustParseAddrPort("[fd00:10:244:1::2]:1")},
	} {
		got, ok := parseDestination(encodeDestination(want).Serialize(), proxy.FamilyOf(want.At.Addr()))
		if !ok || got != want {
			t.Errorf("got %+v, %t, want %+v", got, ok, want)
		}
	}
}

// What the kernel may tell besides is no server of ours: one for a firewall mark, one of another protocol, an answer cut short.
func TestParseOthers(t *testing.T) {
	mark := nl.NewRtAttr(attrService, nil)
	mark.AddRtAttr(attrAF, nl.Uint16Attr(2))
	mark.AddRtAttr(5, nl.Uint32Attr(7))
	whole := encodeServer(Server{Key: Key{proxy.TCP, netip.MustParseAddrPort("10.96.0.1:443")}, Scheduler: "rr"}).Serialize()
	for name, b := range map[string][]byte{
		"firewall mark":    mark.Serialize(),
		"another protocol": encodeKey(Key{51, netip.MustParseAddrPort("10.96.0.1:443")}).Serialize(),
		"nothing":          nil,
		"cut short":        whole[:20],
	} {
		if x, ok := parseServer(b); ok {
			t.Errorf("%s: %+v", name, x)
		}
		if d, ok := parseDestination(b, proxy.IPv4); ok {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
