package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"turnout/proxy"
)

// Flow is one long-lived connection over which numbers go back and forth.
type Flow struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards report
	report FlowReport
}

// FlowReport is what a Flow saw until now.
type FlowReport struct {
	// Servers are those that answered, in the order of their first answers. TCP connections have exactly one.
	Servers []string
	// Sent and Answered count the numbers, without one that is still waited for. With UDP the difference is what was lost, or
	// comes after more than DefaultTimeout: it is counted when it comes. TCP stops at the first loss.
	Sent, Answered int
	// Slowest is the longest time between a number and its answer.
	Slowest time.Duration
	// Err is what ended a TCP flow before Stop; UDP flows go on whatever happens.
	Err error
}

// Intact tells that every number was answered, all by the same server.
func (r FlowReport) Intact() bool {
	return r.Err == nil && r.Sent == r.Answered && r.Answered > 0 && len(r.Servers) == 1
}

// String returns one line, such as "120 of 120 answered by [pod-1], slowest 1ms".
func (r FlowReport) String() string {
	s := fmt.Sprintf("%d of %d answered by %v, slowest %v", r.Answered, r.Sent, r.Servers, r.Slowest.Round(time.Microsecond))
	if r.Err != nil {
		s += ", then: " + r.Err.Error()
	}
	return s
}

// flowPatience is how long a TCP flow waits for one answer: longer than some retransmissions, as a lost segment breaks none, and than an emulated machine
// may pause.
const flowPatience = 20 * time.Second

// Flow opens a TCP or UDP flow to a server of the lab and sends a number every interval, until Stop. The error is that of
// opening a TCP connection.
func (h *Host) Flow(protocol proxy.Protocol, to netip.AddrPort, interval time.Duration) (*Flow, error) {
	var conn net.Conn
	err := h.Do(func() error {
		var err error
		switch protocol {
		case proxy.TCP:
			conn, _, err = openTCP(netip.AddrPort{}, to, flowPatience)
		case proxy.UDP:
			conn, err = openUDP(netip.AddrPort{}, to)
		default:
			err = fmt.Errorf("no flows for %s", protocol)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Flow{cancel: cancel, done: make(chan struct{})}
	if protocol == proxy.TCP {
		if err := f.greet(conn); err != nil {
			cancel()
			return nil, fmt.Errorf("connected, but no banner: %w", err)
		}
	}
	go f.run(ctx, conn, protocol, interval)
	return f, nil
}

// greet reads the banner of a TCP connection, byte by byte as nothing behind it may be lost.
func (f *Flow) greet(conn net.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(flowPatience))
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; {
		if _, err := io.ReadFull(conn, b); err != nil {
			_ = conn.Close()
			return err
		}
		line = append(line, b[0])
	}
	g, err := parseBanner(string(line))
	f.report.Servers = []string{g.server}
	return err
}

func (f *Flow) run(ctx context.Context, conn net.Conn, protocol proxy.Protocol, interval time.Duration) {
	defer close(f.done)
	defer conn.Close()
	exchange := exchangeTCP
	if protocol == proxy.UDP {
		exchange = exchangeUDP
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for number := uint64(1); ; number++ {
		start := time.Now()
		server, late, err := exchange(conn, number)
		f.record(server, late, time.Since(start), err, protocol)
		if err != nil && protocol == proxy.TCP {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Flow) record(server string, late int, took time.Duration, err error, protocol proxy.Protocol) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Sent++
	f.report.Answered += late
	f.report.Slowest = max(f.report.Slowest, took)
	if err != nil {
		if protocol == proxy.TCP {
			f.report.Err = err
		}
		return
	}
	f.report.Answered++
	if server != "" && !slices.Contains(f.report.Servers, server) {
		f.report.Servers = append(f.report.Servers, server)
	}
}

// exchangeTCP sends a number and expects it back.
func exchangeTCP(conn net.Conn, number uint64) (server string, late int, err error) {
	_ = conn.SetDeadline(time.Now().Add(flowPatience))
	sent := binary.BigEndian.AppendUint64(nil, number)
	if _, err := conn.Write(sent); err != nil {
		return "", 0, err
	}
	back := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, back); err != nil {
		return "", 0, err
	}
	if !bytes.Equal(sent, back) {
		return "", 0, fmt.Errorf("sent number %d, received %d", number, binary.BigEndian.Uint64(back))
	}
	return "", 0, nil
}

// exchangeUDP sends a number and expects it behind a banner. Answers to earlier numbers, which came too late for them, are counted.
func exchangeUDP(conn net.Conn, number uint64) (server string, late int, err error) {
	_ = conn.SetDeadline(time.Now().Add(DefaultTimeout))
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
		return "", 0, err
	}
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return "", late, err
		}
		line, back, _ := bytes.Cut(buf[:n], []byte("\n"))
		g, err := parseBanner(string(line))
		if err != nil {
			return "", late, err
		}
		if len(back) != 8 {
			return "", late, fmt.Errorf("answer without a number: %q", buf[:n])
		}
		if binary.BigEndian.Uint64(back) == number {
			return g.server, late, nil
		}
		late++
	}
}

// Report returns what was seen so far.
func (f *Flow) Report() FlowReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.report
	r.Servers = slices.Clone(r.Servers)
	return r
}

// Stop ends the flow, after the exchange that is under way, and returns what it saw.
func (f *Flow) Stop() FlowReport {
	f.cancel()
	<-f.done
	return f.Report()
}
