package lab

import (
	"net/netip"
	"testing"

	"turnout/proxy"
)

// A machine that was attached is reached by everybody, in both directions and families, and sees who it is.
func TestAttach(t *testing.T) {
	l := ForTest(t)
	machine, err := l.Attach("control", netip.MustParsePrefix("192.168.52.0/24"), netip.MustParsePrefix("fd52::/64"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Host("control") != machine {
		t.Error("the lab does not know its new host")
	}
	for _, h := range l.Hosts() {
		if _, err := h.Serve(proxy.TCP, 8080); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range l.Hosts() {
		for _, f := range proxy.Families {
			if o := h.Dial(proxy.TCP, netip.AddrPortFrom(machine.Addr(f), 8080), DialOptions{Timeout: patience}); o.Server != "control" {
				t.Errorf("%s to the machine by %s: %v", h.Name, f, o)
			} else if h.Pod && o.SeenSource != h.Addr(f) {
				t.Errorf("%s to the machine by %s: seen as %s", h.Name, f, o.SeenSource)
			}
			o := machine.Dial(proxy.TCP, netip.AddrPortFrom(h.Addr(f), 8080), DialOptions{Timeout: patience})
			if o.Server != h.Name || o.SeenSource != machine.Addr(f) {
				t.Errorf("the machine to %s by %s: %v", h.Name, f, o)
			}
		}
	}
	if _, err := l.Attach("control", netip.MustParsePrefix("192.168.52.0/24")); err == nil {
		t.Error("a second machine of the same name was attached")
	}
}
