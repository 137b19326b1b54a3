package plane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"turnout/proxy/proxytest/lab"
)

// Front is how nodes reach the API server: a load balancer in front of it, as clusters with several API servers have. It passes bytes
// on and can be made to fail, while the API server itself stays reachable for Admin.
type Front struct {
	host *lab.Host
	at   []netip.AddrPort
	to   string

	mu        sync.Mutex // guards the rest
	listeners []net.Listener
	conns     map[*relay]struct{}
}

// relay is one connection through the front.
type relay struct {
	client, server net.Conn
	frozen         chan struct{} // closed when nothing is passed on any more
	ended          chan struct{} // closed with both sides
	freeze, end    func()        // close them once
}

func newRelay(client, server net.Conn) *relay {
	r := &relay{client: client, server: server, frozen: make(chan struct{}), ended: make(chan struct{})}
	r.freeze = sync.OnceFunc(func() { close(r.frozen) })
	r.end = sync.OnceFunc(func() { close(r.ended) })
	return r
}

// side is one side of a relay, as it is read from: what comes once the relay is frozen gets lost.
type side struct {
	net.Conn
	relay *relay
}

// Read implements io.Reader.
func (s side) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	select {
	case <-s.relay.frozen:
		<-s.relay.ended
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func newFront(host *lab.Host, to netip.AddrPort, at ...netip.AddrPort) (*Front, error) {
	f := &Front{host: host, at: at, to: to.String(), conns: map[*relay]struct{}{}}
	return f, f.Open()
}

// Shut has the front refuse connections from now on, and resets those that are open.
func (f *Front) Shut() {
	f.mu.Lock()
	for _, l := range f.listeners {
		_ = l.Close()
	}
	f.listeners = nil
	f.mu.Unlock()
	f.Cut()
}

// Open has the front accept connections again after Shut; otherwise it does nothing.
func (f *Front) Open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners != nil {
		return nil
	}
	for _, at := range f.at {
		var l net.Listener
		err := f.host.Do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err })
		if err != nil {
			return fmt.Errorf("front of the API server at %s: %w", at, err)
		}
		f.listeners = append(f.listeners, l)
		go f.accept(l)
	}
	return nil
}

// Cut resets all connections that are open, and returns how many they were. New ones are accepted at once.
func (f *Front) Cut() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.conns)
	for r := range f.conns {
		r.reset()
	}
	clear(f.conns)
	return n
}

// Freeze has the connections that are open carry nothing any more, without a word to either side, as a firewall does that forgot them. It
// returns how many they were. New ones are served.
func (f *Front) Freeze() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.conns {
		r.freeze()
	}
	return len(f.conns)
}

// Connections returns how many connections are open.
func (f *Front) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

func (f *Front) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		go f.serve(l, client)
	}
}

// serve passes bytes on until either side ends. If the API server is down, the client's connection is reset.
func (f *Front) serve(l net.Listener, client net.Conn) {
	server, err := f.host.DialContext(context.Background(), "tcp", f.to)
	r := newRelay(client, server)
	if err != nil || !f.keep(l, r) {
		r.reset()
		return
	}
	defer f.forget(r)
	whole := make(chan bool, 2) // whether one side said all that it had to say, so that the other one may go on
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, err := io.Copy(way[1], side{way[0], r})
			whole <- err == nil && way[1].(*net.TCPConn).CloseWrite() == nil
		}()
	}
	if <-whole {
		<-whole
	}
}

// keep remembers a connection, unless the listener that it came through was closed meanwhile.
func (f *Front) keep(l net.Listener, r *relay) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.listeners, l) {
		return false
	}
	f.conns[r] = struct{}{}
	return true
}

func (f *Front) forget(r *relay) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, r)
	r.reset()
}

// reset ends both sides by a TCP reset.
func (r *relay) reset() {
	r.end()
	for _, c := range []net.Conn{r.client, r.server} {
		if c == nil {
			continue
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}
