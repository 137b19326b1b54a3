package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// VerifyTimeout is how long Verify waits for answers: every dropped packet takes that long.
const VerifyTimeout = 300 * time.Millisecond

// verifyTimeouts are tried one after the other where an answer is due: a busy machine may be late.
var verifyTimeouts = []time.Duration{VerifyTimeout, time.Second, 5 * time.Second}

// Verify sends packets for real and compares what becomes of them with what Trace says about a State that the node follows.
// It returns one error for each packet that disagrees. Every host must serve proxytest.EndpointPorts (see ServeEndpoints).
// Packets that Trace passes are not sent.
func (l *Lab) Verify(s *proxy.State, packets []proxytest.Packet) []error {
	const parallel = 64
	errs := make([]error, len(packets))
	slots := make(chan struct{}, parallel)
	var wait sync.WaitGroup
	for i, p := range packets {
		slots <- struct{}{}
		wait.Go(func() {
			errs[i] = l.verify(s, p)
			<-slots
		})
	}
	wait.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// VerifySlowly is Verify for emulated processors, which are too slow for many packets at the same time: it sends some at a time, and those
// among which any disagrees once more, each by itself.
func (l *Lab) VerifySlowly(s *proxy.State, packets []proxytest.Packet) (errs []error) {
	for some := range slices.Chunk(packets, 16) {
		if len(l.Verify(s, some)) == 0 {
			continue
		}
		for _, p := range some {
			errs = append(errs, l.Verify(s, []proxytest.Packet{p})...)
		}
	}
	return errs
}

// ServeEndpoints serves proxytest.EndpointPorts, and further ports, on every host but the outside client, by every protocol.
func (l *Lab) ServeEndpoints(more ...uint16) error {
	for _, h := range l.hosts {
		for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
			for _, port := range append(slices.Clone(proxytest.EndpointPorts), more...) {
				if h.Node == "" {
					continue
				}
				if _, err := h.Serve(protocol, port); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// verify sends one packet. One that was dropped is tried again if it should not have been.
func (l *Lab) verify(s *proxy.State, p proxytest.Packet) error {
	want := proxytest.Trace(s, p)
	if want.Verdict == proxytest.Pass || l.asymmetric(p, want) {
		return nil
	}
	options := DialOptions{Source: netip.AddrPortFrom(p.Source, 0)}
	var got Outcome
	for _, options.Timeout = range verifyTimeouts {
		got = l.Host(p.From).Dial(p.Protocol, netip.AddrPortFrom(p.Destination, p.Port), options)
		if got.Result != Timeout || want.Verdict == proxytest.Dropped {
			break
		}
	}
	if why := l.disagreement(p, want, got); why != "" {
		return fmt.Errorf("%v: %s: got %v, want %v", p, why, got, want)
	}
	return nil
}

// asymmetric tells of packets that cannot be answered in this lab: n2 has no proxy of its own, so its Services are reached
// through n1, but what an endpoint on n2 answers to somebody on n2 does not come back through n1.
func (l *Lab) asymmetric(p proxytest.Packet, want proxytest.Outcome) bool {
	if l.Cluster.Host(p.From).Node != "n2" {
		return false
	}
	return slices.ContainsFunc(want.Destinations, func(d proxytest.Destination) bool {
		return !d.Masquerade && l.owner(d.Addr.Addr()).Node == "n2"
	})
}

// owner returns the host that has an address; an empty one if there is none.
func (l *Lab) owner(a netip.Addr) proxytest.Host {
	for _, h := range l.Cluster.Hosts {
		if slices.Contains(h.Addrs, a) {
			return h
		}
	}
	return proxytest.Host{}
}

// disagreement says how an outcome differs from what was traced, "" if it does not.
func (l *Lab) disagreement(p proxytest.Packet, want proxytest.Outcome, got Outcome) string {
	results := map[proxytest.TraceVerdict]Result{
		proxytest.Forwarded: Connected, proxytest.Rejected: Refused, proxytest.Dropped: Timeout,
	}
	if got.Result != results[want.Verdict] {
		return "result"
	}
	if got.Result != Connected {
		return ""
	}
	i := slices.IndexFunc(want.Destinations, func(d proxytest.Destination) bool { return d.Addr == got.Endpoint })
	if i < 0 {
		return "endpoint"
	}
	masqueraded := slices.Contains(l.NodeAddrs, got.SeenSource)
	switch {
	case l.owner(got.Endpoint.Addr()).Name == l.Node().Name:
		// What is delivered on the node itself leaves through no interface whose address could replace the source.
		return ""
	case want.Destinations[i].Masquerade && !masqueraded:
		return "not masqueraded"
	case !want.Destinations[i].Masquerade && got.SeenSource != p.Source:
		return "source address lost"
	}
	return ""
}
