package nftables

import (
	"flag"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest/cases"
)

var slowly = flag.Bool("slowly", false, "send few packets at a time, as emulated processors need it")

// What becomes of packets is what the tracer says, of every case and of random States.
func TestTraffic(t *testing.T) {
	t.Parallel()
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			cases.Mode{
				Open: func(t *testing.T, f proxy.Family) proxy.Backend { return newTestBackend(t, Options{Family: f}) },
				Seed: 1, Random: 4, Most: 250, Slowly: *slowly,
			}.Traffic(t, f)
		})
	}
}
