package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Result is how an attempt to connect ended.
type Result uint8

// The results of Dial. Failed is anything that none of the others describes; Outcome.Err tells what.
const (
	Connected   Result = iota // a server answered
	Refused                   // reset, abort or ICMP port unreachable
	Timeout                   // no answer at all
	Unreachable               // another ICMP error, or no route
	Failed
)

func (r Result) String() string {
	return [...]string{"connected", "refused", "timeout", "unreachable", "failed"}[r]
}

// Outcome is what came of an attempt to connect.
type Outcome struct {
	Result Result
	// Server is the name of the host that answered, Endpoint the address and port on which it was reached there.
	Server   string
	Endpoint netip.AddrPort
	// SeenSource is the client's address as the server saw it, SeenPort its port.
	SeenSource netip.Addr
	SeenPort   uint16
	// ICMP tells that a TCP connection was refused by an ICMP error rather than a reset.
	ICMP bool
	// Took is the time until the result was known.
	Took time.Duration
	// Ended is when it was known.
	Ended time.Time
	// Err is why there is no connection; nil if there is one.
	Err error
}

// String returns one line, such as "connected to pod-1 10.244.1.2:8080, which saw 192.168.50.100" or "refused".
func (o Outcome) String() string {
	switch {
	case o.Result == Connected:
		return fmt.Sprintf("connected to %s %s, which saw %s", o.Server, o.Endpoint, o.SeenSource)
	case o.Result == Failed:
		return fmt.Sprintf("failed: %v", o.Err)
	case o.ICMP:
		return o.Result.String() + " by ICMP"
	}
	return o.Result.String()
}

// DialOptions are the optional parts of Dial.
type DialOptions struct {
	// Timeout is how long to wait for an answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Source is the client's address and port; what is missing is chosen by the kernel.
	Source netip.AddrPort
}

// DefaultTimeout is long enough for a busy machine and less than the second after which TCP sends a SYN again.
const DefaultTimeout = 500 * time.Millisecond

var errRefused = fmt.Errorf("aborted by the peer: %w", unix.ECONNREFUSED)

// Dial connects to a server started by Serve, reads its banner and closes the connection; TCP connections are reset, so
// that they leave no trace. It is meant for servers of the lab reached over whatever the proxy makes of the way there.
func (h *Host) Dial(protocol proxy.Protocol, to netip.AddrPort, o DialOptions) Outcome {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	var out Outcome
	if err := h.Do(func() error { out = dial(protocol, to, o); return nil }); err != nil {
		return Outcome{Result: Failed, Err: err}
	}
	return out
}

// dial is Dial in the namespace of the calling thread.
func dial(protocol proxy.Protocol, to netip.AddrPort, o DialOptions) Outcome {
	start := time.Now()
	var line string
	var icmp bool
	var err error
	switch protocol {
	case proxy.TCP:
		line, icmp, err = dialTCP(o.Source, to, o.Timeout)
	case proxy.UDP:
		line, err = dialUDP(o.Source, to, o.Timeout)
	case proxy.SCTP:
		line, err = dialSCTP(o.Source, to, o.Timeout)
	default:
		err = fmt.Errorf("no client for %s", protocol)
	}
	out := Outcome{ICMP: icmp, Err: err, Took: time.Since(start), Ended: time.Now()}
	if err == nil {
		var g greeting
		g, out.Err = parseBanner(line)
		out.Server, out.Endpoint, out.SeenSource, out.SeenPort = g.server, g.endpoint, g.seen.Addr(), g.seen.Port()
	}
	out.Result = classify(out.Err)
	return out
}

func classify(err error) Result {
	switch {
	case err == nil:
		return Connected
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES),
		errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EPROTO):
		return Unreachable
	}
	return Failed
}

// openTCP connects, from a port that was used by no other for a while if it is left open. The second result tells, if that fails, whether an ICMP error was the reason.
func openTCP(from, to netip.AddrPort, timeout time.Duration) (c *net.TCPConn, icmp bool, err error) {
	if from.Port() != 0 {
		return openTCPFrom(net.TCPAddrFromAddrPort(from), to, timeout)
	}
	for range sourcePorts {
		c, icmp, err = openTCPFrom(&net.TCPAddr{IP: from.Addr().AsSlice(), Port: int(nextPort())}, to, timeout)
		if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	return c, icmp, err
}

func openTCPFrom(from *net.TCPAddr, to netip.AddrPort, timeout time.Duration) (c *net.TCPConn, icmp bool, err error) {
	// The dialer closes a socket that could not connect; its error queue is read from a duplicate.
	queue := -1
	d := dialer(to, func(fd int) (err error) {
		queue, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	d.Timeout, d.KeepAlive, d.LocalAddr = timeout, -1, from
	conn, err := d.Dial("tcp", to.String())
	if queue >= 0 {
		defer unix.Close(queue)
	}
	if err != nil {
		var netErr net.Error
		if errors.As(err, &netErr) && netErr.Timeout() {
			err = fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, err)
		}
		return nil, queue >= 0 && hasICMPError(queue), err
	}
	c = conn.(*net.TCPConn)
	_ = c.SetLinger(0)
	return c, false, nil
}

// dialer makes sockets that report every ICMP error: otherwise only a few count as errors of a UDP or raw socket. Each is
// shown to also, if that is not nil.
func dialer(to netip.AddrPort, also func(fd int) error) *net.Dialer {
	level, option := unix.SOL_IPV6, unix.IPV6_RECVERR
	if to.Addr().Is4() {
		level, option = unix.SOL_IP, unix.IP_RECVERR
	}
	return &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), level, option, 1); err == nil && also != nil {
				err = also(int(fd))
			}
		}); e != nil {
			return e
		}
		if err != nil {
			return fmt.Errorf("ask for ICMP errors: %w", err)
		}
		return nil
	}}
}

// hasICMPError reads the error queue of a socket.
func hasICMPError(fd int) bool {
	buf, oob := make([]byte, 256), make([]byte, 256)
	_, _, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	return err == nil
}

func dialTCP(from, to netip.AddrPort, timeout time.Duration) (line string, icmp bool, err error) {
	deadline := time.Now().Add(timeout)
	c, icmp, err := openTCP(from, to, timeout)
	if err != nil {
		return "", icmp, err
	}
	defer c.Close()
	_ = c.SetReadDeadline(deadline)
	line, err = bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", false, fmt.Errorf("connected, but no banner: %w", err)
	}
	return line, false, nil
}

// openUDP makes a socket whose port, if it is left open, was used by no other for a long time.
func openUDP(from, to netip.AddrPort) (conn net.Conn, err error) {
	d := dialer(to, nil)
	if from.Port() != 0 {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
		return d.Dial("udp", to.String())
	}
	for range sourcePorts {
		d.LocalAddr = &net.UDPAddr{IP: from.Addr().AsSlice(), Port: int(nextPort())}
		if conn, err = d.Dial("udp", to.String()); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return conn, err
}

func dialUDP(from, to netip.AddrPort, timeout time.Duration) (string, error) {
	c, err := openUDP(from, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := send(c, []byte("hello")); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line, nil
}

// send writes one packet. A filter of the host itself that drops or rejects it is told to the sender as EPERM; that is no
// failure, but what answer comes decides, as for packets that are dropped on the way.
func send(c net.Conn, packet []byte) error {
	if _, err := c.Write(packet); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}
