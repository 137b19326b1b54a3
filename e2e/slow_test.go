package e2e

import (
	"flag"
	"slices"

	"turnout/proxy"
	"turnout/proxy/proxytest"
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
