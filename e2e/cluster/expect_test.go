package cluster

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
	// masqueraded tells that servers see an address of the node, and else that of the client.
	masqueraded bool
}

var (
	refused = expectation{result: lab.Refused}
	dropped = expectation{result: lab.Timeout}
	// passed expects that the proxy does nothing.
	passed = kept(lab.Stray)
)

// kept expects servers that see who connects, masqueraded those that see the node.
func kept(servers ...string) expectation { return expectation{servers: servers} }

func masqueraded(servers ...string) expectation {
	return expectation{servers: servers, masqueraded: true}
}

// The origins of connections. The node itself and hosts outside are other origins to policies than pods.
const (
	localPod, remotePod, thisNode, outside = "pod-1", "pod-4", "n1", "client"
)

var origins = []string{localPod, remotePod, thisNode, outside}

// same expects the same whoever connects.
func same(e expectation) map[string]expectation {
	return map[string]expectation{localPod: e, remotePod: e, thisNode: e, outside: e}
}

// attempts is how often a pool is tried until all of its endpoints were reached: of two, one is missed once in 2^59 times.
const attempts = 60

// probe is connections from a host to an address, and what must become of them.
type probe struct {
	name     string
	from     string
	source   int // which of the host's addresses of the family
	protocol proxy.Protocol
	to       netip.AddrPort
	want     expectation
}

// How long clients wait for an answer: one that is due comes in time even on a busy machine, but where the whole is tried again anyway,
// waiting would only take time.
var (
	patiently = []time.Duration{500 * time.Millisecond, 5 * time.Second}
	briefly   = patiently[:1]
)

// probe makes the connections of all probes at the same time, as each that is dropped takes half a second.
func (c *cluster) probe(t *testing.T, probes ...probe) {
	t.Helper()
	const parallel = 32
	faults := make([]string, len(probes))
	slots := make(chan struct{}, parallel)
	var wait sync.WaitGroup
	for i, p := range probes {
		slots <- struct{}{}
		wait.Go(func() {
			faults[i] = c.fault(p, patiently)
			<-slots
		})
	}
	wait.Wait()
	for i, p := range probes {
		if faults[i] != "" {
			t.Errorf("%s: %s to %s/%s: %s", p.name, p.from, p.to, p.protocol, faults[i])
		}
	}
}

// becomes waits until connections from a host come to what is expected.
func (c *cluster) becomes(t *testing.T, what, from string, to netip.AddrPort, want expectation) {
	t.Helper()
	eventually(t, what, func() string {
		return c.fault(probe{name: what, from: from, protocol: proxy.TCP, to: to, want: want}, briefly)
	})
}

// fault connects until all expected servers were reached, or until something unexpected happens, which it describes.
func (c *cluster) fault(p probe, timeouts []time.Duration) string {
	var seen []string
	source := c.addr(p.from, proxy.FamilyOf(p.to.Addr()), p.source)
	for range attempts {
		got := dial(c.Host(p.from), p.protocol, p.to, source, p.want.result, timeouts)
		if why := c.differs(p, source, got); why != "" {
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

// dial connects, with one timeout after the other as long as there is no answer but should be.
func dial(from *lab.Host, p proxy.Protocol, to netip.AddrPort, source netip.Addr, want lab.Result, timeouts []time.Duration) lab.Outcome {
	o := lab.DialOptions{Source: netip.AddrPortFrom(source, 0)}
	var got lab.Outcome
	for _, o.Timeout = range timeouts {
		if got = from.Dial(p, to, o); got.Result != lab.Timeout || want == lab.Timeout {
			break
		}
	}
	return got
}

// differs says what is wrong with an outcome, "" if nothing is.
func (c *cluster) differs(p probe, source netip.Addr, got lab.Outcome) string {
	switch want := p.want; {
	case got.Result != want.result:
		return fmt.Sprintf("want %v", want.result)
	case got.Result != lab.Connected:
		return ""
	case !slices.Contains(want.servers, got.Server):
		return fmt.Sprintf("want one of %v", want.servers)
	case want.masqueraded && !slices.Contains(c.NodeAddrs, got.SeenSource):
		return "want it to see the node"
	case !want.masqueraded && got.SeenSource != source:
		return fmt.Sprintf("want it to see %s", source)
	}
	return ""
}
