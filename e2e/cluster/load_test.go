package cluster

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// A load is clients that connect to one address again and again, and one connection that stays open.
type load struct {
	*lab.Clients
	t    *testing.T
	name string
}

// apply has a host connect to an address all the time, with pauses, as the tests beside this one have the same two cores. The load must be judged.
func (c *cluster) apply(t *testing.T, name, from string, to netip.AddrPort) *load {
	t.Helper()
	clients, err := c.Host(from).Clients(proxy.TCP, to, lab.LoadOptions{Parallel: 2, Interval: 10 * time.Millisecond})
	must(t, err)
	return &load{clients, t, fmt.Sprintf("%s from %s", name, from)}
}

// judge ends the clients; every connection must have succeeded at the first attempt.
func (l *load) judge() {
	l.t.Helper()
	r, err := l.Stop()
	must(l.t, err)
	l.t.Logf("%s: %s", l.name, r)
	if fault := r.Fault(50); fault != "" {
		l.t.Errorf("%s: %s: %s", l.name, fault, r)
	}
}
