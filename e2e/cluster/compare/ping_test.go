package compare

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// TestPing sends echo requests to every kind of address.
func TestPing(t *testing.T) {
	p := newPair(t, usual)
	c := p.turnout.Lab.Cluster
	p.set(append(with(c, service(1, "web"), on("pod-2"), on("pod-5")), with(c, service(2, "empty"))...)...)
	var refused atomic.Int32
	var wait sync.WaitGroup
	for _, to := range []string{
		"10.96.1.1", "10.96.1.2", "10.96.200.1", "192.168.60.1", "192.168.60.111", "192.168.50.1", "10.244.1.3",
		"fd00:10:96::101", "fd00:10:96::102", "fd00:10:96::c801", "fd60::1", "fd60::101", "fd50::1", "fd00:10:244:1::3",
	} {
		for _, from := range []string{"pod-1", "pod-4", "n1", "client"} {
			wait.Go(func() {
				var turnout, upstream string
				for range 3 { // a busy machine may be late for one of them
					if turnout, upstream = ping(p.turnout, from, to), ping(p.upstream, from, to); turnout == upstream {
						break
					}
				}
				if turnout != upstream {
					t.Errorf("%s pings %s: turnout %s, kube-proxy %s", from, to, turnout, upstream)
				}
				if upstream == lab.Refused.String() {
					refused.Add(1)
				}
			})
		}
	}
	wait.Wait()
	if refused.Load() < 16 {
		t.Errorf("%d echo requests were refused, want those to ClusterIPs at least", refused.Load())
	}
}

// ping sends an echo request and returns what came of it: "answered by ADDRESS", a lab.Result, or another error.
func ping(s *beside.Side, from, to string) string {
	address := netip.MustParseAddr(to)
	host := s.Lab.Host(from)
	var outcome string
	err := host.Do(func() (err error) {
		outcome, err = echo(host.Addr(proxy.FamilyOf(address)), address)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return outcome
}

// echo is ping in the namespace of the calling thread.
func echo(source, to netip.Addr) (string, error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	level, option := unix.SOL_IP, unix.IP_RECVERR
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
		level, option = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	d := net.Dialer{LocalAddr: &net.IPAddr{IP: source.AsSlice()}, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, option, 1) })
	}}
	conn, err := d.Dial(network, to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	message := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}
	binary.BigEndian.PutUint16(message[2:], ^(uint16(request)<<8 + 0x1234 + 1)) // of IPv6 the kernel makes the checksum
	if _, err := conn.Write(message); err != nil && !errors.Is(err, unix.EPERM) {
		return classify(err)
	}
	for answer := make([]byte, 1500); ; {
		n, err := conn.Read(answer)
		if err != nil {
			return classify(err)
		}
		if n >= len(message) && answer[0] == reply {
			return fmt.Sprintf("answered by %s", conn.RemoteAddr()), nil
		}
	}
}

// classify tells the errors that an echo request may lead to from others.
func classify(err error) (string, error) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return lab.Refused.String(), nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return lab.Timeout.String(), nil
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPROTO):
		return lab.Unreachable.String(), nil
	}
	return "", err
}
