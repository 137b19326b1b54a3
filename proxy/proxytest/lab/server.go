package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"turnout/proxy"
)

// Serve answers connections to a port on all addresses of the host, until the lab is closed or the returned function is
// called; stopping ends open connections too. A server tells who it is, where it was reached and whom it saw in one line
// ("pod-1 10.244.1.2:8080 saw 192.168.50.100:34567"), and then sends back what it receives.
//
// SCTP needs no SCTP in the kernel: the server answers an INIT by an INIT ACK with the line in its cookie, which is what
// connection tracking and NAT need to see.
func (h *Host) Serve(protocol proxy.Protocol, port uint16) (stop func() error, err error) {
	var all closers
	err = h.Do(func() error {
		for _, a := range h.Addrs {
			s, err := h.listen(protocol, netip.AddrPortFrom(a, port))
			if err != nil {
				return fmt.Errorf("serve %s/%s on %s: %w", netip.AddrPortFrom(a, port), protocol, h.Name, err)
			}
			all = append(all, s)
		}
		return nil
	})
	if err != nil {
		_ = all.Close()
		return nil, err
	}
	return all.Close, h.own(all)
}

type closers []io.Closer

// Close closes all; closing again does nothing.
func (c closers) Close() error {
	for _, one := range c {
		_ = one.Close() // only ever "already closed"
	}
	return nil
}

func (h *Host) listen(protocol proxy.Protocol, at netip.AddrPort) (io.Closer, error) {
	switch protocol {
	case proxy.TCP:
		return h.listenTCP(at)
	case proxy.UDP:
		return h.listenUDP(at)
	case proxy.SCTP:
		return h.listenSCTP(at)
	}
	return nil, fmt.Errorf("no server for %s", protocol)
}

func (h *Host) banner(at, peer netip.AddrPort) string {
	return fmt.Sprintf("%s %s saw %s\n", h.Name, at, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
}

// tcpServer ends its connections when it is closed.
type tcpServer struct {
	net.Listener
	cancel context.CancelFunc
}

func (s *tcpServer) Close() error {
	s.cancel()
	return s.Listener.Close()
}

func (h *Host) listenTCP(at netip.AddrPort) (io.Closer, error) {
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	ctx, cancel := context.WithCancel(context.Background())
	l, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			go func() {
				defer stop()
				defer c.Close()
				h.answerTCP(c, at)
			}()
		}
	}()
	return &tcpServer{Listener: l, cancel: cancel}, nil
}

func (h *Host) answerTCP(c net.Conn, at netip.AddrPort) {
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if _, err := io.WriteString(c, h.banner(at, peer)); err != nil {
		return
	}
	_, _ = io.Copy(c, c) // until the client goes
}

// listenUDP answers each datagram by the banner, followed by what it received.
func (h *Host) listenUDP(at netip.AddrPort) (io.Closer, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			answer := append([]byte(h.banner(at, peer)), buf[:n]...)
			_, _ = c.WriteToUDPAddrPort(answer, peer) // a client that went away is not the server's problem
		}
	}()
	return c, nil
}

// greeting is a banner taken apart.
type greeting struct {
	server   string
	endpoint netip.AddrPort
	seen     netip.AddrPort
}

func parseBanner(line string) (greeting, error) {
	var g greeting
	words := strings.Fields(line)
	if len(words) != 4 || words[2] != "saw" {
		return g, fmt.Errorf("not a banner: %q", line)
	}
	g.server = words[0]
	var err error
	if g.endpoint, err = netip.ParseAddrPort(words[1]); err != nil {
		return g, fmt.Errorf("banner %q: %w", line, err)
	}
	if g.seen, err = netip.ParseAddrPort(words[3]); err != nil {
		return g, fmt.Errorf("banner %q: %w", line, err)
	}
	return g, nil
}
