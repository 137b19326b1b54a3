package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"turnout/proxy"
)

// Clients connect to one address again and again, while one connection stays open.
type Clients struct {
	host       *Host
	cancel     context.CancelFunc
	done       chan LoadReport
	flow       *Flow // nil unless they connect by TCP
	before     int   // how many SYNs the host had sent again
	ok, failed atomic.Int64
}

// ClientsReport is what Clients saw.
type ClientsReport struct {
	LoadReport
	// Flow is the connection that stayed open, nil unless they connect by TCP.
	Flow *FlowReport
	// Again is how many SYNs the host sent a second time meanwhile, whoever sent them.
	Again int
}

// clientPatience is longer than the second after which a SYN is sent again: what was lost once is seen by that, and only what is lost for good fails.
const clientPatience = 5 * time.Second

// Clients begin to connect, without end unless the options have one, until Stop or the end of the lab. The error is that of opening the connection that stays open. A timeout in
// the options should be longer than the second after which a SYN is sent again; 0 is five seconds.
func (h *Host) Clients(protocol proxy.Protocol, to netip.AddrPort, o LoadOptions) (*Clients, error) {
	if o.Timeout == 0 {
		o.Timeout = clientPatience
	}
	if o.Attempts == 0 {
		o.Attempts = 1 << 30
	}
	c := &Clients{host: h, done: make(chan LoadReport, 1)}
	o.each = func(out Outcome) {
		if out.Result == Connected {
			c.ok.Add(1)
		} else {
			c.failed.Add(1)
		}
	}
	var err error
	if c.before, err = h.synRetransmissions(); err != nil {
		return nil, err
	}
	if protocol == proxy.TCP {
		if c.flow, err = h.Flow(protocol, to, 10*time.Millisecond); err != nil {
			return nil, fmt.Errorf("open a connection to %s: %w", to, err)
		}
	}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	if err := h.own(closer(c.cancel)); err != nil {
		return nil, err
	}
	go func() { c.done <- h.Load(ctx, protocol, to, o) }()
	return c, nil
}

// closer is a function that ends something.
type closer func()

// Close implements io.Closer.
func (c closer) Close() error {
	c()
	return nil
}

// SoFar is how often they connected, and how often they could not.
func (c *Clients) SoFar() (ok, failed int) { return int(c.ok.Load()), int(c.failed.Load()) }

// Again is how many SYNs their host sent a second time so far.
func (c *Clients) Again() (int, error) {
	now, err := c.host.synRetransmissions()
	return now - c.before, err
}

// Stop ends the clients, after the attempts that are under way, and returns what they saw. It may be called once.
func (c *Clients) Stop() (r ClientsReport, err error) {
	c.cancel()
	r.LoadReport = <-c.done
	if c.flow != nil {
		flow := c.flow.Stop()
		r.Flow = &flow
	}
	r.Again, err = c.Again()
	return r, err
}

// String returns one line, such as "500 ok, 0 failed: pod-1 500; 0 SYNs sent again; the long connection: 120 of 120 answered by [pod-1], slowest 1ms".
func (r ClientsReport) String() string {
	s := fmt.Sprintf("%s; %d SYNs sent again", r.LoadReport, r.Again)
	if r.Flow != nil {
		s += "; the long connection: " + r.Flow.String()
	}
	return s
}

// Fault says what the clients noticed, "" if all connected at the first attempt and the long connection lives. Too few connections say nothing, which is a
// fault, too.
func (r ClientsReport) Fault(enough int) string {
	switch {
	case r.Failed > 0:
		return "connections failed"
	case r.OK < enough:
		return fmt.Sprintf("fewer than %d connections", enough)
	case r.Again > r.standstill():
		return "connections came only by a second SYN"
	case r.Flow != nil && !r.Flow.Intact():
		return "the connection that stays open was harmed"
	}
	return ""
}

// standstill is how many SYNs may have been sent again because the machine stood still for longer than the second after which that is done, as the connection
// that stays open saw it. What a change loses would be many more: it meets all clients, each time.
func (r ClientsReport) standstill() int {
	if r.Flow == nil || r.Flow.Slowest < time.Second {
		return 0
	}
	return 1 + r.OK/1000
}

// synRetransmissions counts the SYNs that the host sent more than once so far.
func (h *Host) synRetransmissions() (n int, err error) {
	err = h.Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		n, err = counter(string(raw), "TcpExt:", "TCPSynRetrans")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count SYNs that %s sent again: %w", h.Name, err)
	}
	return n, nil
}

// counter finds a value in /proc/net/netstat, where a line of names is followed by one of values.
func counter(text, group, name string) (int, error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != group {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range fields {
			if i < len(names) && names[i] == name {
				return strconv.Atoi(fields[i])
			}
		}
	}
	return 0, fmt.Errorf("no counter %s %s", group, name)
}
