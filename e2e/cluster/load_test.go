package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// A load is clients that connect to one address again and again, and one connection that stays open.
type load struct {
	t      *testing.T
	name   string
	host   *lab.Host
	cancel context.CancelFunc
	done   chan lab.LoadReport
	flow   *lab.Flow
	// retransmitted is how many SYNs the host had to send again before.
	retransmitted int
}

// apply has a host connect to an address all the time, with pauses. The load must be judged.
func (c *cluster) apply(t *testing.T, name, from string, to netip.AddrPort) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	l := &load{t: t, name: fmt.Sprintf("%s from %s", name, from), host: c.Host(from), cancel: cancel, done: make(chan lab.LoadReport, 1)}
	l.retransmitted = l.synRetransmissions()
	var err error
	l.flow, err = l.host.Flow(proxy.TCP, to, 10*time.Millisecond)
	must(t, err)
	go func() {
		total := lab.LoadReport{Servers: map[string]int{}}
		for ctx.Err() == nil {
			// A timeout longer than the second after which a SYN is sent again: what was lost once is seen by that.
			r := l.host.Load(ctx, proxy.TCP, to, lab.LoadOptions{Parallel: 2, Attempts: 10, Timeout: 5 * time.Second})
			total.OK, total.Failed, total.Errors = total.OK+r.OK, total.Failed+r.Failed, append(total.Errors, r.Errors...)
			for server, n := range r.Servers {
				total.Servers[server] += n
			}
			time.Sleep(30 * time.Millisecond) // the tests beside this one have the same two cores
		}
		l.done <- total
	}()
	return l
}

// judge ends the clients; every connection must have succeeded at the first attempt.
func (l *load) judge() {
	l.t.Helper()
	l.cancel()
	r, flow := <-l.done, l.flow.Stop()
	again := l.synRetransmissions() - l.retransmitted
	l.t.Logf("%s: %s; the long connection: %s", l.name, r, flow)
	const enough = 50
	if r.Failed > 0 || r.OK < enough || again > 0 {
		l.t.Errorf("%s: %s; %d SYNs were sent again; want at least %d connections, none failed", l.name, r, again, enough)
	}
	if !flow.Intact() {
		l.t.Errorf("%s: the connection that stays open was harmed: %s", l.name, flow)
	}
}

// synRetransmissions counts the SYNs that the host sent more than once so far.
func (l *load) synRetransmissions() int {
	l.t.Helper()
	var raw []byte
	must(l.t, l.host.Do(func() (err error) {
		raw, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	}))
	var names []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		for i, name := range names {
			if name == "TCPSynRetrans" {
				n, err := strconv.Atoi(fields[i])
				must(l.t, err)
				return n
			}
		}
		names = fields
	}
	l.t.Fatal("no counter TCPSynRetrans")
	return 0
}
