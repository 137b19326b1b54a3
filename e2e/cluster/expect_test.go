package cluster

import (
	"net/netip"
	"slices"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/expect"
)

// What must become of connections.
type expectation = expect.Expectation

var (
	refused, dropped, passed = expect.Refused, expect.Dropped, expect.Passed()
	kept, masqueraded        = expect.Kept, expect.Masqueraded
)

// The origins of connections. The node itself and hosts outside are other origins to policies than pods.
const (
	localPod, remotePod, thisNode, outside = "pod-1", "pod-4", "n1", "client"
)

var origins = []string{localPod, remotePod, thisNode, outside}

// same expects the same whoever connects.
func same(e expectation) map[string]expectation {
	return map[string]expectation{localPod: e, remotePod: e, thisNode: e, outside: e}
}

// probe is connections from a host to an address, and what must become of them.
type probe struct {
	name     string
	from     string
	source   int // which of the host's addresses of the family
	protocol proxy.Protocol
	to       netip.AddrPort
	want     expectation
}

func (c *cluster) probeOf(p probe) expect.Probe {
	return expect.Probe{From: c.Host(p.from), Source: c.addr(p.from, proxy.FamilyOf(p.to.Addr()), p.source), Protocol: p.protocol, To: p.to, Want: p.want}
}

// probe makes the connections of all probes at the same time.
func (c *cluster) probe(t *testing.T, probes ...probe) {
	t.Helper()
	list := make([]expect.Probe, len(probes))
	for i, p := range probes {
		list[i] = c.probeOf(p)
	}
	for i, fault := range expect.Faults(list) {
		if p := probes[i]; fault != "" {
			t.Errorf("%s: %s to %s/%s: %s", p.name, p.from, p.to, p.protocol, fault)
		}
	}
}

// becomes waits until connections from a host come to what is expected.
func (c *cluster) becomes(t *testing.T, what, from string, to netip.AddrPort, want expectation) {
	t.Helper()
	p := c.probeOf(probe{name: what, from: from, protocol: proxy.TCP, to: to, want: want})
	eventually(t, what, func() string { return p.Fault(expect.Briefly) })
}

// addr is the i-th address of a host in a family.
func (c *cluster) addr(host string, f proxy.Family, i int) netip.Addr {
	return slices.Collect(func(yield func(netip.Addr) bool) {
		for _, a := range c.Host(host).Addrs {
			if proxy.FamilyOf(a) == f && !yield(a) {
				return
			}
		}
	})[i]
}
