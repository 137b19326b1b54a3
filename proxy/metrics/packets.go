package metrics

import (
	"sync/atomic"

	k8s "k8s.io/component-base/metrics"

	"turnout/proxy"
)

// packetCounter is a Backend whose rules count packets.
type packetCounter interface {
	// Packets returns what was counted since the counters were made, by the rules of all families; false if those of this one do not count. It may be called
	// from any goroutine.
	Packets() (proxy.PacketCounts, bool)
}

// packets are the metrics whose values are in the kernel. They are read whenever somebody asks for the metrics, and are not there if nothing counts.
type packets struct {
	k8s.BaseStableCollector
	invalid, localhost *k8s.Desc
	counters           atomic.Pointer[[]packetCounter] // of the mode in use
}

func newPackets() *packets {
	return &packets{
		invalid:   k8s.NewDesc(InvalidDropped, "Packets that were not forwarded because connection tracking cannot place them.", nil, nil, k8s.ALPHA, ""),
		localhost: k8s.NewDesc(LocalhostAccepted, "Connections to NodePorts on loopback addresses.", nil, nil, k8s.ALPHA, ""),
	}
}

// Packets collects the metrics whose values are in the kernel, for legacyregistry.CustomMustRegister.
func (m *Metrics) Packets() k8s.StableCollector { return m.packets }

// DescribeWithStability is part of StableCollector.
func (p *packets) DescribeWithStability(ch chan<- *k8s.Desc) { ch <- p.invalid; ch <- p.localhost }

// CollectWithStability is part of StableCollector. All families share the counters, so one that counts tells for all.
func (p *packets) CollectWithStability(ch chan<- k8s.Metric) {
	counters := p.counters.Load()
	if counters == nil {
		return
	}
	for _, c := range *counters {
		counts, ok := c.Packets()
		if !ok {
			continue
		}
		for desc, n := range map[*k8s.Desc]uint64{p.invalid: counts.InvalidDropped, p.localhost: counts.LocalhostAccepted} {
			if metric, err := k8s.NewConstMetric(desc, k8s.CounterValue, float64(n)); err == nil { // no labels could be wrong
				ch <- metric
			}
		}
		return
	}
}
