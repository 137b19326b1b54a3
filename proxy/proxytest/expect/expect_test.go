package expect

import (
	"net/netip"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// Each way in which an outcome is not what is expected is described, and what is expected is not.
func TestDiffers(t *testing.T) {
	client, gateway := netip.MustParseAddr("192.168.50.100"), netip.MustParseAddr("10.244.1.1")
	reached := func(server string, seen netip.Addr) lab.Outcome { return lab.Outcome{Server: server, SeenSource: seen} }
	for name, row := range map[string]struct {
		want Expectation
		got  lab.Outcome
		says string // "" if nothing is wrong
	}{
		"kept":                    {Kept("pod-1", "pod-2"), reached("pod-2", client), ""},
		"masqueraded":             {Masqueraded("pod-1"), reached("pod-1", gateway), ""},
		"refused":                 {Refused, lab.Outcome{Result: lab.Refused}, ""},
		"dropped":                 {Dropped, lab.Outcome{Result: lab.Timeout}, ""},
		"another server":          {Kept("pod-1"), reached("pod-2", client), "want one of [pod-1]"},
		"masqueraded, not kept":   {Kept("pod-1"), reached("pod-1", gateway), "want it to see 192.168.50.100"},
		"kept, not masqueraded":   {Masqueraded("pod-1"), reached("pod-1", client), "want it to see 10.244.1.1"},
		"another of its gateways": {Masqueraded("pod-4"), reached("pod-4", gateway), "want it to see 192.168.51.1"},
		"refused by ICMP":         {Refused, lab.Outcome{Result: lab.Refused, ICMP: true}, "want a reset"},
		"dropped, not refused":    {Refused, lab.Outcome{Result: lab.Timeout}, "want refused"},
		"answered, not dropped":   {Dropped, reached("pod-1", client), "want timeout"},
	} {
		p := Probe{Source: client, Protocol: proxy.TCP, To: netip.MustParseAddrPort("10.96.0.1:80"), Want: row.want}
		if got := p.differs(row.got); !strings.HasPrefix(got, row.says) || (got == "") != (row.says == "") {
			t.Errorf("%s: %q, want %q", name, got, row.says)
		}
	}
}

// All servers must be reached, and be those of the lab.
func TestFault(t *testing.T) {
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	probe := func(want Expectation) Probe {
		return Probe{From: l.Client(), Source: l.Client().Addr(proxy.IPv4), Protocol: proxy.TCP, To: netip.MustParseAddrPort("10.244.1.2:8080"), Want: want}
	}
	got := Faults([]Probe{probe(Kept("pod-1")), probe(Kept("pod-1", "pod-2"))})
	if got[0] != "" || got[1] != "60 connections reached only [pod-1], want all of [pod-1 pod-2]" {
		t.Errorf("%q", got)
	}
}
