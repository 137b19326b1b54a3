package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// expectation is what must become of connections.
type expectation struct {
	result lab.Result
	// servers must all be reached, one or another by each connection, and no others.
	servers []string
	// masqueraded tells that servers see the address of the node's interface that leads to them, and else that of the client.
	masqueraded bool
}

var (
	refused = expectation{result: lab.Refused}
	dropped = expectation{result: lab.Timeout}
)

// kept expects servers that see who connects, masqueraded those that see the node.
func kept(servers ...string) expectation { return expectation{servers: servers} }

func masqueraded(servers ...string) expectation {
	return expectation{servers: servers, masqueraded: true}
}

// attempts is how often a pool is tried until all of its endpoints were reached: of two, one is missed once in 2^59 times.
const attempts = 60

// probe is one subtest: connections from a client to an address, and what must become of them.
type probe struct {
	name     string
	from     client
	protocol proxy.Protocol
	to       netip.AddrPort
	want     expectation
}

// probe runs a subtest for each probe. The connections of all of them are made first and at the same time, as each that is dropped
// takes half a second.
func (c *cluster) probe(t *testing.T, probes ...probe) {
	t.Helper()
	const parallel = 32
	faults := make([]string, len(probes))
	slots := make(chan struct{}, parallel)
	var wait sync.WaitGroup
	for i, p := range probes {
		slots <- struct{}{}
		wait.Go(func() {
			faults[i] = c.fault(p)
			<-slots
		})
	}
	wait.Wait()
	for i, p := range probes {
		t.Run(p.name, func(t *testing.T) {
			if faults[i] != "" {
				t.Errorf("%s to %s/%s: %s", p.from.Name, p.to, p.protocol, faults[i])
			}
		})
	}
}

// fault connects until all expected servers were reached, or until something unexpected happens, which it describes.
func (c *cluster) fault(p probe) string {
	var seen []string
	for range attempts {
		got := dial(p.from, p.protocol, p.to, p.want.result)
		if why := c.differs(p, got); why != "" {
			return fmt.Sprintf("%v: %s", got, why)
		}
		if got.Result != lab.Connected {
			return ""
		}
		if !slices.Contains(seen, got.Server) {
			seen = append(seen, got.Server)
		}
		if len(seen) == len(p.want.servers) {
			return ""
		}
	}
	return fmt.Sprintf("%d connections reached only %v, want all of %v", attempts, seen, p.want.servers)
}

// check is probe for one client, as a part of the test itself.
func (c *cluster) check(t *testing.T, from client, p proxy.Protocol, to netip.AddrPort, want expectation) {
	t.Helper()
	if fault := c.fault(probe{from: from, protocol: p, to: to, want: want}); fault != "" {
		t.Errorf("%s to %s/%s: %s", from.Name, to, p, fault)
	}
}

// dial connects once. Where an answer is expected it waits long enough for a busy machine.
func dial(from client, p proxy.Protocol, to netip.AddrPort, want lab.Result) lab.Outcome {
	var o lab.DialOptions
	if !from.any {
		o.Source = netip.AddrPortFrom(from.addr(proxy.FamilyOf(to.Addr())), 0)
	}
	var got lab.Outcome
	for _, o.Timeout = range []time.Duration{500 * time.Millisecond, 5 * time.Second} {
		if got = from.Dial(p, to, o); got.Result != lab.Timeout || want == lab.Timeout {
			break
		}
	}
	return got
}

// differs says what is wrong with an outcome, "" if nothing is.
func (c *cluster) differs(p probe, got lab.Outcome) string {
	want := p.want
	switch {
	case got.Result != want.result:
		return fmt.Sprintf("want %v", want.result)
	case got.Result == lab.Refused && p.protocol == proxy.TCP && got.ICMP:
		return "want a reset, as ICMP errors are rate limited"
	case got.Result != lab.Connected:
		return ""
	case !slices.Contains(want.servers, got.Server):
		return fmt.Sprintf("want one of %v", want.servers)
	}
	f := proxy.FamilyOf(got.SeenSource)
	source := p.from.addr(f)
	if want.masqueraded {
		source = c.gateway(got.Server, f)
	}
	if got.SeenSource != source {
		return fmt.Sprintf("want it to see %s", source)
	}
	return ""
}

// gateway is the node's address on the interface that leads to a host.
func (c *cluster) gateway(host string, f proxy.Family) netip.Addr {
	addrs := map[string][2]string{
		"pod-1": {"10.244.1.1", "fd00:10:244:1::1"}, "pod-2": {"10.244.1.1", "fd00:10:244:1::1"}, "pod-3": {"10.244.1.1", "fd00:10:244:1::1"},
		"pod-4": {"192.168.51.1", "fd51::1"}, "pod-5": {"192.168.51.1", "fd51::1"}, "n2": {"192.168.51.1", "fd51::1"},
		"client": {"192.168.50.1", "fd50::1"},
	}[host]
	if f == proxy.IPv6 {
		return netip.MustParseAddr(addrs[1])
	}
	return netip.MustParseAddr(addrs[0])
}

// from is a host as a client, by its first address.
func (c *cluster) from(host string) client { return client{Host: c.Host(host)} }
