package expect

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// Expectation is what must become of connections.
type Expectation struct {
	Result lab.Result
	// Servers must all be reached, one or another by each connection, and no others.
	Servers []string
	// Masqueraded tells that servers see the address of the node's interface that leads to them, and else that of the client.
	Masqueraded bool
}

// What does not depend on servers: the client is refused, or hears nothing.
var (
	Refused = Expectation{Result: lab.Refused}
	Dropped = Expectation{Result: lab.Timeout}
)

// Kept expects servers that see who connects.
func Kept(servers ...string) Expectation { return Expectation{Servers: servers} }

// Masqueraded expects servers that see the node.
func Masqueraded(servers ...string) Expectation {
	return Expectation{Servers: servers, Masqueraded: true}
}

// Passed expects that the proxy does nothing, in a lab whose client answers stray packets.
func Passed() Expectation { return Kept(lab.Stray) }

// Attempts is how often a pool is tried until all of its endpoints were reached: of two, one is missed once in 2^59 times.
const Attempts = 60

// Patiently are timeouts for answers that are due: they come in time even on a busy machine. Briefly is for where the whole is tried again
// anyway, and waiting would only take time.
var (
	Patiently = []time.Duration{500 * time.Millisecond, 5 * time.Second}
	Briefly   = Patiently[:1]
)

// Probe is connections from a host to an address, and what must become of them.
type Probe struct {
	From *lab.Host
	// Source is the client's address.
	Source netip.Addr
	// Unbound leaves it to the kernel to choose the source.
	Unbound  bool
	Protocol proxy.Protocol
	To       netip.AddrPort
	Want     Expectation
}

// Dial connects once, with one timeout after the other as long as there is no answer but should be.
func (p *Probe) Dial(timeouts []time.Duration) lab.Outcome {
	var o lab.DialOptions
	if !p.Unbound {
		o.Source = netip.AddrPortFrom(p.Source, 0)
	}
	var got lab.Outcome
	for _, o.Timeout = range timeouts {
		if got = p.From.Dial(p.Protocol, p.To, o); got.Result != lab.Timeout || p.Want.Result == lab.Timeout {
			break
		}
	}
	return got
}

// Fault connects until all expected servers were reached, or until something unexpected happens, which it describes. It is "" if nothing does.
func (p *Probe) Fault(timeouts []time.Duration) string {
	var seen []string
	for range Attempts {
		got := p.Dial(timeouts)
		if why := p.differs(got); why != "" {
			return fmt.Sprintf("%v: %s", got, why)
		}
		if got.Result != lab.Connected {
			return ""
		}
		if !slices.Contains(seen, got.Server) {
			seen = append(seen, got.Server)
		}
		if len(seen) == len(p.Want.Servers) {
			return ""
		}
	}
	return fmt.Sprintf("%d connections reached only %v, want all of %v", Attempts, seen, p.Want.Servers)
}

// Faults returns the Fault of each probe. The connections of all of them are made at the same time, as each that is dropped takes half a
// second.
func Faults(probes []Probe) []string {
	const parallel = 32
	faults := make([]string, len(probes))
	slots := make(chan struct{}, parallel)
	var wait sync.WaitGroup
	for i := range probes {
		slots <- struct{}{}
		wait.Go(func() {
			faults[i] = probes[i].Fault(Patiently)
			<-slots
		})
	}
	wait.Wait()
	return faults
}

// differs says what is wrong with an outcome, "" if nothing is.
func (p *Probe) differs(got lab.Outcome) string {
	source := p.Source
	if p.Want.Masqueraded {
		source = Gateway(got.Server, proxy.FamilyOf(p.To.Addr()))
	}
	switch {
	case got.Result != p.Want.Result:
		return fmt.Sprintf("want %v", p.Want.Result)
	case got.Result == lab.Refused && p.Protocol == proxy.TCP && got.ICMP:
		return "want a reset, as ICMP errors are rate limited"
	case got.Result != lab.Connected:
		return ""
	case !slices.Contains(p.Want.Servers, got.Server):
		return fmt.Sprintf("want one of %v", p.Want.Servers)
	case got.SeenSource != source:
		return fmt.Sprintf("want it to see %s", source)
	}
	return ""
}

// gateways are the node's addresses on the interfaces that lead to hosts.
var gateways = map[string][2]string{
	"pod-1": {"10.244.1.1", "fd00:10:244:1::1"}, "pod-2": {"10.244.1.1", "fd00:10:244:1::1"}, "pod-3": {"10.244.1.1", "fd00:10:244:1::1"},
	"pod-4": {"192.168.51.1", "fd51::1"}, "pod-5": {"192.168.51.1", "fd51::1"}, "n2": {"192.168.51.1", "fd51::1"},
	"client": {"192.168.50.1", "fd50::1"},
}

// Gateway is the node's address on the interface that leads to a host, the invalid one if the host is the node itself or unknown.
func Gateway(host string, f proxy.Family) netip.Addr {
	addrs, ok := gateways[host]
	if !ok {
		return netip.Addr{}
	}
	if f == proxy.IPv6 {
		return netip.MustParseAddr(addrs[1])
	}
	return netip.MustParseAddr(addrs[0])
}
