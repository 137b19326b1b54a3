package beside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
)

// Side is a lab in which every host but the outside client serves proxytest.EndpointPorts, and whose node runs a proxy.
type Side struct {
	// Name is that of the proxy.
	Name string
	*lab.Lab
	// Process is the proxy that was started last; nil before.
	*plane.Process

	cluster *Cluster
	program string
	relay   net.Listener
}

// NewSide builds a lab from which the control plane is reached by the same addresses as from every other. Packets to addresses of
// Services that the proxy lets pass reach a server lab.Stray, by TCP to strayPorts.
func (c *Cluster) NewSide(name, program string, strayPorts ...uint16) (*Side, error) {
	l, err := lab.New()
	if err != nil {
		return nil, err
	}
	s := &Side{Name: name, Lab: l, cluster: c, program: program}
	c.sides = append(c.sides, s)
	if err := errors.Join(s.reachPlane(), l.Symmetric(), l.CatchStrays(strayPorts...), l.ServeEndpoints()); err != nil {
		return nil, errors.Join(fmt.Errorf("build the lab of %s: %w", name, err), s.Close())
	}
	return s, nil
}

// planeNetworks are those that the control plane's host has in its own lab.
var planeNetworks = []netip.Prefix{netip.MustParsePrefix("192.168.52.0/24"), netip.MustParsePrefix("fd52::/64")}

// planePort is where nodes reach the API server.
const planePort = 6443

// reachPlane attaches a host with the control plane's addresses, which passes connections on to it.
func (s *Side) reachPlane() error {
	host, err := s.Attach("control", planeNetworks...)
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(host.Addrs[0], planePort).String()
	if err := host.Do(func() (err error) { s.relay, err = net.Listen("tcp", at); return err }); err != nil {
		return fmt.Errorf("pass on connections to %s: %w", at, err)
	}
	go func() {
		for {
			conn, err := s.relay.Accept()
			if err != nil {
				return
			}
			go s.pass(conn, at)
		}
	}()
	return nil
}

// pass connects the two until either side ends.
func (s *Side) pass(conn net.Conn, to string) {
	defer conn.Close()
	far, err := s.cluster.Host.DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, far}, {far, conn}} {
		go func() {
			_, _ = io.Copy(way[1], way[0]) // whatever ends one way ends both
			done <- struct{}{}
		}()
	}
	<-done
}

// Start starts the proxy, as the node n1, with further flags.
func (s *Side) Start(args ...string) error {
	return s.StartProgram(s.program, append([]string{"--hostname-override=" + s.Lab.Cluster.Node}, args...)...)
}

// StartProgram is Start for another program, with nothing but the flags given.
func (s *Side) StartProgram(program string, args ...string) (err error) {
	if s.Process != nil && s.Running() {
		return fmt.Errorf("start %s: another proxy is running", program)
	}
	s.cluster.started++
	log := filepath.Join(s.cluster.dir, fmt.Sprintf("%s-%d.log", s.Name, s.cluster.started))
	s.Process, err = plane.Run(s.Node(), log, program, args...)
	return err
}

// End ends the proxy by SIGTERM, whatever its exit status is then.
func (s *Side) End() error {
	if s.Process == nil {
		return errNotStarted
	}
	if s.Running() {
		_ = s.Stop(patience) // kube-proxy does not end well
	}
	return nil
}

// Get asks a server of the proxy from its node.
func (s *Side) Get(url string) (*http.Response, string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: s.Node().DialContext}
	answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, string(body), err
}

// Close ends the proxy and removes the lab. It may be called more than once.
func (s *Side) Close() error {
	if s.Process != nil {
		s.Kill()
	}
	if s.relay != nil {
		_ = s.relay.Close()
	}
	return s.Lab.Close()
}
