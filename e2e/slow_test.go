package e2e

import (
	"flag"
	"slices"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// slow is for machines such as those that emulate their processor: waits and loads last as many times longer, and as many times fewer packets are under way at
// the same time.
var slow = flag.Int("slow", 1, "how many times slower this machine is than one on which the tests take the time that they should")

// verifySlowly is Verify for machines that may lose packets when they have many to carry.
func (c *cluster) verifySlowly(s *proxy.State, packets []proxytest.Packet) (errs []error) {
	if *slow <= 1 {
		return c.Verify(s, packets)
	}
	for some := range slices.Chunk(packets, max(1, 64 / *slow)) {
		if len(c.Verify(s, some)) == 0 {
			continue
		}
		for _, p := range some {
			errs = append(errs, c.Verify(s, []proxytest.Packet{p})...)
		}
	}
	return errs
}

// standstill is how many SYNs may have been sent again because a slow machine stood still for longer than the second after which that is done, as
// the connection that stays open saw it. What a change loses would be many more: it meets all clients, each time.
func standstill(r lab.LoadReport, flow lab.FlowReport) int {
	if *slow <= 1 || flow.Slowest < time.Second {
		return 0
	}
	return 1 + r.OK/1000
}
