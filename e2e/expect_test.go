package e2e

import (
	"net/netip"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/expect"
	"turnout/proxy/proxytest/lab"
)

// What must become of connections.
type expectation = expect.Expectation

var (
	refused, dropped  = expect.Refused, expect.Dropped
	kept, masqueraded = expect.Kept, expect.Masqueraded
)

// attempts is how often a pool is tried until all of its endpoints were reached.
const attempts = expect.Attempts

// probe is one subtest: connections from a client to an address, and what must become of them.
type probe struct {
	name     string
	from     client
	protocol proxy.Protocol
	to       netip.AddrPort
	want     expectation
}

func (p probe) probe() expect.Probe {
	return expect.Probe{From: p.from.Host, Source: p.from.addr(proxy.FamilyOf(p.to.Addr())), Unbound: p.from.any, Protocol: p.protocol, To: p.to, Want: p.want}
}

// probe runs a subtest for each probe. The connections of all of them are made first and at the same time.
func (c *cluster) probe(t *testing.T, probes ...probe) {
	t.Helper()
	list := make([]expect.Probe, len(probes))
	for i, p := range probes {
		list[i] = p.probe()
	}
	for i, fault := range expect.Faults(list) {
		p := probes[i]
		t.Run(p.name, func(t *testing.T) {
			if fault != "" {
				t.Errorf("%s to %s/%s: %s", p.from.Name, p.to, p.protocol, fault)
			}
		})
	}
}

// check is probe for one client, as a part of the test itself.
func (c *cluster) check(t *testing.T, from client, p proxy.Protocol, to netip.AddrPort, want expectation) {
	t.Helper()
	one := probe{from: from, protocol: p, to: to, want: want}.probe()
	if fault := one.Fault(expect.Patiently); fault != "" {
		t.Errorf("%s to %s/%s: %s", from.Name, to, p, fault)
	}
}

// dial connects once. Where an answer is expected it waits long enough for a busy machine.
func dial(from client, p proxy.Protocol, to netip.AddrPort, want lab.Result) lab.Outcome {
	one := probe{from: from, protocol: p, to: to, want: expectation{Result: want}}.probe()
	return one.Dial(expect.Patiently)
}

// gateway is the node's address on the interface that leads to a host.
func (c *cluster) gateway(host string, f proxy.Family) netip.Addr { return expect.Gateway(host, f) }

// from is a host as a client, by its first address.
func (c *cluster) from(host string) client { return client{Host: c.Host(host)} }
